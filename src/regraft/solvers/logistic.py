"""Heads whose best solution is known in closed form, or by a convex problem of one valley: ours.

Multinomial logistic regression with an L2 penalty. For features X (n, d), standardised, and one-hot labels
Y (n, k), it minimises over W (d, k) and b (k)

    f(W, b) = - (1/n) sum_i log softmax(X W + b)_{i, y_i}  +  (penalty / 2) |W|^2

whose gradient is G = X^T (P - Y) / n + penalty W with P = softmax(X W + b). The problem is convex.
Newton's method goes down, each step by conjugate gradients: in float32, and the rest of the way in float64
where the exact solution is wanted. For two classes and for labels, P = sigmoid(X W + b), and the loss is the
sum over units: as many problems as there are labels, solved side by side. Each solve of a path starts from
where the two before it, of stronger penalties, point to, which is close.

Ridge regression has W = (S + penalty)^-1 C for the covariance S of X and C of X with Y; the targets of
classes are -1 and 1, as in scikit-learn's `RidgeClassifier`. Linear discriminant analysis has W = S^-1 M for
the classes' means M and the covariance S within classes, shrunk towards a multiple of the identity (Ledoit
and Wolf, 2004). Both need sums over the rows and nothing else, see `moments`.

|W|^2 does not change when the features are rotated. So X is turned to its principal axes first: there are
never more of those than images, and along them the Hessian is nearly diagonal, which leads the steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.solvers.cross_validation import ROUGH, Family, Held, Mask, Part, Settings
from regraft.solvers.decision import Linear, Scaler
from regraft.solvers.moments import (
    Inverse,
    Moments,
    Turn,
    by_cholesky,
    by_eigenvectors,
    principal,
    principal_axes,
)

__all__ = ["LOGISTIC", "PENALTIES", "discriminant", "logistic", "ridge", "views_of"]

Matrix = NDArray[Any]
Solve = Callable[[Settings], Linear]
Invert = Callable[[Matrix, Matrix], tuple[Inverse, Turn]]
Closed = Callable[[Moments, int, str, Invert], tuple[Solve, Turn]]  # the rules are of rows that are turned

PENALTIES = tuple(float(value) for value in np.logspace(0, -4, 9))
ITERATIONS, STEPS, HALVINGS = 500, 50, 30
INEXACT = 0.1  # of the gradient may be left by conjugate gradients
CLOSE = 1e-2  # of the loss: a rough solution
DAMPING = 1e-8  # of the Hessian: the bias of a label that never occurs has no best value
ALIKE = {4: 1e-6, 8: 1e-14}  # of a loss, computed in so many bytes: less says nothing
FAINTEST = 1e-12
ROWS = 1024  # squared at a time
CURVATURE = 0.1  # about the mean of p (1 - p)
ALMOST_NONE = 1e-6  # rows, by weight
FAINT = 0.05  # an axis is left out of the rough path where the penalty lets through less than this share


# --- closed forms


def ridge(part: Part) -> Solve:
    """Ridge regression; settings: `penalty`, per image (scikit-learn's alpha is n * penalty)."""
    return _exactly(_ridge, part)


def discriminant(part: Part) -> Solve:
    """Linear discriminant analysis; settings: `shrinkage` in (0, 1]. Labels are solved one by one."""
    return _exactly(_discriminant, part)


def views_of(closed: Callable[[Part], Solve]) -> Callable[[Part], Callable[[Mask], Held]]:
    """How the folds of `ridge` or `discriminant` are held out, see `Family.views`."""
    form = _ridge if closed is ridge else _discriminant

    def share(part: Part) -> Callable[[Mask], Held]:
        part = replace(part, data=_standardised(part.data.astype(np.float32), Scaler.of(part.data)))
        whole = Moments.of(part)

        def hold(held: Mask) -> Held:
            rest = whole - Moments.of(part.rows(held))
            deviation = np.sqrt(np.maximum(np.diag(rest.covariance), 0))
            scaler = Scaler.from_spread(rest.mean, deviation, part.blocks)
            fit, turn = form(rest.standardised(scaler), part.data.shape[1], part.task, by_eigenvectors)
            data = turn(_standardised(part.data[held], scaler).T).T
            return lambda settings: fit(settings).decide(data)

        return hold

    return share


def _standardised(rows: Matrix, scaler: Scaler) -> Matrix:
    """Rows in float32, which sums well of them then; in place, for they are large."""
    np.subtract(rows, scaler.mean, out=rows)
    np.divide(rows, scaler.scale, out=rows)
    return rows


def _exactly(form: Closed, part: Part) -> Solve:
    width = part.data.shape[1]
    if len(part.data) >= width:
        return form(Moments.of(part), width, part.task, by_cholesky)[0]
    turned, back = principal(part.data)  # with no more columns than rows
    fit, _ = form(Moments.of(replace(part, data=turned)), width, part.task, by_cholesky)
    return lambda settings: _turned_back(fit(settings), back)


def _ridge(moments: Moments, width: int, task: str, inverse: Invert) -> tuple[Solve, Turn]:
    solve, turn = inverse(moments.covariance, moments.relation)
    mean = turn(moments.mean)
    factor, offset = (1, 0) if task == "regression" else (2, -1)  # from 0 and 1 to -1 and 1

    def fit(settings: Settings) -> Linear:
        kernel = factor * solve(1.0, np.array(settings["penalty"]))
        return Linear(kernel, factor * moments.level + offset - mean @ kernel)

    return fit, turn


def _discriminant(moments: Moments, width: int, task: str, inverse: Invert) -> tuple[Solve, Turn]:
    """Each class against all others; one of two where the targets are labels."""
    prior = moments.level
    share = np.where(prior * moments.weight > ALMOST_NONE, prior, np.inf)  # of no rows: no way from the mean
    if task == "multiclass":
        away = (moments.relation / share).astype(moments.first.dtype)
        means = away + moments.mean[:, None]
        within = moments.covariance - (away * prior).astype(away.dtype) @ away.T
        spread = np.trace(within) / width or 1.0  # 1: every class is one point
        (solve, turn), odds = inverse(within, means), np.log(np.maximum(prior, 0.5 / moments.weight))
        turned = turn(means)

        def fit(settings: Settings) -> Linear:
            shrinkage = float(settings["shrinkage"])
            kernel = solve(1 - shrinkage, np.array(shrinkage * spread))
            return Linear(kernel, odds - (turned * kernel).sum(0) / 2)

        return fit, turn
    return _labels(moments, width, inverse)


def _labels(moments: Moments, width: int, inverse: Invert) -> tuple[Solve, Turn]:
    """Discriminant analysis of each label against the rest.

    Its two classes have the difference D of their means between them, so the covariance within them is
    S = T - p (1 - p) D D^T for that of all rows, T, which all labels share. By the formula of Sherman and
    Morrison, (a S + c)^-1 D = N D / (1 - a p (1 - p) D^T N D) with N = (a T + c)^-1.
    """
    prior, whole = np.clip(moments.level, 0, 1), moments.covariance
    between = prior * (1 - prior)
    apart = moments.relation / np.where(between * moments.weight > ALMOST_NONE, between, np.inf)
    apart = apart.astype(whole.dtype)
    spread = (np.trace(whole) - between * (apart**2).sum(0)) / width
    spread = np.where(spread > 0, spread, 1.0)
    middle = moments.mean[:, None] + (0.5 - prior).astype(whole.dtype) * apart  # of the two means
    least = 0.5 / moments.weight
    odds = np.log(np.maximum(prior, least) / np.maximum(1 - prior, least))
    solve, turn = inverse(whole, apart)
    apart, middle = turn(apart), turn(middle)

    def fit(settings: Settings) -> Linear:
        shrinkage = float(settings["shrinkage"])
        kernel = solve(1 - shrinkage, shrinkage * spread)
        kernel = kernel / np.maximum(1 - (1 - shrinkage) * between * (apart * kernel).sum(0), ALMOST_NONE)
        return Linear(kernel, odds - (middle * kernel).sum(0))

    return fit, turn


# --- logistic regression


def logistic(part: Part) -> Solve:
    """Logistic regression; settings: `penalty`, per image (scikit-learn's C is 1 / (n * penalty)).

    Where a rough solution will do, as in folds, each penalty of a path starts from the one before it.
    """
    if part.tolerance >= ROUGH:
        turned, back = principal(part.data.astype(np.float32))
        path = _rough_path(part, turned)
        return lambda settings: _turned_back(path(settings), back)
    turned, back = principal(part.data)
    start = _start(part, turned.shape[1])
    rough = turned.astype(np.float32)

    def fit(settings: Settings) -> Linear:
        penalty = float(settings["penalty"])
        found = _Problem(rough, part, penalty).descend(start, gain=CLOSE)
        found = _Problem(turned, part, penalty).descend(found, tolerance=part.tolerance)
        return _turned_back(Linear(found[:-1], found[-1]), back)

    return fit


def _turned_back(rule: Linear, back: Turn) -> Linear:
    return Linear(back(rule.weights), rule.bias)


def _rough_path(part: Part, turned: Matrix) -> Solve:
    """Solutions along the axes that the rows are turned to, in float32, one from another."""
    squares = (turned**2).mean(0)
    path = [_start(part, turned.shape[1])]

    def fit(settings: Settings) -> Linear:
        penalty = float(settings["penalty"])
        told = int(np.flatnonzero(CURVATURE * squares > FAINT * penalty).max(initial=-1)) + 1
        latest, before = np.zeros_like(path[-1]), path[-2:]
        begin = before[-1] if len(path) < 3 else 2 * before[-1] - before[0]  # it goes on as it went
        rows = [*range(told), -1]
        latest[rows] = _Problem(turned[:, :told], part, penalty).descend(begin[rows], gain=CLOSE)
        path.append(latest)
        return Linear(latest[:-1].astype(np.float32), latest[-1])

    return fit


def _shared_axes(part: Part) -> Callable[[Mask], Held]:
    """Folds of logistic regression that turn their rows to the axes of all rows. Any axes give the same
    solution; those are nearly a fold's own, and are found once."""
    data = _standardised(part.data.astype(np.float32), Scaler.of(part.data))
    axes = principal_axes(data)

    def hold(held: Mask) -> Held:
        rest, asked = data[~held], data[held]
        scaler = Scaler.of(rest, part.blocks)
        path = _rough_path(part.told(~held), _standardised(rest, scaler) @ axes)
        turned = _standardised(asked, scaler) @ axes
        return lambda settings: path(settings).decide(turned)

    return hold


LOGISTIC = Family(
    "logistic regression",
    logistic,
    lambda part: [{"penalty": penalty} for penalty in PENALTIES],
    tasks=("multiclass", "binary", "multilabel"),
    ordered=True,
    per_unit=True,
    calibrated=True,
    views=_shared_axes,
    warm=True,
)


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


class _Problem:
    """Logistic regression under one penalty, over [W; b] of shape (d + 1, units).

    Along principal axes the Hessian is nearly diagonal: p (1 - p) times the axis' spread, plus the penalty.
    Solving for W times its root instead of W makes all directions about equally steep.
    """

    def __init__(self, data: Matrix, part: Part, penalty: float) -> None:
        steep = np.sqrt(CURVATURE * (data**2).mean(0) + penalty, dtype=np.float64)
        self._steep = np.append(steep, 1.0)[:, None]
        self._lighter = np.append(penalty / steep**2, 0.0)[:, None]
        self._data = (data / steep).astype(data.dtype)
        self._targets = part.targets.astype(data.dtype)
        self._weights = (part.weights / len(data)).astype(data.dtype)[:, None]
        self._one_of_many = part.task == "multiclass"

    def descend(self, start: Matrix, *, tolerance: float = 0.0, gain: float = 0.0) -> Matrix:
        """Newton's steps, each by conjugate gradients in float32, (d + 1, units).

        Args:
            start: where to begin.
            tolerance: no entry of the gradient is above it in the end. The gradient is as exact as the data.
            gain: or no step promises to lower the loss by more than this share of it.
        """
        point = start * self._steep
        small = self._data.astype(np.float32, copy=False)
        loss, gradient, answer = self._at(point)
        precise = ALIKE[self._data.dtype.itemsize]
        for _ in range(STEPS):
            if np.abs(gradient).max() <= tolerance:
                break
            step = self._step(small, gradient, answer.astype(np.float32, copy=False))
            promised = -float((gradient * step).sum()) / 2
            for _ in range(HALVINGS):
                further = self._at(point + step)
                if further[0] <= loss + precise * abs(loss):
                    break
                step = step / 2
            else:
                break
            point, (loss, gradient, answer) = point + step, further
            if promised <= gain * loss:
                break
        found: Matrix = point / self._steep
        return found

    def _step(self, data: Matrix, gradient: Matrix, answer: Matrix) -> Matrix:
        """Newton's step. Conjugate gradients are led by the diagonal of the Hessian, which the products of
        the answers are large or small in: without it they take ten times as many rounds."""
        from scipy.sparse.linalg import LinearOperator, cg

        answer = np.where(answer > FAINTEST, answer, 0)  # numbers next to zero take a hundred times as long
        slopes = answer * (1 - answer) * self._weights.astype(data.dtype)
        diagonal = sum(
            (data[at : at + ROWS] ** 2).T @ slopes[at : at + ROWS] for at in range(0, len(data), ROWS)
        )
        whole = (np.vstack([diagonal, slopes.sum(0)]) + self._lighter + DAMPING).ravel()
        shape = (gradient.size, gradient.size)
        operator = LinearOperator(shape, partial(self._curve, data, answer), dtype=np.float64)
        lead = LinearOperator(shape, lambda flat: flat / whole, dtype=np.float64)
        found = cg(operator, -gradient.ravel(), rtol=INEXACT, maxiter=ITERATIONS, M=lead)[0]
        step: Matrix = found.reshape(gradient.shape)
        return step - step.mean(1, keepdims=True) if self._one_of_many else step  # they go on summing to 0

    def _at(self, weights: Matrix) -> tuple[float, Matrix, Matrix]:
        """Loss, gradient (d + 1, units) and answers (n, units)."""
        kind = self._data.dtype
        logits = self._data @ weights[:-1].astype(kind) + weights[-1].astype(kind)
        loss, answer = (_softmax if self._one_of_many else _sigmoid)(logits, self._targets, self._weights)
        slope = self._back(self._data, (answer - self._targets) * self._weights) + self._lighter * weights
        return loss + float((self._lighter * weights**2).sum()) / 2, slope, answer

    def _curve(self, data: Matrix, answer: Matrix, flat: Matrix) -> Matrix:
        """The Hessian times a direction, damped: the bias of a label that never occurs has no best value."""
        direction = flat.reshape(-1, answer.shape[1])
        along = data @ direction[:-1].astype(data.dtype) + direction[-1].astype(data.dtype)
        if self._one_of_many:
            change = answer * (along - (answer * along).sum(1, keepdims=True))
        else:
            change = answer * (1 - answer) * along
        weighted = change * self._weights.astype(data.dtype)
        found: Matrix = (self._back(data, weighted) + (self._lighter + DAMPING) * direction).ravel()
        return found

    @staticmethod
    def _back(data: Matrix, slopes: Matrix) -> Matrix:
        found: Matrix = np.vstack([data.T @ slopes, slopes.sum(0)]).astype(np.float64)
        return found


def _softmax(logits: Matrix, targets: Matrix, weights: Matrix) -> tuple[float, Matrix]:
    """Cross-entropy, and the answers, (n, classes)."""
    answer = np.exp(logits - logits.max(1, keepdims=True))
    answer /= answer.sum(1, keepdims=True)
    return -float(weights[:, 0] @ np.log(np.maximum((answer * targets).sum(1), 1e-30))), answer


def _sigmoid(logits: Matrix, targets: Matrix, weights: Matrix) -> tuple[float, Matrix]:
    """The sum over units of the binary cross-entropy, and the answers, (n, units)."""
    from scipy.special import expit

    return float((weights * (np.logaddexp(0, logits) - targets * logits)).sum()), expit(logits)
