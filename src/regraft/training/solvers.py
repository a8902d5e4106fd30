"""Heads solved on features: the linear probe.

Multinomial logistic regression with an L2 penalty. For features X (n, d), standardised, and one-hot labels
Y (n, k), it minimises over W (d, k) and b (k)

    f(W, b) = - (1/n) sum_i log softmax(X W + b)_{i, y_i}  +  (penalty / 2) |W|^2

whose gradient is G = X^T (P - Y) / n + penalty W with P = softmax(X W + b). The problem is convex; L-BFGS
solves it. The penalty is chosen by cross-validation: each fold follows the path of penalties from the
strongest to weaker ones, every step from the solution before it, which is close.

|W|^2 does not change when the features are rotated. So X is turned to its principal axes first: there are
never more of those than images, and along them the problem is nearly separable, which L-BFGS likes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import repeat

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

__all__ = ["PENALTIES", "Probe", "folds", "probabilities", "solve_logistic"]

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

PENALTIES = tuple(float(value) for value in np.logspace(0, -4, 9))
FOLDS = 5
ITERATIONS = 500
SMALL = 10_000_000  # numbers in a matrix up to which one thread is faster than two
CURVATURE = 0.1  # about the mean of p (1 - p)
GRADIENT_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Probe:
    """A solved linear head on raw features: probabilities are softmax(features @ kernel + bias).

    Attributes:
        kernel: float32 of shape (features, classes).
        bias: float32 of shape (classes,).
        penalty: the one that was chosen.
        path: cross-validated log loss of each penalty tried.
    """

    kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    penalty: float
    path: dict[float, float]


def solve_logistic(
    features: NDArray[np.float32],
    labels: Labels,
    *,
    classes: int,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> Probe:
    """The linear probe: penalty by cross-validated log loss, then solved on everything given.

    Args:
        features: shape (n, d), as the backbone gives them.
        labels: shape (n,), in 0..classes - 1; every class occurs.
        classes: how many there are.
        penalties: values to choose from, per image (scikit-learn's C is 1 / (n * penalty)).
        seed: of the folds.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(60) % 3
        >>> features = np.eye(3)[labels] + rng.normal(0, 0.1, (60, 3))
        >>> probe = solve_logistic(features.astype("float32"), labels, classes=3)
        >>> bool((probabilities(features, probe).argmax(1) == labels).all())
        True
    """
    data = features.astype(np.float64)
    mean, scale = data.mean(0), data.std(0)
    scale[scale < 1e-6 * max(float(scale.max()), 1e-12)] = 1.0  # a constant feature says nothing
    rotated, back = _rotated((data - mean) / scale)
    path = _cross_validate(rotated, labels, penalties, classes, seed) if len(penalties) > 1 else {}
    best = min(path, key=lambda penalty: path[penalty]) if path else penalties[0]
    with threadpool_limits(1 if rotated.size < SMALL else None):
        rough = _minimise(
            rotated.astype(np.float32), labels, best, _start(rotated, labels, classes), tolerance=1e-4
        )
        solution = _minimise(rotated, labels, best, rough)
    kernel = (back @ solution[:-1]) / scale[:, None]
    bias = solution[-1] - mean @ kernel
    return Probe(kernel.astype(np.float32), bias.astype(np.float32), best, path)


def probabilities(features: NDArray[np.floating], probe: Probe) -> Matrix:
    """Class probabilities, shape (n, classes), of features of shape (n, d)."""
    return _softmax(features.astype(np.float64) @ probe.kernel + probe.bias)


def folds(labels: Labels, *, count: int, seed: int) -> list[NDArray[np.bool_]]:
    """Stratified folds as masks of the held-out rows. A class with fewer images than folds is held out in as
    many folds as it has images less one, so that every fold trains on every class."""
    rng = np.random.default_rng(seed)
    fold = np.full(len(labels), -1)
    for offset, label in enumerate(np.unique(labels)):
        rows = rng.permutation(np.flatnonzero(labels == label))
        held = rows if len(rows) > 1 else rows[:0]
        fold[held] = (np.arange(len(held)) + offset) % count
    return [fold == number for number in range(count) if (fold == number).any()]


def _rotated(data: Matrix) -> tuple[Matrix, Matrix]:
    """The features along their principal axes, shape (n, r), and the (d, r) matrix that carries W back."""
    n, d = data.shape
    gram = data @ data.T if n < d else data.T @ data
    squares, axes = np.linalg.eigh(gram)
    kept = squares > max(float(squares[-1]), 1e-12) * 1e-10
    squares, axes = squares[kept], axes[:, kept]
    if n >= d:
        return data @ axes, axes
    singular = np.sqrt(squares)
    return axes * singular, data.T @ axes / singular


def _cross_validate(
    data: Matrix, labels: Labels, penalties: Sequence[float], classes: int, seed: int
) -> dict[float, float]:
    """Held-out log loss of each penalty, strongest first. The loss has one valley along the path, so the
    weak end, where solving is slow, is left out once the loss has risen twice."""
    parts = folds(labels, count=FOLDS, seed=seed)
    data = data.astype(np.float32)
    weights = [_start(data[~held], labels[~held], classes) for held in parts]
    total = sum(int(held.sum()) for held in parts)
    losses: dict[float, float] = {}

    def held_out_loss(number: int, penalty: float) -> float:
        held, start = parts[number], weights[number]
        weights[number] = _minimise(data[~held], labels[~held], penalty, start, tolerance=1e-3)
        return _log_loss(data[held], labels[held], weights[number]) * int(held.sum()) / total

    # The matrices are thin: a thread a fold keeps the processors busy, several a product only get in the way.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        for penalty in sorted(penalties, reverse=True):
            losses[penalty] = sum(pool.map(held_out_loss, range(len(parts)), repeat(penalty)))
            last = list(losses.values())[-3:]
            if len(last) == 3 and last[0] < last[1] < last[2]:
                break
    return losses


def _start(data: Matrix, labels: Labels, classes: int) -> Matrix:
    """[W; b] of shape (d + 1, classes) that answers with the classes' shares, whatever the image."""
    weights = np.zeros((data.shape[1] + 1, classes))
    weights[-1] = np.log(np.maximum(np.bincount(labels, minlength=classes), 0.5) / len(labels))
    return weights


def _minimise(
    data: Matrix, labels: Labels, penalty: float, start: Matrix, *, tolerance: float = GRADIENT_TOLERANCE
) -> Matrix:
    from scipy.optimize import minimize

    n, rows = len(data), np.arange(len(data))
    # Along principal axes the Hessian is nearly diagonal: p (1 - p) times the axis' spread, plus the penalty.
    # Solving for W times its root instead of W makes all directions about equally steep.
    steep = np.sqrt(CURVATURE * (data**2).mean(0) + penalty, dtype=np.float64)[:, None]
    even = (data / steep.T).astype(data.dtype)
    lighter = penalty / steep**2

    def loss_and_gradient(flat: Matrix) -> tuple[float, Matrix]:
        weights = flat.reshape(start.shape)
        answer = _softmax(even @ weights[:-1].astype(even.dtype) + weights[-1].astype(even.dtype))
        loss = -np.log(np.maximum(answer[rows, labels], 1e-30)).mean()
        answer[rows, labels] -= 1
        slope = even.T @ answer / n + lighter * weights[:-1]
        gradient = np.vstack([slope, answer.mean(0)]).astype(np.float64)
        return float(loss + (lighter * weights[:-1] ** 2).sum() / 2), gradient.ravel()

    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 0.0, "maxcor": 10}
    first = np.vstack([start[:-1] * steep, start[-1:]]).ravel()
    result = minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", options=options)
    solution = np.asarray(result.x).reshape(start.shape)
    solution[:-1] /= steep
    return solution


def _softmax(logits: Matrix) -> Matrix:
    shifted: Matrix = np.exp(logits - logits.max(1, keepdims=True))
    shifted /= shifted.sum(1, keepdims=True)
    return shifted


def _log_loss(data: Matrix, labels: Labels, weights: Matrix) -> float:
    answer = _softmax(data @ weights[:-1] + weights[-1])
    return float(-np.log(np.maximum(answer[np.arange(len(labels)), labels], 1e-15)).mean())
