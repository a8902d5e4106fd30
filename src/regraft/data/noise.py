"""Noise on stored features: augmentation behind a frozen network, which needs no view of any image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from regraft.data.augment import Batch

__all__ = ["NOISE", "noisy"]

NOISE = 1  # tells the numbers drawn here from those drawn for views with the same key


def noisy(batch: Batch, deviation: float, key: Sequence[int]) -> Batch:
    """Every channel of every sample times 1 + deviation * z, z drawn from a normal distribution.

    A channel is brighter or darker in all places of a feature map at once, as one of pixels is under another
    light. Zeros stay zeros, and the mean over many epochs is the feature itself.

    Args:
        batch: its inputs are features, each (b, ..., channels).
        deviation: relative, from 0; 0.2 is a fifth.
        key: seed, epoch and batch; the same key draws the same noise.

    Example:
        >>> batch = Batch((np.ones((2, 7, 7, 64), np.float32),), np.zeros((2, 1)), np.ones((2, 1)))
        >>> (changed,) = noisy(batch, 0.2, [0, 1, 0]).inputs
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
