"""A head that is one Dense layer, as arrays: what it answers, without Keras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LinearHead"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LinearHead:
    """activation(features @ kernel + bias), then * scale + offset where targets have units.

    Attributes:
        kernel, bias: float32 of shapes (d, units) and (units,), as the Dense layer holds them.
        activation: "softmax", "sigmoid" or "linear".
        scale, offset: of shape (units,); None for answers as they are.

    Example:
        >>> LinearHead(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), "softmax").answers(
        ...     [np.array([[0.0, 0.0]], np.float32)]
        ... ).tolist()
        [[0.5, 0.5]]
    """

    kernel: Floats
    bias: Floats
    activation: str
    scale: Floats | None = None
    offset: Floats | None = None

    @classmethod
    def solved(
        cls,
        kernel: NDArray[np.floating[Any]],
        bias: NDArray[np.floating[Any]],
        activation: str,
        units: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> LinearHead:
        """From weights that answer in the targets' own units.

        Args:
            kernel, bias: of shapes (d, units) and (units,).
            activation: see above.
            units: scale and offset that a layer behind the Dense one puts back, each (units,).
        """
        if units is None:
            return cls(kernel.astype(np.float32), bias.astype(np.float32), activation)
        scale, offset = (np.asarray(each, np.float32) for each in units)
        return cls(
            (kernel / scale).astype(np.float32),
            ((bias - offset) / scale).astype(np.float32),
            activation,
            scale,
            offset,
        )

    def answers(self, inputs: Sequence[NDArray[Any]]) -> Floats:
        """Answers (n, units), float32, to features: arrays (n, ...), side by side."""
        features = np.concatenate([np.asarray(block, np.float32) for block in inputs], 1)
        values: Floats = features @ self.kernel + self.bias
        if self.activation == "softmax":
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        elif self.activation == "sigmoid":
            values = (0.5 + 0.5 * np.tanh(0.5 * values)).astype(np.float32)  # no overflow
        return values if self.scale is None or self.offset is None else values * self.scale + self.offset
