"""Batches for training: shuffled, with noise on features, the same for the same seed.

Inputs are read from the store, pixels or features, so no file is decoded twice. The order depends on seed and
epoch alone, not on threads or on where in a run the epoch stands.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Batches", "add_noise"]

NOISE = 1  # tells the numbers drawn here from those drawn for views with the same key

Item = TypeVar("Item")
Inputs = tuple[NDArray[Any], ...]
Floats = NDArray[np.float32]


class Batch(NamedTuple):
    """`inputs`: an array for each input of the network, (b, ...). `targets`: encoded, float32 (b, units).
    `weights`: float32 (b, units) or (b, 1)."""

    inputs: tuple[NDArray[Any], ...]
    targets: Floats
    weights: Floats


class Batches(Generic[Item]):
    """Some samples, a batch at a time.

    Args:
        samples: what to read.
        targets: encoded as in `tasks.Task.encode`, shape (n, units).
        read: samples -> an array for each input of the network, (b, ...).
        weights: how much each sample, or each answer of it, counts: (n, 1) or (n, units); None for alike.
        batch_size: samples a batch; the last one may be smaller.
        draw: (samples, seed) -> what is read in their place in training, such as one of their views.
        augment: (batch, seed) -> the batch as it is trained on; see `data.augment`.
        seed: of order, draw and augmentation.
    """

    def __init__(
        self,
        samples: Sequence[Item],
        targets: Floats,
        read: Callable[[list[Item]], Inputs],
        *,
        batch_size: int,
        weights: Floats | None = None,
        draw: Callable[[list[Item], list[int]], list[Item]] | None = None,
        augment: Callable[[Batch, list[int]], Batch] | None = None,
        seed: int = 0,
    ) -> None:
        self.samples = list(samples)
        self.targets = targets
        self.weights = np.ones((len(targets), 1), np.float32) if weights is None else weights
        self.batch_size = batch_size
        self._read = read
        self._draw, self._augment = draw, augment
        self._seed = seed

    def __len__(self) -> int:
        return math.ceil(len(self.samples) / self.batch_size)

    def in_order(self) -> Iterator[Batch]:
        """Every sample once, as it is, in the order of the samples."""
        return self._ahead(np.arange(len(self.samples)), None)

    def shuffled(self, epoch: int, begin: int = 0) -> Iterator[Batch]:
        """Every sample once, in the order and with the augmentation of this epoch, from batch `begin` on."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self.samples))
        return self._ahead(order, epoch, begin)

    def _ahead(self, order: NDArray[np.int64], epoch: int | None, begin: int = 0) -> Iterator[Batch]:
        """Batches, each made by a thread while the one before it is in use."""
        size = self.batch_size
        chunks = [order[at : at + size] for at in range(begin * size, len(order), size)]
        if not chunks:
            return
        with ThreadPoolExecutor(1) as pool:
            following = pool.submit(self._batch, begin, chunks[0], epoch)
            for number, chunk in enumerate([*chunks[1:], None], begin + 1):
                batch = following.result()
                if chunk is not None:
                    following = pool.submit(self._batch, number, chunk, epoch)
                yield batch

    def _batch(self, number: int, rows: NDArray[np.int64], epoch: int | None) -> Batch:
        samples = [self.samples[row] for row in rows]
        if epoch is None:
            return Batch(self._read(samples), self.targets[rows], self.weights[rows])
        key = [self._seed, epoch, number]
        drawn = self._draw(samples, key) if self._draw else samples
        batch = Batch(self._read(drawn), self.targets[rows], self.weights[rows])
        return self._augment(batch, key) if self._augment else batch


def add_noise(batch: Batch, deviation: float, key: Sequence[int]) -> Batch:
    """Every channel of every sample times 1 + deviation * z, z drawn from a normal distribution.

    A channel is brighter or darker in all places of a feature map at once, as one of pixels is under another
    light. Zeros stay zeros, and the mean over many epochs is the feature itself.

    Args:
        batch: its inputs are features, each (b, ..., channels).
        deviation: relative, from 0; 0.2 is a fifth.
        key: seed, epoch and batch; the same key draws the same noise.

    Example:
        >>> batch = Batch((np.ones((2, 7, 7, 64), np.float32),), np.zeros((2, 1)), np.ones((2, 1)))
        >>> (changed,) = add_noise(batch, 0.2, [0, 1, 0]).inputs
        >>> changed.shape, bool((changed == changed[:, :1, :1]).all())
        ((2, 7, 7, 64), True)
    """
    rng = np.random.default_rng([*key, NOISE])
    factors = [
        1 + np.float32(deviation) * rng.standard_normal((len(x), x.shape[-1]), np.float32)
        for x in batch.inputs
    ]
    shapes = [(len(x), *(1,) * (x.ndim - 2), x.shape[-1]) for x in batch.inputs]
    changed = zip(batch.inputs, factors, shapes, strict=True)
    return batch._replace(inputs=tuple(x * factor.reshape(shape) for x, factor, shape in changed))
