"""Training data: the parts of a catalog as batches of stored features or of pixels.

To augment every epoch of a head on frozen features, the backbone would have to run in every epoch. Instead
the head sees a few views of each image, which are computed once and stored like any feature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.augmentation import View, augment_batch, resolve_augment
from regraft.data.batches import Batch, Batches, add_noise
from regraft.data.catalog import Catalog, Sample
from regraft.data.learnable import check_weights
from regraft.features.extract import Features, extract_features
from regraft.features.store import Store, pixel_key
from regraft.recipe import Phase, Recipe
from regraft.system.console import Reporter, format_duration
from regraft.tasks import TASKS, Task

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone

__all__ = [
    "PhaseData",
    "StoredFeatures",
    "TrainingData",
    "compute_target_scale",
    "extract_views",
    "merge_validation",
]

CHUNK = 1024  # samples whose features are pooled at a time
IN_MEMORY = 256 * 2**20  # bytes of features that are read once and stay in memory, at most

Inputs = tuple[NDArray[Any], ...]
Pair = tuple[Sample, int]  # a sample and the number of a view


@dataclass(frozen=True)
class StoredFeatures:
    """What a frozen network computed for images, in one view or several.

    Attributes:
        views: the features of each view; the first is the images as they are.
        names: the tensors in them, in the order in which the next layers take them.
    """

    views: tuple[Features, ...]
    names: tuple[str, ...]

    def read(self, samples: Sequence[Sample], view: int = 0) -> Inputs:
        """Return the tensors of samples, each (n, ...)."""
        return tuple(self.views[view].matrix(samples, name) for name in self.names)

    def make_reader(self, pairs: list[Pair]) -> Callable[[list[Pair]], Inputs]:
        """Return a function that reads any of these pairs; it reads from memory if all of them fit."""
        size = sum(array.nbytes for array in self.read([pairs[0][0]])) if pairs else 0
        return self._read_pairs if size * len(pairs) > IN_MEMORY else self._make_memory_reader(pairs)

    def _make_memory_reader(self, pairs: list[Pair]) -> Callable[[list[Pair]], Inputs]:
        arrays = self._read_pairs(pairs) if pairs else ()
        row = {(sample.path, view): number for number, (sample, view) in enumerate(pairs)}

        def read(batch: list[Pair]) -> Inputs:
            rows = [row[sample.path, view] for sample, view in batch]
            return tuple(array[rows] for array in arrays)

        return read

    def _read_pairs(self, pairs: list[Pair]) -> Inputs:
        """Return the tensors of pairs, in their order; they are read view by view."""
        rows = {view: [n for n, (_, other) in enumerate(pairs) if other == view] for _, view in pairs}
        tensors = [self.read([pairs[n][0] for n in numbers], view) for view, numbers in rows.items()]
        order = np.argsort(np.concatenate([np.array(numbers) for numbers in rows.values()]))
        return tuple(np.concatenate(arrays)[order] for arrays in zip(*tensors, strict=True))


@dataclass(frozen=True)
class TrainingData:
    """A catalog that is split into parts, and what was computed of its images.

    Attributes:
        recipe, catalog, backbone, store: of the run.
        views: the features of each view of the images; the first is the images as they are.
        names: the tensors in them that the head takes, in order.
        groups: the number of each sample's group, (n,): copies of an image are in one group, and
            cross-validation never separates them. None if there are no copies.
        target_scale: standard deviation and mean that numbers are standardised by; None for those of the
            training part.
    """

    recipe: Recipe
    catalog: Catalog
    backbone: Backbone
    store: Store
    views: tuple[Features, ...]
    names: tuple[str, ...]
    groups: NDArray[np.int64] | None = None
    target_scale: tuple[list[float], list[float]] | None = None

    @property
    def task(self) -> Task:
        """The task, which defines loss and score."""
        return TASKS[self.catalog.task]

    @cached_property
    def weights(self) -> NDArray[np.float32] | None:
        """How much each training sample, or each answer of it, counts, (n, 1) or (n, units); None: alike.

        The mean of a column is 1. Weights of images and of classes are multiplied.

        Raises:
            DataError: all training images have the weight 0.
        """
        check_weights([sample.weight for sample in self.catalog.part("train")])
        return self.weigh("train")

    def weigh(self, part: str) -> NDArray[np.float32] | None:
        """Return the weights of a part's samples; those of validation count where answers are calibrated.

        Shape (n, 1) or (n, units); None: all alike.
        """
        own = self._list_own_weights(part)
        if self.recipe.class_weight == "none":
            return None if own is None else own.astype(np.float32)
        targets = self.encode_targets(part)
        if own is None:
            return self.task.compute_balanced_weights(targets)
        product = own * self.task.compute_balanced_weights(targets, own)
        weights: NDArray[np.float32] = (product / product.mean(0)).astype(np.float32)
        return weights

    def _list_own_weights(self, part: str) -> NDArray[np.float64] | None:
        """Return the weights of a part's images, (n, 1), of mean 1; None if they are alike, or all 0."""
        weights = [sample.weight for sample in self.catalog.part(part)]
        if len(set(weights)) < 2:
            return None
        column: NDArray[np.float64] = np.array(weights)[:, None] / np.mean(weights)
        return column

    @cached_property
    def spread(self) -> NDArray[np.float64]:
        """Standard deviation of each regression target in training; 1 for constants and for other tasks."""
        return self._scale[0]

    @cached_property
    def _scale(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Standard deviation and mean of the training targets; 1 and 0 for other tasks than regression."""
        scale, offset = self.target_scale or compute_target_scale(self.catalog) or (1.0, 0.0)
        return np.asarray(scale), np.asarray(offset)

    @property
    def features(self) -> StoredFeatures:
        """The features of every view that the head takes."""
        return StoredFeatures(self.views, self.names)

    def list_groups(self, *parts: str) -> NDArray[np.int64]:
        """Return the group of each sample of the parts, (n,), in the order of the catalog."""
        samples = self.catalog.samples
        groups = np.arange(len(samples)) if self.groups is None else self.groups
        return groups[[sample.part in parts for sample in samples]]

    def merge_validation(self) -> TrainingData:
        """Return the same data with the validation samples in the training part; their order stays.

        Numbers are standardised as before: the model's last layer turns them back into their units.
        """
        scale = self.target_scale or compute_target_scale(self.catalog)
        return replace(self, catalog=merge_validation(self.catalog), target_scale=scale)

    def read_pooled_features(self, samples: Sequence[Sample]) -> NDArray[np.float32]:
        """Return the pooled output of the frozen backbone for samples, (n, d)."""
        starts = range(0, len(samples), CHUNK)  # feature maps of all samples may not fit into memory
        chunks = (self.read_inputs(samples[start : start + CHUNK])[-1] for start in starts)
        return np.concatenate([_pool(chunk, self.recipe.head.pooling) for chunk in chunks])

    def encode_targets(self, part: str) -> NDArray[np.floating[Any]]:
        """Return the targets of a part in the shape of answers, (n, units)."""
        return self.task.encode(self.catalog.targets(self.catalog.part(part)), len(self.catalog.outputs))

    def standardise_targets(self, part: str) -> NDArray[np.float32]:
        """Return the targets of a part as networks train on them: numbers by their mean and spread."""
        scale, offset = self._scale
        return ((self.encode_targets(part) - offset) / scale).astype(np.float32)

    def read_inputs(self, samples: Sequence[Sample], view: int = 0) -> Inputs:
        """Return the tensors of samples that a head takes, each (n, ...)."""
        return self.features.read(samples, view)

    def make_feature_data(self, phase: Phase) -> PhaseData:
        """Return batches of stored features; an epoch is every view of every training sample."""
        count = len(self.views)
        pairs = [(sample, view) for view in range(count) for sample in self.catalog.part("train")]
        train = Batches(
            pairs,
            np.tile(self.standardise_targets("train"), (count, 1)),
            self.features.make_reader(pairs),
            weights=None if self.weights is None else np.tile(self.weights, (count, 1)),
            batch_size=phase.batch_size,
            augment=self._noise,
            seed=self.recipe.seed,
        )
        return PhaseData(self.task, train, self._make_validation(self.features, phase))

    def make_boundary_data(self, phase: Phase, features: StoredFeatures) -> PhaseData:
        """Return batches of stored activations; an epoch takes every sample once, in a random view."""
        samples, count = self.catalog.part("train"), len(features.views)

        def draw(pairs: list[Pair], key: list[int]) -> list[Pair]:
            views = np.random.default_rng(key).integers(count, size=len(pairs))
            return [(sample, int(view)) for (sample, _), view in zip(pairs, views, strict=True)]

        train = Batches(
            [(sample, 0) for sample in samples],
            self.standardise_targets("train"),
            features.make_reader([(sample, view) for view in range(count) for sample in samples]),
            weights=self.weights,
            batch_size=phase.batch_size,
            draw=draw,
            augment=self._noise,
            seed=self.recipe.seed,
        )
        return PhaseData(self.task, train, self._make_validation(features, phase))

    def make_pixel_data(self, phase: Phase) -> PhaseData:
        """Return batches of decoded pixels; those of training are augmented."""
        pixels = self.store.entries(pixel_key(self.backbone.image_size, self.catalog.depth))

        def read(samples: list[Sample]) -> Inputs:
            return (pixels.read([sample.digest for sample in samples], "pixels"),)

        names = resolve_augment(self.recipe.augment, self.task.name)
        train, validation = (
            Batches(
                self.catalog.part(part),
                self.standardise_targets(part),
                read,
                weights=self.weigh(part),
                batch_size=phase.batch_size,
                augment=lambda batch, key: augment_batch(batch, names, key),
                seed=self.recipe.seed,
            )
            for part in ("train", "validation")
        )
        return PhaseData(self.task, train, validation)

    @property
    def _noise(self) -> Callable[[Batch, list[int]], Batch] | None:
        """The function that adds noise to a batch of stored features, if the recipe asks for it."""
        deviation = self.recipe.feature_noise
        return (lambda batch, key: add_noise(batch, deviation, key)) if deviation else None

    def _make_validation(self, features: StoredFeatures, phase: Phase) -> Batches[Pair]:
        """Return batches of the validation samples as they are."""
        pairs = [(sample, 0) for sample in self.catalog.part("validation")]
        reader = features.make_reader(pairs)
        targets, weights = self.standardise_targets("validation"), self.weigh("validation")
        return Batches(pairs, targets, reader, weights=weights, batch_size=phase.batch_size)


def merge_validation(catalog: Catalog) -> Catalog:
    """Return a catalog with its validation samples in the training part, in the same order."""
    samples = (replace(s, part="train") if s.part == "validation" else s for s in catalog.samples)
    return replace(catalog, samples=tuple(samples))


def _pool(features: NDArray[np.float32], pooling: str) -> NDArray[np.float32]:
    """Pool feature maps (n, ..., d) to vectors, as `models.attention.pool` does; vectors stay as they are."""
    if features.ndim == 2:
        return features
    positions = features.reshape(len(features), -1, features.shape[-1])
    mean: NDArray[np.float32] = positions.mean(1, dtype=np.float32)
    maximum: NDArray[np.float32] = positions.max(1)
    if pooling == "both":
        return np.concatenate([mean, maximum], 1)
    return maximum if pooling == "max" else mean


@dataclass(frozen=True)
class PhaseData:
    """What a phase trains on and is evaluated on.

    Attributes:
        task: defines loss and score.
        train, validation: batches of what the network takes: stored features, or pixels; the targets of a
            regression are standardised.
    """

    task: Task
    train: Batches[Any]
    validation: Batches[Any]


def extract_views(
    network: keras.Model,
    catalog: Catalog,
    *,
    recipe: Recipe,
    count: int,
    first: Features,
    store: Store,
    reporter: Reporter,
) -> tuple[Features, ...]:
    """Compute the features of the training images in further views.

    Args:
        network: as in `extract_features`.
        catalog: the images of all parts.
        recipe: says how images are augmented.
        count: views of an image, including the image as it is.
        first: features of the same network, for the images as they are.
        store: where pixels are read from, if it has them, and where results are written.
        reporter: gets progress and messages.

    Returns:
        `first` and the features of each further view, in order.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    if count == 1:
        return (first,)
    train = replace(catalog, samples=catalog.part("train"))
    names = resolve_augment(recipe.augment, catalog.task)
    views = [View(number, names, recipe.seed) for number in range(1, count)]
    keys = [first.key.removesuffix(View().key) + view.key for view in views]
    missing = sum(len(store.entries(key).find_missing(train.digests)) for key in keys)
    if missing:
        seconds = format_duration(missing * first.seconds_per_image)
        reporter.info(f"{count} views: about {seconds} once; in training they are only read.")
    further = [
        extract_features(
            network,
            train,
            store=store,
            keep_pixels=True,
            view=view,
            precision=first.precision,
            reporter=reporter,
        )
        for view in views
    ]
    return (first, *further)


def compute_target_scale(catalog: Catalog) -> tuple[list[float], list[float]] | None:
    """Return standard deviation (1 instead of 0) and mean of training targets; None unless regression."""
    if catalog.task != "regression":
        return None
    targets = catalog.targets([sample for sample in catalog.samples if sample.part in ("", "train")])
    deviation = targets.std(0)
    return np.where(deviation > 0, deviation, 1.0).tolist(), targets.mean(0).tolist()
