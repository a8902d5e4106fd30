"""Batches of pixels for training: shuffled, augmented, the same for the same seed.

Pixels come decoded from the store, so no file is decoded twice. Randomness is keyed by seed, epoch and
image: it depends neither on threads nor on where in a run the epoch stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.catalog import Sample
from regraft.data.decode import resize

__all__ = ["Batch", "Batches", "augmented"]

SMALLEST_CROP = 0.6  # of the area

Pixels = NDArray[np.uint8]


class Batch(NamedTuple):
    """`pixels`: float32 (b, size, size, 3) in 0..255. `labels`: int64 (b,)."""

    pixels: NDArray[np.float32]
    labels: NDArray[np.int64]


class Batches:
    """The images of some samples, a batch at a time.

    Args:
        samples: what to read.
        read: digests -> uint8 pixels of shape (n, size, size, 3).
        batch_size: images a batch; the last one may be smaller.
        seed: of order and augmentation.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        read: Callable[[list[str]], Pixels],
        *,
        batch_size: int,
        seed: int = 0,
    ) -> None:
        self.samples = list(samples)
        self.batch_size = batch_size
        self._read = read
        self._seed = seed

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch_size)

    def in_order(self) -> Iterator[Batch]:
        """Every image once, as it is, in the order of the samples."""
        return self._ahead(np.arange(len(self.samples)), None, ())

    def shuffled(self, epoch: int, augment: tuple[str, ...] = ()) -> Iterator[Batch]:
        """Every image once, in the order and with the augmentation of this epoch."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self.samples))
        return self._ahead(order, epoch, augment)

    def _ahead(
        self, order: NDArray[np.int64], epoch: int | None, augment: tuple[str, ...]
    ) -> Iterator[Batch]:
        """Batches, each made by a thread while the one before it is in use."""
        chunks = [order[at : at + self.batch_size] for at in range(0, len(order), self.batch_size)]
        if not chunks:
            return
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._batch, chunks[0], epoch, augment)
            for chunk in [*chunks[1:], None]:
                batch = following.result()
                if chunk is not None:
                    following = pool.submit(self._batch, chunk, epoch, augment)
                yield batch

    def _batch(self, numbers: NDArray[np.int64], epoch: int | None, augment: tuple[str, ...]) -> Batch:
        samples = [self.samples[number] for number in numbers]
        pixels = self._read([sample.digest for sample in samples])
        if augment:
            rngs = [np.random.default_rng([self._seed, epoch or 0, int(number), 1]) for number in numbers]
            pixels = np.stack(
                [augmented(image, augment, rng) for image, rng in zip(pixels, rngs, strict=True)]
            )
        return Batch(pixels.astype(np.float32), np.array([sample.target for sample in samples]))


def augmented(pixels: Pixels, augment: tuple[str, ...], rng: np.random.Generator) -> Pixels:
    """One random view of an image, uint8 (size, size, 3), at the same size.

    "crop" takes a random part of at least 60 % of the area, its sides' ratio changed by up to a quarter, and
    enlarges it; "flip" mirrors left and right half of the time.
    """
    size = len(pixels)
    if "crop" in augment:
        area = rng.uniform(SMALLEST_CROP, 1.0)
        ratio = np.exp(rng.uniform(-1, 1) * np.log(1.25) / 2)
        width, height = min(size, size * np.sqrt(area) * ratio), min(size, size * np.sqrt(area) / ratio)
        left, top = rng.uniform(0, size - width), rng.uniform(0, size - height)
        part = resize(Image.fromarray(pixels), size, box=(left, top, left + width, top + height))
        pixels = np.asarray(part)
    if "flip" in augment and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    return pixels
