"""Make batches for training: shuffled, with noise on features, and the same for the same seed.

Inputs, pixels or features, are read from the store, so no file is decoded twice. The order depends on seed
and epoch only, not on threads or on how the run came to this epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Batch", "Batches", "add_noise"]

NOISE_STREAM = 1  # separates these random numbers from those of views with the same key

Item = TypeVar("Item")
Inputs = tuple[NDArray[Any], ...]
Floats = NDArray[np.float32]


class Batch(NamedTuple):
    """A batch: an array (b, ...) for each input of the network, and encoded targets, float32 (b, units).

    `weights`: float32 (b, units) or (b, 1).
    """

    inputs: tuple[NDArray[Any], ...]
    targets: Floats
    weights: Floats


class Batches(Generic[Item]):
    """Samples in batches.

    Args:
        samples: of any type that `read` takes.
        targets: encoded as by `tasks.Task.encode`, shape (n, units).
        read: returns an array for each input of the network, (b, ...), for a list of samples.
        weights: weight of each sample, (n, 1), or of each output of it, (n, units); None for equal weights.
        batch_size: samples in a batch; the last batch may be smaller.
        draw: returns what to read instead of samples when training, such as their views, for (samples, seed).
        augment: returns the batch to train on, for (batch, seed); see `data.augmentation`.
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

    def iter_in_order(self) -> Iterator[Batch]:
        """Yield every sample once, unchanged, in the order of the samples."""
        return self._iter_ahead(np.arange(len(self.samples)), None)

    def iter_shuffled(self, epoch: int, begin: int = 0) -> Iterator[Batch]:
        """Yield every sample once, shuffled and augmented for this epoch, starting with batch `begin`."""
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self.samples))
        return self._iter_ahead(order, epoch, begin)

    def _iter_ahead(self, order: NDArray[np.int64], epoch: int | None, begin: int = 0) -> Iterator[Batch]:
        """Yield batches, each made by a thread while the one before is in use."""
        size = self.batch_size
        chunks = [order[start : start + size] for start in range(begin * size, len(order), size)]
        if not chunks:
            return
        with ThreadPoolExecutor(1) as pool:
            next_batch = pool.submit(self._make_batch, begin, chunks[0], epoch)
            for number, chunk in enumerate([*chunks[1:], None], begin + 1):
                batch = next_batch.result()
                if chunk is not None:
                    next_batch = pool.submit(self._make_batch, number, chunk, epoch)
                yield batch

    def _make_batch(self, number: int, rows: NDArray[np.int64], epoch: int | None) -> Batch:
        samples = [self.samples[row] for row in rows]
        if epoch is None:
            return Batch(self._read(samples), self.targets[rows], self.weights[rows])
        key = [self._seed, epoch, number]
        drawn = self._draw(samples, key) if self._draw else samples
        batch = Batch(self._read(drawn), self.targets[rows], self.weights[rows])
        return self._augment(batch, key) if self._augment else batch


def add_noise(batch: Batch, deviation: float, key: Sequence[int]) -> Batch:
    """Multiply every channel of every sample by 1 + deviation * z, with z from a normal distribution.

    A channel gets stronger or weaker in a feature map as a whole, as a colour channel does in another light.
    Zeros stay zeros, and the mean over many epochs is the feature itself.

    Args:
        batch: its inputs are features, each (b, ..., channels).
        deviation: relative standard deviation, from 0; 0.2 is a fifth.
        key: seed, epoch and batch; the same key gives the same noise.

    Example:
        >>> batch = Batch((np.ones((2, 7, 7, 64), np.float32),), np.zeros((2, 1)), np.ones((2, 1)))
        >>> (changed,) = add_noise(batch, 0.2, [0, 1, 0]).inputs
        >>> changed.shape, bool((changed == changed[:, :1, :1]).all())
        ((2, 7, 7, 64), True)
    """
    rng = np.random.default_rng([*key, NOISE_STREAM])
    factors = [
        1 + np.float32(deviation) * rng.standard_normal((len(x), x.shape[-1]), np.float32)
        for x in batch.inputs
    ]
    shapes = [(len(x), *(1,) * (x.ndim - 2), x.shape[-1]) for x in batch.inputs]
    changed = zip(batch.inputs, factors, shapes, strict=True)
    return batch._replace(inputs=tuple(x * factor.reshape(shape) for x, factor, shape in changed))
