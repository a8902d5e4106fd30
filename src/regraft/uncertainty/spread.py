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
    width = 0 if features is None else features.shape[1]
    fits = [_fit_target(features, column, seed) for column in errors.T]
    weights = np.zeros((width, len(fits)), np.float32)
    for target, (one, _) in enumerate(fits):
        weights[:, target] = one.weights[:, 0] if len(one.weights) else 0
    spread = Spread(
        weights,
        np.array([one.bias[0] for one, _ in fits]),
        np.concatenate([one.bounds for one, _ in fits], 1),
    )
    return spread, np.stack([values for _, values in fits], 1)


def _fit_target(features: Features | None, errors: Matrix, seed: int) -> tuple[Spread, Matrix]:
    """Return the spread of one target, and its values (n,) for the held-out images."""
    floor = SMALLEST * float(np.median(errors))
    level = np.log(errors.mean()) if errors.mean() > 0 else 0.0
    constant = Spread(
        np.zeros((0 if features is None else features.shape[1], 1), np.float32),
        np.array([level]),
        np.full((2, 1), level),
    )
    if features is None or len(errors) < MIN_ROWS or floor <= 0:
        return constant, np.full(len(errors), np.exp(level))
    rows = np.sort(np.random.default_rng(seed).permutation(len(errors))[:MAX_ROWS])
    spread, held, logarithms = _fit_ridge(features[rows], np.log(np.maximum(errors[rows], floor)), seed)
    if not _is_better(errors[rows][held], np.exp(logarithms)):
        return constant, np.full(len(errors), np.exp(level))
    values = spread(features)[:, 0]  # of images outside the sample, which the model has not seen
    values[rows[held]] = np.exp(logarithms)
    return spread, values


def _fit_ridge(features: Features, logarithms: Matrix, seed: int) -> tuple[Spread, NDArray[np.int64], Matrix]:
    """Return the model, the rows that cross-validation held out, and the predictions for them, (m,)."""
    from regraft.solvers.solve import solve

    head = solve("ridge", features, logarithms[:, None], task="regression", seed=seed)
    held_out = head.held_out
    if head.weights is None or head.bias is None or held_out is None:
        raise AssertionError("ridge regression is linear, and of many rows some can be held out")
    values = head.link(held_out.decisions)[:, 0]
    bounds = np.array([[values.min()], [values.max()]])
    return Spread(head.weights.astype(np.float32), head.bias, bounds), held_out.rows, values


def _is_better(errors: Matrix, spread: Matrix) -> bool:
    """Return whether errors are likelier under a spread for each than under one for all, beyond noise.

    The errors are taken as exponentially distributed, with the spread times a constant as their mean.
    """
    scaled = spread * (errors / spread).mean()
    gain = (np.log(errors.mean()) + errors / errors.mean()) - (np.log(scaled) + errors / scaled)
    return bool(gain.mean() > gain.std() / np.sqrt(len(gain)))
