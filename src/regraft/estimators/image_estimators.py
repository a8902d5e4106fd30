"""`ImageEmbedder`: images -> features for scikit-learn; and what all estimators of images share.

They keep scikit-learn's contract: `__init__` stores its arguments and does nothing else (the fields of the
classes are those arguments), `fit` learns, what was learnt ends in an underscore; `clone`, `Pipeline`,
`GridSearchCV` and `cross_val_score` work. X is images, see `data.pictures`. What is frozen is computed once
for all folds and all points of a grid: its results are found by the content of each image.

`ImageClassifier` and `ImageRegressor` for scikit-learn: what `regraft.train` does, behind fit and predict.

By default nothing of the backbone is trained: a head is solved on its frozen features, in seconds, on all
that `fit` is given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin, clone
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted

from regraft.data.catalog import Catalog
from regraft.data.image_writer import Spool
from regraft.data.samples import Target
from regraft.errors import UsageError
from regraft.estimators.inputs import expect_all, list_pictures
from regraft.estimators.temporary_run import HeldRun
from regraft.pipeline.context import Context, InMemory
from regraft.pipeline.embed import embedding_network, read_vectors
from regraft.pipeline.prepare import extract
from regraft.pipeline.train import run_stages
from regraft.recipe import ClassWeight, HeadSpec, Phase, Pooling, PrecisionChoice, Recipe, TaskChoice
from regraft.system.console import SILENT, TERMINAL, Reporter
from regraft.tasks import TASKS

if TYPE_CHECKING:
    import keras

__all__ = ["ImageClassifier", "ImageEmbedder", "ImageEstimator", "ImageRegressor"]


@dataclass(eq=False, repr=False)
class ImageEstimator(BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """What every estimator of images is told of its backbone and of its pixels.

    Args:
        backbone: a name of `regraft backbones`, a `.keras` file, a SavedModel's folder or handle, a preset.
        weights: "imagenet", a weights file, or "random".
        pixels: what the user's own backbone expects, see `backbone.pixels`; "" for plain RGB 0..255.
        image_size: side of the square the backbone sees, in pixels; None for its own.
        precision: what the backbone computes in: "auto" for bf16 where that is faster and harms no answer,
            "f32" or "bf16".
        scale: what pixels in arrays are multiplied by to lie in 0..255, such as 255 for those in 0..1.
        store: folder of computed features; None for the user's cache.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        verbose: show what is done and how far it is.
    """

    backbone: str = "mobilenet_v2"
    _: KW_ONLY
    weights: str = "imagenet"
    pixels: str = ""
    image_size: int | None = None
    precision: PrecisionChoice = "auto"
    scale: float = 1.0
    store: str | PathLike[str] | None = None
    trust: bool = False
    verbose: bool = False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def _recipe(self) -> Recipe:
        return Recipe(
            backbone=fspath(self.backbone),
            weights=fspath(self.weights),
            pixels=self.pixels,
            image_size=self.image_size,
            precision=self.precision,
        )

    def _context(self, head: Any = None) -> Context:
        return Context.open(
            self.store, reporter=self._reporter, in_memory=InMemory(head=head), trust=self.trust
        )

    def _catalog(self, context: Context, images: Any) -> Catalog:
        return list_pictures(images, Spool(context.store.root / "spool", scale=self.scale))

    @property
    def _reporter(self) -> Reporter:
        return TERMINAL if self.verbose else SILENT


@dataclass(eq=False, repr=False, kw_only=True)
class ImageEmbedder(TransformerMixin, ImageEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Images -> features of a frozen backbone, for any estimator of scikit-learn.

    Args:
        backbone, weights, pixels, image_size, precision, scale, store, trust, verbose: see `ImageEstimator`.
        pooling: "avg", "max" or "both", of the feature map to one vector.

    Nothing is learnt: `fit` only checks, and `transform` needs no `fit`.

    Example:
        model = make_pipeline(ImageEmbedder("resnet50"), StandardScaler(), SVC())
        cross_val_score(model, paths, labels)           # the backbone sees each image once

        >>> import tempfile
        >>> embedder = ImageEmbedder("vgg16", weights="random", image_size=32, store=tempfile.mkdtemp())
        >>> embedder.transform(np.zeros((2, 40, 40, 3), np.uint8)).shape
        (2, 512)
    """

    pooling: Pooling = "avg"

    def fit(self, X: Any, y: Any = None) -> ImageEmbedder:
        """Check that these are images and that there is such a backbone; y is ignored.

        Raises:
            DataError, UsageError, EnvironmentFault, ModelRefused: see `transform`.
        """
        self._catalog(self._context(), X)
        self._network()
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """The features of images, float32 (n, d) with eleven significant bits, row by row.

        Raises:
            DataError: X is no images, or some of them cannot be used.
            UsageError, EnvironmentFault, ModelRefused: see `load_backbone`.
        """
        context = self._context()
        catalog = self._catalog(context, X)
        features = extract(context, self._network(), catalog, replace(self._recipe(), phases=()))
        expect_all(features.refused)
        return read_vectors(features, catalog)

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:
        """The same as `transform`, which checks all that `fit` checks."""
        return self.transform(X)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Names of the features: "imageembedder0", "imageembedder1", ..."""
        count = self._network().outputs[0].shape[1]
        return np.array([f"{type(self).__name__.lower()}{number}" for number in range(count)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _network(self) -> keras.Model:
        recipe = self._recipe()
        head = replace(recipe.head, pooling=self.pooling)
        return embedding_network(replace(recipe, head=head), trust=self.trust, reporter=self._reporter)


Array = NDArray[Any]


@dataclass(eq=False, repr=False, kw_only=True)
class _HeadEstimator(ImageEstimator):
    """A head on a backbone, found by `regraft.train` in a folder that lives as long as the estimator.

    Attributes:
        run_: the run; `run_.path` is its folder, with report.html, for as long as this estimator lives.
    """

    unfreeze: str | Sequence[Phase] = "none"
    head: Any = "auto"
    budget: float = 900.0
    validation: float | None = None
    random_state: Any = 0

    @property
    def model_(self) -> keras.Model:
        """The trained network, an ordinary `keras.Model`: RGB 0..255 in, answers as in `regraft.tasks`."""
        check_is_fitted(self)
        return self.run_.bundle.model

    def _fit(self, X: Any, task: TaskChoice, targets: Sequence[Target], outputs: Iterable[Any]) -> None:
        own = None if isinstance(self.head, str | HeadSpec) else _fresh(self.head)
        recipe = replace(self._recipe(), task=task)
        run = HeldRun()
        context = self._context(head=own)
        listed = self._catalog(context, X)
        samples = tuple(replace(s, target=t) for s, t in zip(listed.samples, targets, strict=True))
        names = tuple(str(name) for name in outputs)
        catalog = replace(listed, outputs=names, samples=samples, task=task)
        run.write(run_stages(context, catalog, recipe), context.reporter)
        self.run_ = run

    def _recipe(self) -> Recipe:
        recipe = super()._recipe()
        if isinstance(self.unfreeze, str):
            phases: tuple[Phase, ...] = () if self.unfreeze == "none" else (Phase(self.unfreeze),)
        else:
            phases = tuple(self.unfreeze)
        spec = self.head if isinstance(self.head, HeadSpec) else HeadSpec()
        if isinstance(self.head, str):
            spec = HeadSpec(solver=self.head)  # type: ignore[arg-type] # checked by HeadSpec
        trains = phases or spec.solver == "gradient" or not spec.linear or _is_layer(self.head)
        share = (recipe.validation if trains else 0.0) if self.validation is None else self.validation
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        return replace(
            recipe,
            phases=phases,
            head=spec,
            budget=float(self.budget),
            validation=float(share),
            seed=int(seed),
        )

    def _answers(self, X: Any) -> Array:
        """Answers of the model in the order of `run_.bundle.outputs`, float64 (n, units)."""
        check_is_fitted(self)
        context = self._context()
        return self.run_.answers(context, self._catalog(context, X)).astype(np.float64)


@dataclass(eq=False, repr=False, kw_only=True)
class ImageClassifier(ClassifierMixin, _HeadEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Images -> classes, or several labels each.

    Args:
        backbone, weights, pixels, image_size, scale, store, trust, verbose: see `ImageEstimator`.
        unfreeze: "none" (the head is found on frozen features), a plan such as "last:20" or "auto" for one
            phase of fine-tuning, or a sequence of `Phase`.
        head: a solver of `HeadSpec`, a whole `HeadSpec`, an estimator of scikit-learn for the features, or a
            Keras layer or model, of which a fresh copy is trained.
        budget: seconds that fine-tuning may take.
        validation: share of the images held out to tell when training must stop; None for 0.2 where
            something trains by gradient, and for nothing where the head is solved.
        random_state: seed of everything random; an int, a `RandomState`, or None.
        class_weight: "balanced" makes every class, or yes and no of every label, count alike.

    Attributes:
        classes_: the classes, sorted; for several labels their numbers.
        model_: the trained `keras.Model`.
        run_: the run; `run_.path / "report.html"` is its report, for as long as this estimator lives.

    Pickling keeps the run's files, among them the `.keras` file, and no Keras object.

    Example:
        scores = cross_val_score(ImageClassifier("resnet50"), paths, labels)
        grid = GridSearchCV(ImageClassifier(), {"head": ["logistic", "svm"], "image_size": [96, 160]})

        >>> import tempfile
        >>> images = np.random.default_rng(0).integers(0, 100, (16, 32, 32, 3)).astype(np.uint8)
        >>> images[1::2] += 150
        >>> model = ImageClassifier("vgg16", weights="random", image_size=32, store=tempfile.mkdtemp())
        >>> model.fit(images, ["dark", "light"] * 8).predict(images[:2]).tolist()
        ['dark', 'light']
    """

    class_weight: ClassWeight | None = None

    def _recipe(self) -> Recipe:
        return replace(super()._recipe(), class_weight=self.class_weight or "none")

    def fit(self, X: Any, y: Any) -> ImageClassifier:
        """Find the head, and fine-tune where asked for.

        Args:
            X: n images, see `data.pictures`.
            y: (n,) classes of any kind that can be sorted; or (n, labels) of 0 and 1.

        Raises:
            DataError: X is no images, or some cannot be used.
            UsageError, EnvironmentFault, ModelRefused: see `regraft.train`.
        """
        y = _checked(self, X, y)
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            classes = np.arange(y.shape[1])
            rows: list[Target] = [tuple(np.flatnonzero(row).tolist()) for row in y]
            self._fit(X, "multilabel", rows, classes)
        else:
            classes, numbers = np.unique(column_or_1d(y, warn=True), return_inverse=True)
            if len(classes) < 2:
                raise UsageError(f"Expected at least 2 classes. Received: 1 class, {classes[0]}.")
            self._fit(X, "binary" if len(classes) == 2 else "multiclass", numbers.tolist(), classes)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> Array:
        """Probabilities, float64 (n, classes): of a row they sum to 1; of labels, each stands by itself."""
        answers, bundle = self._answers(X), self.run_.bundle
        if bundle.task == "binary":
            return TASKS["binary"].complete(answers)
        if bundle.task == "multiclass":
            return np.asarray(answers / answers.sum(axis=1, keepdims=True))
        found = np.zeros((len(answers), len(self.classes_)))  # a label that nobody had was not learnt
        found[:, [int(name) for name in bundle.outputs]] = answers
        return found

    def predict(self, X: Any) -> Array:
        """Classes, (n,), as in y; or (n, labels) of 0 and 1."""
        found = self.predict_proba(X)
        if self.run_.bundle.task != "multilabel":
            return np.asarray(self.classes_[found.argmax(axis=1)])
        limits = [self.run_.bundle.thresholds.get(str(label), 0.5) for label in self.classes_]
        return (found >= np.array(limits)).astype(int)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class ImageRegressor(RegressorMixin, _HeadEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Images -> numbers.

    Args:
        backbone, weights, pixels, image_size, scale, store, trust, verbose: see `ImageEstimator`.
        unfreeze, head, budget, validation, random_state: see `ImageClassifier`.

    Attributes:
        model_, run_: see `ImageClassifier`.

    Example:
        >>> import tempfile
        >>> light = np.linspace(0, 200, 20)
        >>> images = np.tile(light[:, None, None, None], (1, 32, 32, 3))
        >>> model = ImageRegressor("vgg16", weights="random", image_size=32, store=tempfile.mkdtemp())
        >>> model.fit(images, light).predict(images).shape
        (20,)
    """

    def fit(self, X: Any, y: Any) -> ImageRegressor:
        """Find the head, and fine-tune where asked for.

        Args:
            X: n images, see `data.pictures`.
            y: (n,) or (n, targets) numbers.

        Raises:
            DataError, UsageError, EnvironmentFault, ModelRefused: see `ImageClassifier.fit`.
        """
        y = np.asarray(_checked(self, X, y), np.float64)
        if len(y) < 2:
            raise UsageError("Expected at least 2 images to learn from. Received: 1 sample.")
        table = y.reshape(len(y), -1)
        rows: list[Target] = [tuple(row) for row in table.tolist()]
        names = [f"target {place}" for place in range(table.shape[1])] if y.ndim > 1 else ["target"]
        self._fit(X, "regression", rows, names)
        self._shape = y.shape[1:]
        return self

    def predict(self, X: Any) -> Array:
        """Numbers, float64, of the shape of y: (n,) or (n, targets)."""
        answers = self._answers(X)
        return answers.reshape(len(answers), *self._shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _checked(estimator: Any, X: Any, y: Any) -> Array:
    """Targets as an array, as many as images, none missing; in scikit-learn's words where they are not."""
    if y is None:
        name = type(estimator).__name__
        raise UsageError(
            f"{name} requires y to be passed, but the target y is None. Give it one target an image."
        )
    found: Array = check_array(y, ensure_2d=False, dtype=None, input_name="y", estimator=estimator)
    check_consistent_length(X, found)
    return found


def _is_layer(head: Any) -> bool:
    return hasattr(head, "compute_output_shape")


def _fresh(head: Any) -> Any:
    """A head of the user's own, unfitted: what is handed to an estimator is never changed by it."""
    if hasattr(head, "get_params"):
        return clone(head)
    if _is_layer(head):
        return type(head).from_config(head.get_config())
    raise UsageError(
        f"head: expected a solver's name, a HeadSpec, or an estimator of scikit-learn. Received: {head!r}."
    )
