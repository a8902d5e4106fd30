"""A probe of features: kernel ridge regression, cross-validated on the Gram matrix of the features.

The Gram matrix of blocks of features side by side is the sum of theirs, each scaled to the same variance:
K = sum_b X_b X_b^T / d_b. So each block is multiplied once, and a fold costs a Cholesky factor whatever the
width of the features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.solvers.closed_form import RIDGE
from regraft.solvers.cross_validation import Mask, TrainingRows, score_trial
from regraft.solvers.decision import Scaler
from regraft.tasks import TASKS

__all__ = ["PENALTIES", "HeldOutLoss", "make_gram", "measure_loss"]

Matrix = NDArray[Any]

PENALTIES = tuple(float(value) for value in np.logspace(-0.5, -3.5, 7))  # shares of the trace


class HeldOutLoss(NamedTuple):
    """A penalty, the mean loss with it, and the loss of each held-out row, (m,), times its weight."""

    penalty: float
    loss: float
    rows: NDArray[np.float64]


def make_gram(block: Matrix) -> Matrix:
    """Return X X^T of a block of features, standardised and divided by its width: a trace of n.

    Args:
        block: features, (n, d).

    Returns:
        Float32 of shape (n, n). The Gram matrices of several blocks may be added.

    Example:
        >>> gram = make_gram(np.random.default_rng(0).normal(size=(5, 3)))
        >>> gram.shape, round(float(np.trace(gram)), 3)
        ((5, 5), 5.0)
    """
    data = Scaler.from_features(block.astype(np.float64))(block).astype(np.float32)
    return data @ data.T / np.float32(data.shape[1])


def measure_loss(gram: Matrix, penalty: float, rows: TrainingRows, folds: list[Mask]) -> HeldOutLoss:
    """Return the losses of kernel ridge regression on held-out rows, with a temperature fitted to them.

    Args:
        gram: shape (n, n).
        penalty: share of the trace of `gram`.
        rows: targets and weights of the n rows; their features are ignored.
        folds: masks (n,) of the rows to hold out in turn.
    """
    from scipy.linalg import cho_factor, cho_solve

    decisions, is_held = np.zeros_like(rows.targets), np.any(folds, axis=0)
    ridge = np.float32(penalty * (np.trace(gram) or len(gram)))  # constant features have no trace
    for held in folds:
        train = np.flatnonzero(~held)
        weights, signs = rows.weights[train], rows.signs[train]
        root = np.sqrt(weights).astype(np.float32)[:, None]
        mean = weights @ signs / weights.sum()
        # A constant column as wide as all features is nearly free of the penalty: the rest of the intercept.
        inner = (gram[np.ix_(train, train)] + gram.dtype.type(1)) * root * root.T
        inner.flat[:: len(train) + 1] += ridge
        factors = cho_factor(inner, overwrite_a=True, check_finite=False)
        dual = root * cho_solve(factors, root * (signs - mean).astype(np.float32))
        decisions[held] = (gram[np.ix_(held, train)] + 1) @ dual + mean
    truth = rows.select(is_held)
    trial = score_trial({}, decisions[is_held], truth, RIDGE)
    losses = TASKS[rows.task].compute_losses(trial.link(trial.decisions), truth.targets)
    return HeldOutLoss(penalty, float(trial.losses.mean()), truth.weights * losses)
