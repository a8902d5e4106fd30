"""What stands before and after a decision rule: standardised features, and answers of decision values.

A `Scaler` standardises features; a `Link` makes answers: a gain, a shift, then softmax, sigmoid or nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Link", "Scaler"]

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Scaler:
    """Standardises features: (features - mean) / scale, both of shape (d,)."""

    mean: Matrix
    scale: Matrix

    @classmethod
    def of(cls, features: Matrix, blocks: Sequence[int] = ()) -> Scaler:
        """Mean and standard deviation of each column; 1 for one that is constant, which says nothing.

        Args:
            features: shape (n, d).
            blocks: columns of each block of features, where there are several: all get the same variance in
                sum, so that a wide one does not outweigh the others. That of all together stays d.
        """
        return cls.from_spread(features.mean(0), features.std(0), blocks)

    @classmethod
    def from_spread(cls, mean: Matrix, deviation: Matrix, blocks: Sequence[int] = ()) -> Scaler:
        """The same from the mean and standard deviation of each column, (d,)."""
        scale = deviation.copy()
        widths = np.array(blocks or [len(scale)])
        for block in np.split(scale, np.cumsum(widths)[:-1]):  # views of it
            block[block < 1e-6 * max(float(block.max()), 1e-12)] = 1.0
            block[:] *= np.sqrt(len(block) * len(widths) / widths.sum())
        return cls(mean, scale)

    @classmethod
    def none(cls, width: int) -> Scaler:
        """Leaves `width` features as they are."""
        return cls(np.zeros(width), np.ones(width))

    def __call__(self, features: NDArray[np.floating[Any]]) -> Matrix:
        scaled: Matrix = (features.astype(np.float64) - self.mean) / self.scale
        return scaled

    def graph(self, features: Any) -> Any:
        """The same on a Keras tensor."""
        import keras

        mean, variance = self.mean.tolist(), (self.scale**2).tolist()
        return keras.layers.Normalization(mean=mean, variance=variance, dtype="float32", name="head_scale")(
            features
        )


@dataclass(frozen=True)
class Link:
    """Answers from decision values: activation(decisions * gain + shift).

    Attributes:
        activation: "softmax", "sigmoid" or "linear".
        gain: one over the temperature, or the standard deviation of a regression's targets; shape (units,).
        shift: the mean of a regression's targets; shape (units,).
    """

    activation: str
    gain: Matrix
    shift: Matrix

    @classmethod
    def none(cls, units: int) -> Link:
        """Leaves decision values as they are."""
        return cls("linear", np.ones(units), np.zeros(units))

    def __call__(self, decisions: Matrix) -> Matrix:
        from scipy.special import expit, softmax

        values = decisions * self.gain + self.shift
        if self.activation == "linear":
            return values
        found: Matrix = softmax(values, axis=1) if self.activation == "softmax" else expit(values)
        return found

    def graph(self, decisions: Any) -> Any:
        """The same on a Keras tensor."""
        import keras

        from regraft.backbone.head import OUTPUT

        scale, offset = self.gain.tolist(), self.shift.tolist()
        values = keras.layers.Rescaling(scale, offset, dtype="float32", name="head_gain")(decisions)
        return keras.layers.Activation(self.activation, dtype="float32", name=OUTPUT)(values)
