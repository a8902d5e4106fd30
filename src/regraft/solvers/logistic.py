"""Logistic regression with an L2 penalty, by Newton's method.

For features X (n, d), standardised, and one-hot labels Y (n, k), it minimises over W (d, k) and b (k)

    f(W, b) = - (1/n) sum_i log softmax(X W + b)_{i, y_i}  +  (penalty / 2) |W|^2

whose gradient is G = X^T (P - Y) / n + penalty W with P = softmax(X W + b). The problem is convex. Each
Newton step is found by conjugate gradients: in float32, then in float64 where the exact solution is wanted.
For two classes and for labels, P = sigmoid(X W + b) and the loss is the sum over units: one problem per
label, all solved side by side. Each solution of a path of penalties starts from the extrapolation of the two
before it, which had stronger penalties and is close.

|W|^2 does not change when the features are rotated, so X is rotated to its principal axes first. There are
never more of those than images, and along them the Hessian is nearly diagonal, which preconditions the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.solvers.closed_form import (
    find_principal_axes,
    rotate_rule_back,
    rotate_to_principal_axes,
    standardise_in_place,
)
from regraft.solvers.cross_validation import ROUGH, AnswerHeldOut, Mask, Settings, SolverSpec, TrainingRows
from regraft.solvers.decision import Linear, Scaler

__all__ = ["LOGISTIC", "PENALTIES", "prepare_logistic", "prepare_logistic_folds"]

Matrix = NDArray[Any]
FitLinear = Callable[[Settings], Linear]

PENALTIES = tuple(float(value) for value in np.logspace(0, -4, 9))
CG_ITERATIONS, NEWTON_STEPS, HALVINGS = 500, 50, 30
CG_TOLERANCE = 0.1  # share of the gradient that conjugate gradients may leave
ROUGH_GAIN = 1e-2  # share of the loss: steps that promise less end a rough solution
DAMPING = 1e-8  # of the Hessian: the bias of a label that never occurs has no best value
LOSS_PRECISION = {4: 1e-6, 8: 1e-14}  # smallest relative change of a loss that counts, by bytes per number
SMALLEST_ANSWER = 1e-12
CHUNK = 1024  # rows squared at a time
CURVATURE = 0.1  # roughly the mean of p (1 - p)
MIN_AXIS_SHARE = 0.05  # an axis is left out of the rough path if the penalty lets through less than this


def prepare_logistic(rows: TrainingRows) -> FitLinear:
    """Prepare logistic regression; settings: `penalty`, per image (scikit-learn's C is 1 / (n * penalty)).

    In folds, where a rough solution will do, each penalty of a path starts from the previous one.

    Measured in cross-validation against scikit-learn's `LogisticRegressionCV`, each with two threads: 8 times
    as fast on 1,000 images with 1,280 features, with probabilities 0.002 apart at most (its tolerance 1e-6);
    twice as fast as with its usual tolerance, which leaves them 0.01 apart.
    """
    if rows.tolerance >= ROUGH:
        rotated, rotate_back = rotate_to_principal_axes(rows.data.astype(np.float32))
        fit_path = _make_rough_path(rows, rotated)
        return lambda settings: rotate_rule_back(fit_path(settings), rotate_back)
    rotated, rotate_back = rotate_to_principal_axes(rows.data)
    start = _make_start(rows, rotated.shape[1])
    rough = rotated.astype(np.float32)

    def fit(settings: Settings) -> Linear:
        penalty = float(settings["penalty"])
        solution = _Problem(rough, rows, penalty).descend(start, min_gain=ROUGH_GAIN)
        solution = _Problem(rotated, rows, penalty).descend(solution, tolerance=rows.tolerance)
        return rotate_rule_back(Linear(solution[:-1], solution[-1]), rotate_back)

    return fit


def prepare_logistic_folds(rows: TrainingRows) -> Callable[[Mask], AnswerHeldOut]:
    """Prepare folds of logistic regression that are rotated to the principal axes of all rows.

    Any axes give the same solution; those of all rows are nearly those of a fold, and are found once.
    """
    data = standardise_in_place(rows.data.astype(np.float32), Scaler.from_features(rows.data))
    axes = find_principal_axes(data)

    def prepare_fold(held: Mask) -> AnswerHeldOut:
        train, queries = data[~held], data[held]
        scaler = Scaler.from_features(train, rows.blocks, rows.weights[~held])
        rotated = standardise_in_place(train, scaler) @ axes
        fit_path = _make_rough_path(rows.select_targets(~held), rotated)
        rotated_queries = standardise_in_place(queries, scaler) @ axes
        return lambda settings: fit_path(settings).decide(rotated_queries)

    return prepare_fold


def _make_rough_path(rows: TrainingRows, rotated: Matrix) -> FitLinear:
    """Return a function that solves one penalty after another, in float32, along the axes of the rows."""
    squares = (rotated**2).mean(0)
    path = [_make_start(rows, rotated.shape[1])]

    def fit(settings: Settings) -> Linear:
        penalty = float(settings["penalty"])
        width = int(np.flatnonzero(CURVATURE * squares > MIN_AXIS_SHARE * penalty).max(initial=-1)) + 1
        solution, previous = np.zeros_like(path[-1]), path[-2:]
        start = previous[-1] if len(path) < 3 else 2 * previous[-1] - previous[0]
        used = [*range(width), -1]
        problem = _Problem(rotated[:, :width], rows, penalty)
        solution[used] = problem.descend(start[used], min_gain=ROUGH_GAIN)
        path.append(solution)
        return Linear(solution[:-1].astype(np.float32), solution[-1])

    return fit


def _make_start(rows: TrainingRows, width: int) -> Matrix:
    """Return [W; b] of shape (width + 1, units) that answers every image with the shares of the classes."""
    start = np.zeros((width + 1, rows.targets.shape[1]))
    share = np.clip(rows.weights @ rows.targets / len(rows.targets), 0.5 / len(rows.targets), None)
    if rows.task == "multiclass":  # a constant added to all classes changes nothing: they sum to 0
        other_share = np.exp(np.log(share).mean())
    else:
        other_share = np.maximum(1 - share, 0.5 / len(rows.targets))
    start[-1] = np.log(share / other_share)
    return start


class _Problem:
    """Logistic regression with one penalty, over [W; b] of shape (d + 1, units).

    Along principal axes the Hessian is nearly diagonal: p (1 - p) times the spread of the axis, plus the
    penalty. Solving for W times the root of that, instead of W, makes all directions about equally steep.
    """

    def __init__(self, data: Matrix, rows: TrainingRows, penalty: float) -> None:
        steepness = np.sqrt(CURVATURE * (data**2).mean(0) + penalty, dtype=np.float64)
        self._steepness = np.append(steepness, 1.0)[:, None]
        self._penalties = np.append(penalty / steepness**2, 0.0)[:, None]
        self._data = (data / steepness).astype(data.dtype)
        self._targets = rows.targets.astype(data.dtype)
        self._weights = (rows.weights / len(data)).astype(data.dtype)[:, None]
        self._is_multiclass = rows.task == "multiclass"

    def descend(self, start: Matrix, *, tolerance: float = 0.0, min_gain: float = 0.0) -> Matrix:
        """Take Newton steps and return the last point, (d + 1, units).

        Args:
            start: point to start from.
            tolerance: stop when no entry of the gradient is larger. The gradient is as exact as the data.
            min_gain: stop when a step promises to lower the loss by no more than this share of it.
        """
        point = start * self._steepness
        data = self._data.astype(np.float32, copy=False)
        loss, gradient, answers = self._evaluate(point)
        precision = LOSS_PRECISION[self._data.dtype.itemsize]
        for _ in range(NEWTON_STEPS):
            if np.abs(gradient).max() <= tolerance:
                break
            step = self._find_step(data, gradient, answers.astype(np.float32, copy=False))
            promised = -float((gradient * step).sum()) / 2
            for _ in range(HALVINGS):
                candidate = self._evaluate(point + step)
                if candidate[0] <= loss + precision * abs(loss):
                    break
                step = step / 2
            else:
                break
            point, (loss, gradient, answers) = point + step, candidate
            if promised <= min_gain * loss:
                break
        solution: Matrix = point / self._steepness
        return solution

    def _find_step(self, data: Matrix, gradient: Matrix, answers: Matrix) -> Matrix:
        """Return Newton's step, by conjugate gradients.

        They are preconditioned by the diagonal of the Hessian, which varies with the products of the answers:
        without it they take ten times as many rounds.
        """
        from scipy.sparse.linalg import LinearOperator, cg

        answers = np.where(answers > SMALLEST_ANSWER, answers, 0)  # subnormal numbers are 100 times as slow
        slopes = answers * (1 - answers) * self._weights.astype(data.dtype)
        chunks = (slice(start, start + CHUNK) for start in range(0, len(data), CHUNK))
        squares = sum((data[chunk] ** 2).T @ slopes[chunk] for chunk in chunks)
        diagonal = (np.vstack([squares, slopes.sum(0)]) + self._penalties + DAMPING).ravel()
        shape = (gradient.size, gradient.size)
        hessian = LinearOperator(shape, partial(self._multiply_hessian, data, answers), dtype=np.float64)
        inverse = LinearOperator(shape, lambda flat: flat / diagonal, dtype=np.float64)
        flat_step, _ = cg(hessian, -gradient.ravel(), rtol=CG_TOLERANCE, maxiter=CG_ITERATIONS, M=inverse)
        step: Matrix = flat_step.reshape(gradient.shape)
        return step - step.mean(1, keepdims=True) if self._is_multiclass else step  # weights still sum to 0

    def _evaluate(self, point: Matrix) -> tuple[float, Matrix, Matrix]:
        """Return the loss, its gradient (d + 1, units) and the answers (n, units)."""
        dtype = self._data.dtype
        logits = self._data @ point[:-1].astype(dtype) + point[-1].astype(dtype)
        answer = _answer_classes if self._is_multiclass else _answer_units
        loss, answers = answer(logits, self._targets, self._weights)
        gradient = self._sum_rows(self._data, (answers - self._targets) * self._weights)
        penalty = float((self._penalties * point**2).sum()) / 2
        return loss + penalty, gradient + self._penalties * point, answers

    def _multiply_hessian(self, data: Matrix, answers: Matrix, flat: Matrix) -> Matrix:
        """Multiply a flat direction by the damped Hessian."""
        direction = flat.reshape(-1, answers.shape[1])
        logits = data @ direction[:-1].astype(data.dtype) + direction[-1].astype(data.dtype)
        if self._is_multiclass:
            change = answers * (logits - (answers * logits).sum(1, keepdims=True))
        else:
            change = answers * (1 - answers) * logits
        product = self._sum_rows(data, change * self._weights.astype(data.dtype))
        flat_product: Matrix = (product + (self._penalties + DAMPING) * direction).ravel()
        return flat_product

    @staticmethod
    def _sum_rows(data: Matrix, slopes: Matrix) -> Matrix:
        """Return [X^T slopes; sum of slopes], (d + 1, units)."""
        sums: Matrix = np.vstack([data.T @ slopes, slopes.sum(0)]).astype(np.float64)
        return sums


def _answer_classes(logits: Matrix, targets: Matrix, weights: Matrix) -> tuple[float, Matrix]:
    """Return the cross-entropy and the answers of a softmax, (n, classes)."""
    answers = np.exp(logits - logits.max(1, keepdims=True))
    answers /= answers.sum(1, keepdims=True)
    return -float(weights[:, 0] @ np.log(np.maximum((answers * targets).sum(1), 1e-30))), answers


def _answer_units(logits: Matrix, targets: Matrix, weights: Matrix) -> tuple[float, Matrix]:
    """Return the binary cross-entropy summed over units, and the answers of sigmoids, (n, units)."""
    from scipy.special import expit

    return float((weights * (np.logaddexp(0, logits) - targets * logits)).sum()), expit(logits)


LOGISTIC = SolverSpec(
    "logistic regression",
    prepare_logistic,
    lambda rows: [{"penalty": penalty} for penalty in PENALTIES],
    tasks=("multiclass", "binary", "multilabel"),
    is_unimodal=True,
    is_per_unit=True,
    is_calibrated=True,
    prepare_folds=prepare_logistic_folds,
    is_warm_started=True,
)
