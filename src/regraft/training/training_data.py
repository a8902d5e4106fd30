"""What head and phases learn from: the parts of a catalog as batches of stored features, or of pixels.

A head on frozen features cannot have every epoch augmented anew without running the backbone every epoch. It
can have a few views of each image, computed once and stored like any feature; their cost is said beforehand.
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
from regraft.features.extract import Features, extract_features
from regraft.features.store import Store, pixel_key
from regraft.recipe import Phase, Recipe
from regraft.system.console import Reporter, duration
from regraft.tasks import TASKS, Task

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone

__all__ = ["Lesson", "Material", "Tensors", "extract_views"]

IN_MEMORY = 256 * 2**20  # bytes of features that are read once and kept

Inputs = tuple[NDArray[Any], ...]
Pair = tuple[Sample, int]  # a sample and the number of a view


@dataclass(frozen=True)
class Tensors:
    """What a frozen network gave for images, in one view or several.

    Attributes:
        views: the features of each view; the first is the images as they are.
        names: the tensors in them, in the order in which what follows takes them.
    """

    views: tuple[Features, ...]
    names: tuple[str, ...]

    def of(self, samples: Sequence[Sample], view: int = 0) -> Inputs:
        """The tensors of samples, each (n, ...)."""
        return tuple(self.views[view].matrix(samples, name) for name in self.names)

    def reader(self, pairs: list[Pair]) -> Callable[[list[Pair]], Inputs]:
        """Reads some of these pairs of sample and view; from memory where all of them fit."""
        size = sum(array.nbytes for array in self.of([pairs[0][0]])) if pairs else 0
        return self._gathered if size * len(pairs) > IN_MEMORY else self._from_memory(pairs)

    def _from_memory(self, pairs: list[Pair]) -> Callable[[list[Pair]], Inputs]:
        whole = self._gathered(pairs) if pairs else ()
        row = {(sample.path, view): number for number, (sample, view) in enumerate(pairs)}

        def read(wanted: list[Pair]) -> Inputs:
            rows = [row[sample.path, view] for sample, view in wanted]
            return tuple(array[rows] for array in whole)

        return read

    def _gathered(self, pairs: list[Pair]) -> Inputs:
        """The tensors of pairs, in their order, read view by view."""
        places = {view: [n for n, (_, at) in enumerate(pairs) if at == view] for _, view in pairs}
        found = [self.of([pairs[n][0] for n in here], view) for view, here in places.items()]
        order = np.argsort(np.concatenate([np.array(here) for here in places.values()]))
        return tuple(np.concatenate(arrays)[order] for arrays in zip(*found, strict=True))


@dataclass(frozen=True)
class Material:
    """A catalog with its parts cut, and what was computed of its images.

    Attributes:
        recipe, catalog, backbone, store: of the run.
        views: the features of each view of the images; the first is the images as they are.
        names: the tensors in them that the head takes, in order.
    """

    recipe: Recipe
    catalog: Catalog
    backbone: Backbone
    store: Store
    views: tuple[Features, ...]
    names: tuple[str, ...]

    @property
    def task(self) -> Task:
        """What counts as loss and as score."""
        return TASKS[self.catalog.task]

    def encoded(self, part: str) -> NDArray[np.float32]:
        """The targets of a part in the shape of answers, (n, units)."""
        return self.task.encode(self.catalog.targets(self.catalog.part(part)), len(self.catalog.outputs))

    @cached_property
    def weights(self) -> NDArray[np.float32] | None:
        """How much each training sample, or each answer of it, counts, (n, 1) or (n, units); None: alike."""
        if self.recipe.class_weight == "none":
            return None
        return self.task.balanced_weights(self.encoded("train"))

    @cached_property
    def spread(self) -> NDArray[np.float32] | float:
        """Standard deviation of each target of regression in training; 1 for constants, and other tasks."""
        if self.task.name != "regression":
            return 1.0
        found = self.encoded("train").std(0)
        return np.where(found > 0, found, 1).astype(np.float32)

    @property
    def features(self) -> Tensors:
        """What the head takes of every view."""
        return Tensors(self.views, self.names)

    def inputs(self, samples: Sequence[Sample], view: int = 0) -> Inputs:
        """The tensors of samples that a head takes, each (n, ...)."""
        return self.features.of(samples, view)

    def feature_lesson(self, phase: Phase) -> Lesson:
        """Batches of stored features, every view of every training sample."""
        count = len(self.views)
        pairs = [(sample, view) for view in range(count) for sample in self.catalog.part("train")]
        weights = None if self.weights is None else np.tile(self.weights, (count, 1))
        train = Batches(
            pairs,
            np.tile(self.encoded("train"), (count, 1)),
            self.features.reader(pairs),
            weights=weights,
            batch_size=phase.batch_size,
            augment=self._noise,
            seed=self.recipe.seed,
        )
        return Lesson(self.task, train, self._validation(self.features, phase), self.spread)

    def boundary_lesson(self, phase: Phase, tensors: Tensors) -> Lesson:
        """Batches of what was stored at a boundary: an epoch is every sample once, in one of its views."""
        samples, count = self.catalog.part("train"), len(tensors.views)

        def draw(pairs: list[Pair], key: list[int]) -> list[Pair]:
            views = np.random.default_rng(key).integers(count, size=len(pairs))
            return [(sample, int(view)) for (sample, _), view in zip(pairs, views, strict=True)]

        train = Batches(
            [(sample, 0) for sample in samples],
            self.encoded("train"),
            tensors.reader([(sample, view) for view in range(count) for sample in samples]),
            weights=self.weights,
            batch_size=phase.batch_size,
            draw=draw,
            augment=self._noise,
            seed=self.recipe.seed,
        )
        return Lesson(self.task, train, self._validation(tensors, phase), self.spread)

    @property
    def _noise(self) -> Callable[[Batch, list[int]], Batch] | None:
        """What changes a batch of stored features in training."""
        deviation = self.recipe.feature_noise
        return (lambda batch, key: add_noise(batch, deviation, key)) if deviation else None

    def _validation(self, tensors: Tensors, phase: Phase) -> Batches[Pair]:
        """The validation samples as they are."""
        held = [(sample, 0) for sample in self.catalog.part("validation")]
        return Batches(held, self.encoded("validation"), tensors.reader(held), batch_size=phase.batch_size)

    def pixel_lesson(self, phase: Phase) -> Lesson:
        """Batches of decoded pixels, training ones augmented."""
        pixels = self.store.entries(pixel_key(self.backbone.image_size))

        def read(samples: list[Sample]) -> Inputs:
            return (pixels.read([sample.digest for sample in samples], "pixels"),)

        names = resolve_augment(self.recipe.augment, self.task.name)
        train, validation = (
            Batches(
                self.catalog.part(part),
                self.encoded(part),
                read,
                weights=self.weights if part == "train" else None,
                batch_size=phase.batch_size,
                augment=lambda batch, key: augment_batch(batch, names, key),
                seed=self.recipe.seed,
            )
            for part in ("train", "validation")
        )
        return Lesson(self.task, train, validation, self.spread)


@dataclass(frozen=True)
class Lesson:
    """What a phase learns from and is judged by.

    Attributes:
        task: says what counts as loss and as score.
        train, validation: batches of what the trained part takes: stored features, or pixels.
        spread: standard deviation of each target of regression in training, (units,); 1 otherwise.
    """

    task: Task
    train: Batches[Any]
    validation: Batches[Any]
    spread: NDArray[np.float32] | float = 1.0


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
        recipe: how images are augmented.
        count: views of an image, the image as it is among them.
        first: of the same network, for the images as they are.
        store: where pixels are read from, if they were kept, and results are kept.

    Returns:
        `first` and the features of each view, in order.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.
    """
    if count == 1:
        return (first,)
    seen = replace(catalog, samples=catalog.part("train"))
    names = resolve_augment(recipe.augment, catalog.task)
    views = [View(number, names, recipe.seed) for number in range(1, count)]
    keys = [first.key.removesuffix(View().key) + view.key for view in views]
    missing = sum(len(store.entries(key).missing(seen.contents)) for key in keys)
    if missing:
        seconds = duration(missing * first.seconds_per_image)
        reporter.info(f"{count} views: about {seconds} once; in training they are only read.")
    more = [
        extract_features(
            network,
            seen,
            store=store,
            keep_pixels=True,
            view=view,
            precision=first.precision,
            reporter=reporter,
        )
        for view in views
    ]
    return (first, *more)
