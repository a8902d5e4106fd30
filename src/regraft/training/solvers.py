"""Heads whose best solution is known in closed form, or by a convex problem of one valley: ours.

Multinomial logistic regression with an L2 penalty. For features X (n, d), standardised, and one-hot labels
Y (n, k), it minimises over W (d, k) and b (k)

    f(W, b) = - (1/n) sum_i log softmax(X W + b)_{i, y_i}  +  (penalty / 2) |W|^2

whose gradient is G = X^T (P - Y) / n + penalty W with P = softmax(X W + b). The problem is convex; L-BFGS
solves it. For two classes and for labels, P = sigmoid(X W + b), and the loss is the sum over units: as many
problems as there are labels, solved side by side. Each solve starts from the one before it, of a stronger
penalty, which is close.

Ridge regression has W = (X^T X + penalty n)^-1 X^T Y of centred X and Y; the targets of classes are -1 and
1, as in scikit-learn's `RidgeClassifier`. Linear discriminant analysis has W = S^-1 M for the classes' means
M and the covariance S within classes, shrunk towards a multiple of the identity (Ledoit and Wolf, 2004).

|W|^2 does not change when the features are rotated. So X is turned to its principal axes first: there are
never more of those than images, and along them the problem is nearly separable, which L-BFGS likes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.training.crossval import EXACT, Family, Fit, Part, Settings
from regraft.training.rules import Linear

__all__ = ["LOGISTIC", "PENALTIES", "discriminant", "logistic", "ridge"]

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

PENALTIES = tuple(float(value) for value in np.logspace(0, -4, 9))
ITERATIONS = 500
CURVATURE = 0.1  # about the mean of p (1 - p)


def logistic(part: Part) -> Callable[[Settings], Linear]:
    """Logistic regression; settings: `penalty`, per image (scikit-learn's C is 1 / (n * penalty))."""
    back, _ = _axes(part.data)
    rotated = part.data @ back
    small = rotated.astype(np.float32)
    latest = _start(part, rotated.shape[1])

    def fit(settings: Settings) -> Linear:
        nonlocal latest
        penalty = float(settings["penalty"])
        latest = _minimise(small, part, penalty, latest, tolerance=max(part.tolerance, 1e-4))
        if part.tolerance <= EXACT:
            latest = _minimise(rotated, part, penalty, latest, tolerance=part.tolerance)
        return Linear(back @ latest[:-1], latest[-1])

    return fit


def ridge(part: Part) -> Fit:
    """Ridge regression; settings: `penalty`, per image (scikit-learn's alpha is n * penalty)."""
    weights = part.weights / part.weights.sum()
    targets = part.signs
    mean, level = weights @ part.data, weights @ targets
    root = np.sqrt(weights)[:, None]
    axes, squares = _axes(root * (part.data - mean))
    along = axes.T @ ((root * (part.data - mean)).T @ (root * (targets - level)))

    def fit(settings: Settings) -> Linear:
        kernel = axes @ (along / (squares + float(settings["penalty"]))[:, None])
        return Linear(kernel, level - mean @ kernel)

    return fit


def discriminant(part: Part) -> Fit:
    """Linear discriminant analysis; settings: `shrinkage` in (0, 1]. Labels are solved one by one."""
    if part.task == "multiclass":
        return _discriminant(part.data, part.targets, part.weights)
    each = [
        _discriminant(part.data, np.stack([1 - truth, truth], 1), part.weights) for truth in part.targets.T
    ]

    def fit(settings: Settings) -> Linear:
        found = [one(settings) for one in each]
        weights = np.stack([rule.weights[:, 1] - rule.weights[:, 0] for rule in found], 1)
        return Linear(weights, np.array([rule.bias[1] - rule.bias[0] for rule in found]))

    return fit


def _discriminant(data: Matrix, one_hot: Matrix, row_weights: Matrix) -> Callable[[Settings], Linear]:
    shares = row_weights / row_weights.sum()
    prior = shares @ one_hot
    means = (one_hot * shares[:, None]).T @ data / np.maximum(prior, 1e-300)[:, None]
    axes, squares = _axes(np.sqrt(shares)[:, None] * (data - one_hot @ means))
    level = squares.sum() / data.shape[1] or 1.0  # 1: every class is one point
    along = means @ axes
    outside = means - along @ axes.T  # no class varies there: all of the spread is shrinkage

    def fit(settings: Settings) -> Linear:
        shrinkage = float(settings["shrinkage"])
        spread = (1 - shrinkage) * squares + shrinkage * level
        kernel = axes @ (along / spread).T + outside.T / (shrinkage * level)
        return Linear(kernel, np.log(np.maximum(prior, 0.5 / len(data))) - (means.T * kernel).sum(0) / 2)

    return fit


LOGISTIC = Family(
    "logistic regression",
    logistic,
    lambda part: [{"penalty": penalty} for penalty in PENALTIES],
    tasks=("multiclass", "binary", "multilabel"),
    ordered=True,
    per_unit=True,
    calibrated=True,
)


def _axes(data: Matrix) -> tuple[Matrix, Matrix]:
    """Principal axes, shape (d, r), and the squared length of the data along each, (r,)."""
    n, d = data.shape
    squares, axes = np.linalg.eigh(data @ data.T if n < d else data.T @ data)
    kept = squares > max(float(squares[-1]), 1e-12) * 1e-10
    squares, axes = squares[kept], axes[:, kept]
    return (data.T @ axes / np.sqrt(squares) if n < d else axes), squares


def _start(part: Part, width: int) -> Matrix:
    """[W; b] of shape (width + 1, units) that answers with the classes' shares, whatever the image."""
    weights = np.zeros((width + 1, part.targets.shape[1]))
    share = np.clip(part.weights @ part.targets / len(part.targets), 0.5 / len(part.targets), None)
    if part.task == "multiclass":  # a constant added to all classes changes nothing: they sum to 0
        against = np.exp(np.log(share).mean())
    else:
        against = np.maximum(1 - share, 0.5 / len(part.targets))
    weights[-1] = np.log(share / against)
    return weights


def _minimise(
    data: NDArray[np.floating[Any]], part: Part, penalty: float, start: Matrix, *, tolerance: float
) -> Matrix:
    from scipy.optimize import minimize

    cross_entropy = _softmax_loss if part.task == "multiclass" else _sigmoid_loss
    row_weights = (part.weights / len(data)).astype(data.dtype)[:, None]
    targets = part.targets.astype(data.dtype)
    # Along principal axes the Hessian is nearly diagonal: p (1 - p) times the axis' spread, plus the penalty.
    # Solving for W times its root instead of W makes all directions about equally steep.
    steep = np.sqrt(CURVATURE * (data**2).mean(0) + penalty, dtype=np.float64)[:, None]
    even = (data / steep.T).astype(data.dtype)
    lighter = penalty / steep**2

    def loss_and_gradient(flat: Matrix) -> tuple[float, Matrix]:
        weights = flat.reshape(start.shape)
        logits = even @ weights[:-1].astype(even.dtype) + weights[-1].astype(even.dtype)
        loss, residuals = cross_entropy(logits, targets, row_weights)
        slope = even.T @ residuals + lighter * weights[:-1]
        gradient = np.vstack([slope, residuals.sum(0)]).astype(np.float64)
        return loss + float((lighter * weights[:-1] ** 2).sum()) / 2, gradient.ravel()

    options = {"maxiter": ITERATIONS, "gtol": tolerance, "ftol": 0.0, "maxcor": 10}
    first = np.vstack([start[:-1] * steep, start[-1:]]).ravel()
    result = minimize(loss_and_gradient, first, jac=True, method="L-BFGS-B", options=options)
    solution = np.asarray(result.x).reshape(start.shape)
    solution[:-1] /= steep
    return solution


def _softmax_loss(logits: Matrix, targets: Matrix, row_weights: Matrix) -> tuple[float, Matrix]:
    """Cross-entropy and its slope by the logits, (n, classes)."""
    answer = _softmax(logits)
    loss = -(row_weights[:, 0] @ np.log(np.maximum((answer * targets).sum(1), 1e-30)))
    return float(loss), (answer - targets) * row_weights


def _sigmoid_loss(logits: Matrix, targets: Matrix, row_weights: Matrix) -> tuple[float, Matrix]:
    """The sum over units of the binary cross-entropy, and its slope by the logits, (n, units)."""
    from scipy.special import expit

    loss = (row_weights * (np.logaddexp(0, logits) - targets * logits)).sum()
    return float(loss), (expit(logits) - targets) * row_weights


def _softmax(logits: Matrix) -> Matrix:
    shifted: Matrix = np.exp(logits - logits.max(1, keepdims=True))
    shifted /= shifted.sum(1, keepdims=True)
    return shifted
