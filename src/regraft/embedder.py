"""`ImageEmbedder`: images -> features for scikit-learn; and what all estimators of images share.

They keep scikit-learn's contract: `__init__` stores its arguments and does nothing else (the fields of the
classes are those arguments), `fit` learns, what was learnt ends in an underscore; `clone`, `Pipeline`,
`GridSearchCV` and `cross_val_score` work. X is images, see `data.pictures`. What is frozen is computed once
for all folds and all points of a grid: its results are found by the content of each image.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, replace
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin

from regraft.console import SILENT, TERMINAL, Reporter
from regraft.context import Context, InMemory
from regraft.data.catalog import Catalog
from regraft.data.pictures import expect_all, list_pictures
from regraft.data.spool import Spool
from regraft.embedding import embedding_network, read_vectors
from regraft.prepare import extract
from regraft.recipe import Pooling, PrecisionChoice, Recipe

if TYPE_CHECKING:
    import keras

__all__ = ["ImageEmbedder", "ImageEstimator"]


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
