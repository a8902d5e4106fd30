"""Heat maps: how much each position of a feature map adds to a decision value.

For a head that pools the map and is linear, the decision value is a sum over positions, and the heat is each
position's share of it: the class activation map (Zhou et al. 2016, arXiv:1512.04150), which equals Grad-CAM
there. It is exact and costs one multiplication. For any other head the heat is the fall of the decision value
when the position's features are removed. For a linear head on average pooling that is the same number. Unlike
a gradient it needs no backend, and it exists for kernels, neighbours and trees too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.explanation.heads import Head

__all__ = ["HeatMaker", "PooledLinear", "remove_positions"]

Floats = NDArray[np.floating[Any]]

PROBE = 1024.0  # a large feature, so that the bias does not hide its weight among the digits of float32
PROBED = 128  # channels at a time
TOLERANCE = 1e-3  # of the largest decision value: a head that differs by more is not linear
CHUNK = 64e6  # bytes of changed maps that the head takes at a time, about


@dataclass(frozen=True)
class PooledLinear:
    """A head that pools and is linear: mean @ average + maximum @ largest + bias.

    Attributes:
        average, largest: weights of the channels' means and maxima over the positions, (channels, units).
        bias: shape (units,).
    """

    average: Floats
    largest: Floats
    bias: Floats

    @classmethod
    def from_head(cls, head: Head, channels: int) -> PooledLinear | None:
        """Find the weights of a head by its answers to maps of two positions with a single feature.

        Returns:
            None if the head takes no maps of this size. Whether it is linear, `fits` tells.

        Example:
            >>> head = lambda maps: maps.mean((1, 2)) @ np.array([[2.0], [3.0]]) + maps.max((1, 2))[:, 1:] - 1
            >>> linear = PooledLinear.from_head(head, 2)
            >>> linear.average.tolist(), linear.largest.tolist(), linear.bias.tolist()
            ([[2.0], [3.0]], [[0.0], [1.0]], [-1.0])
        """
        starts, probed = range(0, channels, PROBED), []
        try:
            bias = np.asarray(head(np.zeros((1, 1, 2, channels), np.float32)), np.float64)[0]
            for start in starts:  # all channels at once would take 100 MB
                single = PROBE * np.eye(min(PROBED, channels - start), channels, start, dtype=np.float32)
                maps = np.stack([np.stack([single, 0 * single], 1), np.stack([single, single], 1)])
                decisions = np.asarray(head(maps.reshape(-1, 1, 2, channels)), np.float64)
                probed.append(decisions.reshape(2, len(single), -1))
        except Exception:  # backends document no type for maps of another size
            return None
        one, two = (np.concatenate(probed, axis=1) - bias) / PROBE
        average = 2 * (two - one)
        return cls(average, two - average, bias)

    def decide(self, maps: Floats) -> Floats:
        """Return the decision values (n, units) of maps (n, height, width, channels)."""
        decisions: Floats = maps.mean(axis=(1, 2), dtype=np.float64) @ self.average + self.bias
        return decisions + maps.max(axis=(1, 2)) @ self.largest if self.has_maximum else decisions

    @property
    def has_maximum(self) -> bool:
        """Whether the head looks at maxima."""
        return bool(np.abs(self.largest).max() > 1e-6 * np.abs(self.average).max())

    def fits(self, maps: Floats, decisions: Floats) -> bool:
        """Return whether these are the head's decision values of some maps."""
        error = np.abs(self.decide(maps) - decisions).max(initial=0.0)
        return bool(error <= TOLERANCE * max(float(np.abs(decisions - self.bias).max(initial=0.0)), 1e-6))

    def compute(self, features: Floats, directions: Floats) -> Floats:
        """Return the heat of some directions, as `HeatMaker.compute` does."""
        height, width, channels = features.shape
        positions = features.reshape(-1, channels)
        heat = positions @ (self.average @ directions.T).astype(np.float32) / len(positions)
        if self.has_maximum:
            maximum = positions.max(axis=0)
            top = positions == maximum
            shares = np.where(top, maximum, 0) / top.sum(axis=0)  # positions that tie share their maximum
            heat = heat + shares @ (self.largest @ directions.T)
        return np.asarray(heat.T.reshape(-1, height, width), np.float32)


def remove_positions(head: Head, features: Floats, directions: Floats, *, chunk: float = CHUNK) -> Floats:
    """Return how far decision values of one map fall without each position, (directions, height, width).

    Args:
        head: see `heads.Head`.
        features: shape (height, width, channels); a removed position's are 0.
        directions: see `HeatMaker.compute`.
        chunk: bytes of changed maps that the head takes at a time, about.
    """
    height, width, channels = features.shape
    positions = features.reshape(-1, channels)
    rows = max(1, int(chunk / (4 * features.size)))
    base, falls = head(features[None])[0], []
    for start in range(0, len(positions), rows):
        numbers = np.arange(start, min(start + rows, len(positions)))
        changed = np.repeat(positions[None], len(numbers), axis=0)
        changed[np.arange(len(numbers)), numbers] = 0
        falls.append(base - head(changed.reshape(-1, height, width, channels)))
    heat = np.concatenate(falls).astype(np.float64) @ directions.T
    return np.asarray(heat.T.reshape(-1, height, width), np.float32)


class HeatMaker:
    """Makes heat maps with one head, in the fastest way that is exact for it.

    Args:
        head: see `heads.Head`.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._linear: PooledLinear | None = None
        self._is_probed = False

    @property
    def is_linear(self) -> bool:
        """Whether the head was found to pool and to be linear."""
        return self._linear is not None

    def compute(self, features: Floats, directions: Floats) -> Floats:
        """Return the heat of one map, (directions, height, width).

        A positive number speaks for a direction. The heat of a linear head on average pooling adds up to the
        decision value without its bias.

        Args:
            features: shape (height, width, channels).
            directions: weights of the units' decision values, (directions, units): 1 for a unit by itself,
                and 1 and -1 for what speaks for one unit rather than another.
        """
        if not self._is_probed:
            self._linear, self._is_probed = PooledLinear.from_head(self._head, features.shape[-1]), True
        if self._linear and not self._linear.fits(features[None], self._head(features[None])):
            self._linear = None
        if self._linear:
            return self._linear.compute(features, directions)
        return remove_positions(self._head, features, directions)
