"""Estimators of images for scikit-learn: `ImageEmbedder`, `ImageClassifier` and `ImageRegressor`.

They keep scikit-learn's contract: `__init__` only stores its arguments, which are the fields of the classes;
attributes learnt by `fit` end in an underscore; `clone`, `Pipeline`, `GridSearchCV` and `cross_val_score`
work. X holds images; see `estimators.inputs`. The features of a frozen backbone are computed once for all
folds and all points of a grid, because the store finds them by the content of each image.

`ImageEmbedder` returns these features. `ImageClassifier` and `ImageRegressor` do what `regraft.train` does.
By default no layer of the backbone is trained: a head is solved, within seconds, on the features of all
images that `fit` receives.
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
from regraft.data.image_writer import ImageWriter
from regraft.data.samples import Target
from regraft.errors import UsageError
from regraft.estimators.inputs import make_catalog, require_all_usable
from regraft.estimators.temporary_run import TemporaryRun
from regraft.pipeline.context import Context, InMemory
from regraft.pipeline.embed import load_embedding_network, read_vectors
from regraft.pipeline.prepare import extract_and_remember
from regraft.pipeline.train import run_stages
from regraft.recipe import ClassWeight, HeadSpec, Phase, Pooling, PrecisionChoice, Recipe, TaskChoice
from regraft.system.console import SILENT, TERMINAL, Reporter
from regraft.tasks import TASKS

if TYPE_CHECKING:
    import keras

__all__ = ["ImageClassifier", "ImageEmbedder", "ImageEstimator", "ImageRegressor"]

Array = NDArray[Any]


@dataclass(eq=False, repr=False)
class ImageEstimator(BaseEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """The arguments that all estimators of images share; `ImageClassifier` documents them."""

    backbone: str = "mobilenet_v2"
    _: KW_ONLY
    weights: str = "imagenet"
    pixels: str = ""
    image_size: int | None = None
    depth: int = 16
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
            depth=self.depth,
            precision=self.precision,
        )

    def _context(self, head: Any = None) -> Context:
        return Context.open(
            self.store,
            reporter=self._reporter,
            in_memory=InMemory(head=head),
            trust=self.trust,
            has_forecast=False,
        )

    def _catalog(self, context: Context, images: Any) -> Catalog:
        catalog = make_catalog(images, ImageWriter(context.store.root / "spool", scale=self.scale))
        return replace(catalog, depth=self.depth)

    @property
    def _reporter(self) -> Reporter:
        return TERMINAL if self.verbose else SILENT


@dataclass(eq=False, repr=False, kw_only=True)
class ImageEmbedder(TransformerMixin, ImageEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Turn images into features of a frozen backbone, for any estimator of scikit-learn.

    Nothing is learnt: `fit` only checks its arguments, and `transform` works without it.

    Args:
        backbone, weights, pixels, image_size, depth, precision, scale, store, trust, verbose: see
            `ImageClassifier`.
        pooling: how the feature map becomes one vector: "avg", "max" or "both".

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
        """Check that X holds images and that the backbone can be loaded; y is ignored.

        Raises:
            DataError, UsageError, EnvironmentFault, ModelRefused: see `transform`.
        """
        self._catalog(self._context(), X)
        self._network()
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """Return the features of images in order, float32 (n, d) with eleven significant bits.

        Raises:
            DataError: X does not hold images, or some of them cannot be used.
            UsageError, EnvironmentFault, ModelRefused: see `load_backbone`.
        """
        context = self._context()
        catalog = self._catalog(context, X)
        features = extract_and_remember(context, self._network(), catalog, replace(self._recipe(), phases=()))
        require_all_usable(features.refused)
        return read_vectors(features, self._network(), catalog)

    def fit_transform(self, X: Any, y: Any = None) -> NDArray[np.float32]:
        """Return `transform(X)`, which checks everything that `fit` checks."""
        return self.transform(X)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:
        """Return the names of the features: "imageembedder0", "imageembedder1", ..."""
        count = self._network().outputs[-1].shape[1]
        return np.array([f"{type(self).__name__.lower()}{number}" for number in range(count)], dtype=object)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _network(self) -> keras.Model:
        recipe = self._recipe()
        head = replace(recipe.head, pooling=self.pooling, taps="last")
        return load_embedding_network(replace(recipe, head=head), trust=self.trust, reporter=self._reporter)


@dataclass(eq=False, repr=False, kw_only=True)
class _HeadEstimator(ImageEstimator):
    """A head on a backbone, fitted by a run in a folder that lives as long as the estimator.

    Attributes:
        run_: the run; `run_.path` is its folder, which holds report.html.
    """

    unfreeze: str | Sequence[Phase] = "none"
    head: Any = "auto"
    budget: float | None = None
    validation: float | None = None
    random_state: Any = 0

    @property
    def model_(self) -> keras.Model:
        """The trained network, an ordinary `keras.Model` from RGB 0..255 to answers; see `regraft.tasks`."""
        check_is_fitted(self)
        return self.run_.bundle.model

    def _fit(
        self, X: Any, task: TaskChoice, targets: Sequence[Target], outputs: Iterable[Any], sample_weight: Any
    ) -> None:
        head = None if isinstance(self.head, str | HeadSpec) else _clone_head(self.head)
        recipe = replace(self._recipe(), task=task)
        run = TemporaryRun()
        context = self._context(head=head)
        catalog = self._catalog(context, X)
        rows = zip(catalog.samples, targets, _check_weights(sample_weight, len(targets)), strict=True)
        samples = tuple(replace(sample, target=t, weight=weight) for sample, t, weight in rows)
        names = tuple(str(name) for name in outputs)
        catalog = replace(catalog, outputs=names, samples=samples, task=task)
        run.write(run_stages(context, catalog, recipe), context.reporter)
        self.run_ = run

    def _recipe(self) -> Recipe:
        recipe = super()._recipe()
        if isinstance(self.unfreeze, str):
            phases: tuple[Phase, ...] = () if self.unfreeze == "none" else (Phase(self.unfreeze),)
        else:
            phases = tuple(self.unfreeze)
        # A grid search predicts from stored features, which are those of the last layer.
        spec = self.head if isinstance(self.head, HeadSpec) else HeadSpec(taps="last")
        if isinstance(self.head, str):
            spec = HeadSpec(solver=self.head, taps="last")  # type: ignore[arg-type] # checked by HeadSpec
        trains = phases or spec.solver == "gradient" or not spec.linear or _is_layer(self.head)
        share = (recipe.validation if trains else 0.0) if self.validation is None else self.validation
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        return replace(
            recipe,
            phases=phases,
            head=spec,
            budget=None if self.budget is None else float(self.budget),
            validation=float(share),
            seed=int(seed),
        )

    def _predict(self, X: Any) -> Array:
        """Return the model's answers in the order of `run_.bundle.outputs`, float64 (n, units)."""
        check_is_fitted(self)
        context = self._context()
        return self.run_.predict(context, self._catalog(context, X)).astype(np.float64)


@dataclass(eq=False, repr=False, kw_only=True)
class ImageClassifier(ClassifierMixin, _HeadEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Classify images into one class, or give them several labels.

    Pickling keeps the run's files, including the `.keras` file, and no Keras object.

    Args:
        backbone: a name of `regraft backbones`, a `.keras` file, the folder or handle of a SavedModel, or a
            preset.
        weights: "imagenet", a weights file, or "random".
        pixels: the pixel contract of your own backbone, see `load_backbone`; "" for plain RGB 0..255.
        image_size: the side of the backbone's square input in pixels; None for its own.
        depth: how many bits of 16-bit files are used, 8 to 16.
        precision: the precision of the backbone: "f32", "bf16", or "auto" for bf16 if it is faster and
            does no harm to the answers.
        scale: the factor that brings pixels of arrays to 0..255, such as 255 for pixels in 0..1.
        store: the folder of computed features; None for the user's cache.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        verbose: show progress and notes.
        unfreeze: "none" to fit a head on frozen features, a plan such as "last:20" or "auto" for one phase of
            fine-tuning, or a sequence of `Phase`.
        head: a solver of `HeadSpec`, a `HeadSpec`, a scikit-learn estimator for the features, or a Keras
            layer or model, a new copy of which is trained.
        budget: the seconds that fine-tuning may take; None for the default of `Recipe`.
        validation: the share of images held out to decide when training stops; None for 0.2 if anything is
            trained by gradient descent, and for 0 if the head is solved.
        random_state: the seed of everything random; an int, a `RandomState`, or None.
        class_weight: "balanced" gives every class, or the presence and absence of every label, equal weight.

    Attributes:
        classes_: the classes, sorted; the numbers of the labels, if there are several per image.
        model_: the trained `keras.Model`.
        run_: the run; `run_.path / "report.html"` is its report, for as long as this estimator lives.

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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ImageClassifier:
        """Fit the head, and fine-tune the backbone if `unfreeze` says so.

        Args:
            X: n images: an array in 0..255, or a list of arrays, Pillow images or paths.
            y: classes of any sortable type, (n,); or labels as 0 and 1, (n, labels).
            sample_weight: how much each image counts, (n,), from 0; None for all alike.

        Raises:
            DataError: X does not hold images, or some of them cannot be used.
            UsageError, EnvironmentFault, ModelRefused: see `regraft.train`.
        """
        y = _check_targets(self, X, y)
        check_classification_targets(y)
        if type_of_target(y) == "multilabel-indicator":
            classes = np.arange(y.shape[1])
            rows: list[Target] = [tuple(np.flatnonzero(row).tolist()) for row in y]
            self._fit(X, "multilabel", rows, classes, sample_weight)
        else:
            classes, numbers = np.unique(column_or_1d(y, warn=True), return_inverse=True)
            if len(classes) < 2:
                raise UsageError(f"Expected at least 2 classes. Received: 1 class, {classes[0]}.")
            task: TaskChoice = "binary" if len(classes) == 2 else "multiclass"
            self._fit(X, task, numbers.tolist(), classes, sample_weight)
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> Array:
        """Return probabilities, float64 (n, classes). Those of classes sum to 1, those of labels do not."""
        answers, bundle = self._predict(X), self.run_.bundle
        if bundle.task == "binary":
            return TASKS["binary"].expand_binary(answers)
        if bundle.task == "multiclass":
            return np.asarray(answers / answers.sum(axis=1, keepdims=True))
        probabilities = np.zeros((len(answers), len(self.classes_)))  # 0 for labels that never occurred
        probabilities[:, [int(name) for name in bundle.outputs]] = answers
        return probabilities

    def predict(self, X: Any) -> Array:
        """Return classes as in y, (n,); or labels as 0 and 1, (n, labels)."""
        probabilities = self.predict_proba(X)
        if self.run_.bundle.task != "multilabel":
            return np.asarray(self.classes_[probabilities.argmax(axis=1)])
        limits = [self.run_.bundle.thresholds.get(str(label), 0.5) for label in self.classes_]
        return (probabilities >= np.array(limits)).astype(int)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


@dataclass(eq=False, repr=False, kw_only=True)
class ImageRegressor(RegressorMixin, _HeadEstimator):  # type: ignore[misc] # scikit-learn is untyped
    """Predict one or several numbers from images.

    Args:
        backbone, weights, pixels, image_size, depth, precision, scale, store, trust, verbose: see
            `ImageClassifier`.
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

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> ImageRegressor:
        """Fit the head, and fine-tune the backbone if `unfreeze` says so.

        Args:
            X: n images: an array in 0..255, or a list of arrays, Pillow images or paths.
            y: numbers, (n,) or (n, targets).
            sample_weight: see `ImageClassifier.fit`.

        Raises:
            DataError, UsageError, EnvironmentFault, ModelRefused: see `ImageClassifier.fit`.
        """
        y = np.asarray(_check_targets(self, X, y), np.float64)
        if len(y) < 2:
            raise UsageError("Expected at least 2 images to learn from. Received: 1 sample.")
        table = y.reshape(len(y), -1)
        rows: list[Target] = [tuple(row) for row in table.tolist()]
        names = [f"target {column}" for column in range(table.shape[1])] if y.ndim > 1 else ["target"]
        self._fit(X, "regression", rows, names, sample_weight)
        self._shape = y.shape[1:]
        return self

    def predict(self, X: Any) -> Array:
        """Return numbers, float64, in the shape of y: (n,) or (n, targets)."""
        answers = self._predict(X)
        return answers.reshape(len(answers), *self._shape)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


def _check_targets(estimator: Any, X: Any, y: Any) -> Array:
    """Return y as an array; raise scikit-learn's errors if values are missing or lengths differ."""
    if y is None:
        name = type(estimator).__name__
        raise UsageError(
            f"{name} requires y to be passed, but the target y is None. Pass one target per image."
        )
    targets: Array = check_array(y, ensure_2d=False, dtype=None, input_name="y", estimator=estimator)
    check_consistent_length(X, targets)
    return targets


def _check_weights(sample_weight: Any, n: int) -> list[float]:
    """Return a weight for each of n images."""
    if sample_weight is None:
        return [1.0] * n
    weights: Array = check_array(
        sample_weight, ensure_2d=False, dtype=np.float64, ensure_non_negative=True, input_name="sample_weight"
    )
    if weights.shape != (n,):
        raise UsageError(
            f"sample_weight: expected {n} numbers, one per image. Received: shape {weights.shape}."
        )
    return [float(weight) for weight in weights]


def _is_layer(head: Any) -> bool:
    return hasattr(head, "compute_output_shape")


def _clone_head(head: Any) -> Any:
    """Return an unfitted copy of the user's head: scikit-learn's estimators never change their arguments."""
    if hasattr(head, "get_params"):
        return clone(head)
    if _is_layer(head):
        return type(head).from_config(head.get_config())
    raise UsageError(
        f"head: expected a solver's name, a HeadSpec, or an estimator of scikit-learn. Received: {head!r}."
    )
