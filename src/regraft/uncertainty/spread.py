"""How large the errors of a regression are likely to be on an image: a linear model of their logarithm.

Intervals that are everywhere equally wide are too wide for easy images and too narrow for hard ones. So the
logarithm of the absolute error is predicted from the image's features, by ridge regression with a penalty
chosen by cross-validation (Papadopoulos et al., Normalized nonconformity measures for regression conformal
prediction, 2008). If the prediction does not beat a constant by more than its standard error, the constant is
taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.metrics.intervals import exceeds_standard_error

__all__ = ["Spread", "fit_spread"]

Matrix = NDArray[np.float64]
Features = NDArray[np.float32]

MAX_ROWS = 2_000  # images that the model is fitted on; of more, a random sample
MIN_ROWS = 40  # with fewer images the spread is constant
SMALLEST = 0.05  # of the median error: errors below count as this large, or their logarithm would rule


@dataclass(frozen=True)
class Spread:
    """The spread of the errors of each target: exp(features @ weights + bias), within bounds.

    Attributes:
        weights: shape (d, targets); zeros for a target whose spread is constant.
        bias: shape (targets,).
        bounds: lowest and highest logarithm seen on held-out images, shape (2, targets).
    """

    weights: Features
    bias: Matrix
    bounds: Matrix

    @property
    def is_constant(self) -> Any:
        """Whether the spread of each target is the same for all images, shape (targets,)."""
        return np.all(self.weights == 0, axis=0)

    def __call__(self, features: Features) -> Matrix:
        """Return the spread, (n, targets), of the errors on images with these features, (n, d)."""
        logarithms = features.astype(np.float64) @ self.weights + self.bias
        spread: Matrix = np.exp(np.clip(logarithms, *self.bounds))
        return spread


def fit_spread(features: Features | None, errors: Matrix, *, seed: int) -> tuple[Spread, Matrix]:
    """Fit the spread of errors, each target on its own.

    Args:
        features: of held-out images, shape (n, d); None for a constant spread.
        errors: absolute errors of the answers to them, shape (n, targets).
        seed: random seed of the folds and of the sample.

    Returns:
        The spread, and its values for the same images, (n, targets), by models fitted without them.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> features = rng.normal(size=(400, 3)).astype(np.float32)
        >>> errors = np.abs(rng.normal(size=(400, 1))) * np.exp(features[:, :1])
        >>> spread, held_out = fit_spread(features, errors, seed=0)
        >>> bool(spread.is_constant[0]), held_out.shape
        (False, (400, 1))
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(errors))[:MAX_ROWS])
    floors, means = SMALLEST * np.median(errors, axis=0), errors.mean(0)
    levels = np.log(np.where(means > 0, means, 1.0))
    values = np.tile(np.exp(levels), (len(errors), 1))
    weights = np.zeros((0 if features is None else features.shape[1], len(levels)), np.float32)
    spread = Spread(weights, levels, np.stack([levels, levels]))
    targets = np.flatnonzero(floors > 0)  # the others have too many errors of 0 to take logarithms
    if features is None or len(errors) < MIN_ROWS or not len(targets):
        return spread, values
    logarithms = np.log(np.maximum(errors[np.ix_(rows, targets)], floors[targets]))
    fitted, held, predictions = _fit_ridge(features[rows], logarithms, seed)
    of_all = fitted(features)  # for images outside the sample, which the model has not seen
    for column, target in enumerate(targets):
        foretold = np.exp(predictions[:, column])
        if _is_better(errors[rows[held], target], foretold):
            spread.weights[:, target] = fitted.weights[:, column]
            spread.bias[target] = fitted.bias[column]
            spread.bounds[:, target] = fitted.bounds[:, column]
            values[:, target] = of_all[:, column]
            values[rows[held], target] = foretold
    return spread, values


def _fit_ridge(features: Features, logarithms: Matrix, seed: int) -> tuple[Spread, NDArray[np.int64], Matrix]:
    """Return the model, the rows that cross-validation held out, and predictions for them, (m, targets)."""
    from regraft.solvers.solve import solve

    head = solve("ridge", features, logarithms, task="regression", seed=seed)
    held_out = head.held_out
    if head.weights is None or head.bias is None or held_out is None:
        raise AssertionError("ridge regression is linear, and of many rows some can be held out")
    values = head.link(held_out.decisions)
    bounds = np.stack([values.min(0), values.max(0)])
    return Spread(head.weights.astype(np.float32), head.bias, bounds), held_out.rows, values


def _is_better(errors: Matrix, spread: Matrix) -> bool:
    """Return whether errors are likelier under a spread for each than under one for all, beyond noise.

    The errors are taken as exponentially distributed, with the spread times a constant as their mean.
    """
    scaled = spread * (errors / spread).mean()
    gain = (np.log(errors.mean()) + errors / errors.mean()) - (np.log(scaled) + errors / scaled)
    return exceeds_standard_error(gain)
