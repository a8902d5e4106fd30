"""Calibration: the link from decision values to probabilities that mean what they say.

| task | link | parameters |
|---|---|---|
| classes | temperature; structured vector scaling where that is better by more than chance | 1; 2 a class |
| two classes, labels | Platt scaling, each label on its own | gain and shift |
| numbers | none | |

A temperature (Guo et al., On Calibration of Modern Neural Networks, 2017) divides the decision values and
keeps their order. Vector scaling gives each class a scale and an offset of its own, here shrunk towards the
temperature as in structured scaling (Berta et al., arXiv 2511.03685); the shrinkage is chosen by fitting to
some images and measuring on others. As Platt did (1999), all are fitted to targets that are moved slightly
towards the middle, so that decisions without an error do not become certainties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.solvers.decision import Link
from regraft.tasks import TASKS

__all__ = [
    "MIN_ROWS", "CalibratedLink", "calibrate_answers", "choose_link", "compute_decisions",
    "fit_answer_link", "fit_inverse_temperature", "fit_platt", "fit_simple_link", "fit_vector_scaling",
]  # fmt: skip

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]

LOG_GAINS = (-6.0, 9.0)  # range of the logarithm of the inverse temperature
FREEDOMS = (0.1, 0.3, 1.0)  # standard deviations that classes' scales and offsets are expected to have
MIN_PER_CLASS = 10  # rows, on average, below which classes get no scales of their own
MIN_ROWS = 30  # images below which a network's own probabilities are left as they are
MAX_NUMBERS = 500_000  # decision values that scales of classes are fitted to; of more, a sample
SMALLEST = 1e-12  # probability below which a logarithm is not taken


@dataclass(frozen=True)
class CalibratedLink:
    """A link fitted to decision values; `by_class` if each class has its own scale and offset."""

    link: Link
    by_class: bool = False


def choose_link(
    decisions: Matrix,
    targets: Matrix,
    weights: Matrix,
    *,
    task: str,
    folds: Sequence[Mask],
    groups: NDArray[Any] | None = None,
    seed: int = 0,
) -> CalibratedLink:
    """Fit the link of a classification to decision values of rows that the head was not solved on.

    Args:
        decisions: shape (n, units).
        targets: encoded targets, shape (n, units).
        weights: weight of each row, shape (n,).
        task: "multiclass", "binary" or "multilabel".
        folds: masks (n,) of rows that are held out together to judge vector scaling; none to leave it out.
        groups: shape (n,); rows of one group count as one where chance is measured.
        seed: of the sample of rows, where there are very many.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> logits = rng.normal(0, 2, (4_000, 3))
        >>> labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)  # drawn with softmax(logits)
        >>> ones, folds = np.ones(4_000), [np.arange(4_000) % 5 == fold for fold in range(5)]
        >>> chosen = choose_link(5 * logits, np.eye(3)[labels], ones, task="multiclass", folds=folds)
        >>> chosen.by_class, float(chosen.link.gain[0].round(2))
        (False, 0.2)
    """
    link = fit_simple_link(decisions, targets, weights, task=task)
    if task != "multiclass" or not folds:
        return CalibratedLink(link)
    count, units = decisions.shape
    rows = np.arange(count)
    if count * units > MAX_NUMBERS:
        rows = np.sort(np.random.default_rng(seed).permutation(count)[: MAX_NUMBERS // units])
    if len(rows) < MIN_PER_CLASS * units:
        return CalibratedLink(link)
    names = rows if groups is None else np.asarray(groups)[rows]
    part = _Rows(decisions[rows], targets[rows], weights[rows], np.unique(names, return_inverse=True)[1])
    freedom = _choose_freedom(part, [held[rows] for held in folds])
    if freedom is None:
        return CalibratedLink(link)
    gain, shift = fit_vector_scaling(part.decisions, part.targets, part.weights, freedom=freedom)
    return CalibratedLink(Link(link.activation, gain, shift), by_class=True)


def fit_simple_link(decisions: Matrix, targets: Matrix, weights: Matrix, *, task: str) -> Link:
    """Fit a temperature for classes, Platt scaling for two classes or labels; numbers stay as they are.

    Args:
        decisions, targets: shape (n, units).
        weights: shape (n,), or (n, units) if each label weights the rows differently.
        task: one of `tasks.TASKS`.
    """
    activation, units = TASKS[task].activation, decisions.shape[1]
    if task == "regression":
        return Link.identity(units)
    if task == "multiclass":
        gain = fit_inverse_temperature(decisions, targets, weights, task=task)
        return Link(activation, gain, np.zeros(units))
    shares = np.broadcast_to(weights.reshape(len(weights), -1), decisions.shape)
    pairs = [fit_platt(*column) for column in zip(decisions.T, targets.T, shares.T, strict=True)]
    gains, shifts = (np.array(values) for values in zip(*pairs, strict=True))
    return Link(activation, gains, shifts)


def fit_answer_link(
    answers: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any], *, task: str
) -> Link | None:
    """Fit the link behind probabilities that a network gave; None where they had better stay as they are.

    They stay with fewer than `MIN_ROWS` images, which say less about them than training did, and where the
    images show one class alone. So does a label that all of the images have or lack.

    Args:
        answers: probabilities, shape (n, units), of images that the network has not learnt from.
        targets: encoded targets, shape (n, units).
        weights: shape (n, 1), or (n, units) for labels.
        task: one of `tasks.TASKS`.
    """
    if task == "regression" or len(answers) < MIN_ROWS or not np.isfinite(answers).all():
        return None
    encoded = np.asarray(targets, np.float64)
    varies = np.ptp(encoded, axis=0) > 0
    if not varies.any():
        return None
    decisions = compute_decisions(answers, task=task)
    link = fit_simple_link(decisions, encoded, np.asarray(weights, np.float64), task=task)
    return link if task == "multiclass" else replace(link, gain=np.where(varies, link.gain, 1.0))


def calibrate_answers(
    answers: NDArray[Any], targets: NDArray[Any], weights: NDArray[Any], *, task: str
) -> tuple[NDArray[Any], Link | None]:
    """Return a network's answers by the link that `fit_answer_link` fits to them, and the link."""
    link = fit_answer_link(answers, targets, weights, task=task)
    return (answers, None) if link is None else (link(compute_decisions(answers, task=task)), link)


def compute_decisions(answers: NDArray[Any], *, task: str) -> Matrix:
    """Return decision values (n, units) whose softmax or sigmoid gives these probabilities (n, units).

    >>> compute_decisions(np.array([[0.5], [0.75]]), task="binary").round(2).tolist()
    [[0.0], [1.1]]
    """
    table = np.asarray(answers, np.float64)
    if task == "regression":
        return table
    logs: Matrix = np.log(np.maximum(table, SMALLEST))
    return logs if task == "multiclass" else logs - np.log(np.maximum(1 - table, SMALLEST))


# --- temperature


def fit_inverse_temperature(decisions: Matrix, targets: Matrix, weights: Matrix, *, task: str) -> Matrix:
    """Return 1 / temperature of each unit, shape (units,): one for all classes, or one per label.

    Args:
        decisions, targets: shape (n, units).
        weights: shape (n,), or (n, 1) for classes.
        task: "multiclass", "binary" or "multilabel".
    """
    units = decisions.shape[1]
    if task == "multiclass":
        return np.full(units, _fit_gain(decisions, _smooth_targets(targets, units), weights.reshape(-1)))
    pairs = [
        (np.stack([np.zeros_like(values), values], 1), np.stack([1 - truth, truth], 1))
        for values, truth in zip(decisions.T, _smooth_targets(targets, 2).T, strict=True)
    ]
    return np.array([_fit_gain(values, truth, weights) for values, truth in pairs])


def _smooth_targets(targets: Matrix, outcomes: int) -> Matrix:
    """Move targets (n, units) towards the middle, by one image in all for n + 2."""
    share = 1 / (len(targets) + 2)
    return targets * (1 - share) + share / outcomes


def _fit_gain(decisions: Matrix, soft_targets: Matrix, weights: Matrix) -> float:
    """Return the g that minimises the cross-entropy of softmax(g decisions): convex, so its slope is 0."""
    from scipy.optimize import brentq

    shifted = (decisions - decisions.max(1, keepdims=True)).astype(np.float32)
    target_mean = float(weights @ np.einsum("ij,ij->i", soft_targets, shifted))
    powers = np.empty_like(shifted)

    def slope(log_gain: float) -> float:
        np.exp(np.multiply(shifted, np.float32(np.exp(log_gain)), out=powers), out=powers)
        return float(weights @ (np.einsum("ij,ij->i", powers, shifted) / powers.sum(1))) - target_mean

    low, high = LOG_GAINS
    if slope(low) >= 0:
        return float(np.exp(low))
    return float(np.exp(high if slope(high) <= 0 else brentq(slope, low, high, xtol=1e-3)))


# --- Platt scaling


def fit_platt(decisions: Matrix, targets: Matrix, weights: Matrix) -> tuple[float, float]:
    """Return the gain and shift for which sigmoid(gain * decision + shift) fits 0/1 targets best.

    The shift is shrunk towards 0 as if a standard normal had drawn it, so a label that few images have does
    not move far. With rows of one kind alone there is no shift.

    Args:
        decisions, targets, weights: shape (n,).

    Example:
        >>> gain, shift = fit_platt(np.array([-3.0, -1.0, 1.0, 3.0]), np.array([0.0, 1, 0, 1]), np.ones(4))
        >>> round(gain, 2), abs(round(shift, 6))
        (0.36, 0.0)
    """
    soft = _smooth_targets(targets[:, None], 2)
    pairs = np.stack([np.zeros_like(decisions), decisions], 1)
    start = _fit_gain(pairs, np.concatenate([1 - soft, soft], 1), weights)
    if np.ptp(targets[weights > 0]) == 0:
        return start, 0.0
    gain, shift = _minimise_platt(decisions, soft[:, 0], weights, start)
    lowest = float(np.exp(LOG_GAINS[0]))
    return (gain, shift) if gain > lowest else (lowest, _logit(float(weights @ soft[:, 0] / weights.sum())))


def _minimise_platt(decisions: Matrix, soft: Matrix, weights: Matrix, gain: float) -> tuple[float, float]:
    """Minimise the cross-entropy by Newton's method; `gain` is where it starts, without a shift."""
    from scipy.special import expit

    shares, prior = weights / weights.sum(), 1 / len(decisions)
    columns = np.stack([decisions, np.ones_like(decisions)], 1)

    def measure(point: Matrix) -> float:
        values = columns @ point
        return float(shares @ (np.logaddexp(0, values) - soft * values) + prior * point[1] ** 2 / 2)

    point, ridge = np.array([gain, 0.0]), np.diag([0.0, prior])
    loss = measure(point)
    for _ in range(50):
        answers = expit(columns @ point)
        slope = columns.T @ (shares * (answers - soft)) + ridge @ point
        curvature = (columns * (shares * answers * (1 - answers))[:, None]).T @ columns + ridge
        step = np.linalg.lstsq(curvature, slope, rcond=None)[0]
        while measure(point - step) > loss and abs(slope @ step) > 1e-14:
            step /= 2
        point, previous, loss = point - step, loss, measure(point - step)
        if previous - loss < 1e-13:
            break
    return float(point[0]), float(point[1])


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


# --- structured vector scaling


@dataclass(frozen=True)
class _Rows:
    """Decisions and targets (n, units), weights and group numbers (n,) of rows."""

    decisions: Matrix
    targets: Matrix
    weights: Matrix
    groups: NDArray[Any]


def fit_vector_scaling(
    decisions: Matrix, targets: Matrix, weights: Matrix, *, freedom: float
) -> tuple[Matrix, Matrix]:
    """Return gain and shift of each class, both of shape (units,), shrunk towards one temperature.

    With the temperature's gain g, the class's gain is g (1 + v) and its shift is b. Added to the loss is
    (v^2 + b^2) / (2 n freedom^2), summed over the classes: their logarithmic prior, a normal distribution.

    Args:
        decisions, targets: shape (n, units), one-hot targets.
        weights: shape (n,).
        freedom: standard deviation that v and b are expected to have.
    """
    from scipy.optimize import Bounds, minimize

    count, units = decisions.shape
    gain = fit_inverse_temperature(decisions, targets, weights, task="multiclass")
    base, soft, shares = decisions * gain, _smooth_targets(targets, units), weights / weights.sum()
    penalty, target_slope = 1 / (count * freedom**2), shares[:, None] * soft

    def measure(point: Matrix) -> tuple[float, Matrix]:
        scale, shift = 1 + point[:units], point[units:]
        values = base * scale + shift
        values -= values.max(1, keepdims=True)
        powers = np.exp(values)
        sums = powers.sum(1)
        loss = float(shares @ np.log(sums)) - float(np.einsum("ij,ij->", target_slope, values))
        powers *= (shares / sums)[:, None]
        powers -= target_slope
        slope = np.concatenate([np.einsum("ij,ij->j", powers, base), powers.sum(0)])
        return loss + penalty * float(point @ point) / 2, slope + penalty * point

    lowest = np.concatenate([np.full(units, -0.9), np.full(units, -np.inf)])
    result = minimize(
        measure,
        np.zeros(2 * units),
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(lowest, np.inf),
        options={"maxiter": 50, "ftol": 1e-9},
    )
    return gain * (1 + result.x[:units]), result.x[units:]


def _choose_freedom(rows: _Rows, folds: Sequence[Mask]) -> float | None:
    """Return the freedom of the lowest held-out loss; None if a temperature is as good within chance."""
    simple = _cross_fit(rows, folds, None)
    best, best_gains = None, np.zeros_like(simple)
    for freedom in FREEDOMS:
        gains = simple - _cross_fit(rows, folds, freedom)
        if gains.sum() <= best_gains.sum():
            break
        best, best_gains = freedom, gains
    sums = np.bincount(rows.groups, best_gains)
    error = np.sqrt(len(sums)) * sums.std()  # of their sum
    return best if sums.sum() > error else None


def _cross_fit(rows: _Rows, folds: Sequence[Mask], freedom: float | None) -> Matrix:
    """Return the weighted loss of each row, (n,), by links fitted to the other folds; 0 if none holds it."""
    losses = np.zeros(len(rows.weights))
    for held in folds:
        train = (rows.decisions[~held], rows.targets[~held], rows.weights[~held])
        if freedom is None:
            link = fit_simple_link(*train, task="multiclass")
        else:
            link = Link("softmax", *fit_vector_scaling(*train, freedom=freedom))
        answers = link(rows.decisions[held])
        losses[held] = rows.weights[held] * TASKS["multiclass"].compute_losses(answers, rows.targets[held])
    return losses
