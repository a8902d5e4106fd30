"""Folds for cross-validation: stratified, whole groups, deterministic.

Choosing a head's settings by cross-validation, and the temperature of its probabilities with them.

Every fold standardises, solves and answers on its own; what is chosen has the lowest loss on the answers to
images that were held out. Folds may share sums over rows (`views`), never what is found from them.

The same answers set the temperature (Guo et al., On Calibration of Modern Neural Networks, 2017): one number
by which decision values are divided, which changes no order among them. As in Platt's scaling (1999), the
targets it is fitted to are drawn a little towards the middle: decisions without an error do not end in
certainty.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from regraft.solvers.decision import Link, Rule, Scaler
from regraft.tasks import TASKS

__all__ = [
    "EXACT",
    "ROUGH",
    "Family",
    "Fit",
    "Held",
    "Mask",
    "Part",
    "Settings",
    "Trial",
    "cross_validate",
    "folds",
    "sample_of",
    "solved",
    "strata",
    "warmth",
]


Labels = NDArray[np.int64]
NEIGHBOURS = 10  # samples next to each other in a target's order make a stratum of a regression


def folds(
    targets: NDArray[Any],
    *,
    task: str = "multiclass",
    count: int,
    seed: int,
    groups: NDArray[Any] | None = None,
) -> list[NDArray[np.bool_]]:
    """Stratified folds as masks of the held-out rows.

    Args:
        targets: class numbers (n,), 0/1 a label (n, labels), or numbers (n, targets), by the task.
        task: one of `tasks.TASKS`.
        count: how many folds, at most; folds that would hold nothing out are left out.
        seed: another seed is another partition.
        groups: shape (n,); rows of one group (several views of one image) are held out together.

    Returns:
        Masks of shape (n,), at most one of them true for a row. A class is never held out whole: every fold
        trains on every class, so the rows of a class with one image (or one group) are held out in none.

    Example:
        >>> [int(held.sum()) for held in folds(np.array([0, 0, 0, 1, 1, 1]), count=3, seed=0)]
        [2, 2, 2]
    """
    _, first, unit = np.unique(
        np.arange(len(targets)) if groups is None else groups, return_index=True, return_inverse=True
    )
    rng = np.random.default_rng(seed)
    kinds = strata(targets[first], task)
    fold = np.full(len(first), -1)
    for offset, kind in enumerate(np.unique(kinds)):
        units = rng.permutation(np.flatnonzero(kinds == kind))
        held = units if len(units) > 1 else units[:0]
        fold[held] = (np.arange(len(held)) + offset) % count
    if task in ("multiclass", "binary"):
        _keep_every_class(fold, unit, targets.ravel())
    found = fold[unit]
    return [found == number for number in range(count) if (found == number).any()]


def strata(targets: NDArray[Any], task: str) -> Labels:
    """A number for each row, shape (n,), such that rows of one number are alike: of one class, of the same
    rarest label, or close together in the order of a regression's targets (their mean, standardised)."""
    if task in ("multiclass", "binary"):
        return targets.ravel().astype(np.int64)
    if task == "multilabel":
        has = targets > 0
        rarest: Labels = np.where(has, has.sum(0), len(has) + 1).argmin(1)
        return np.where(has.any(1), rarest, has.shape[1])
    spread = targets.std(0)
    place = (targets / np.where(spread > 0, spread, 1)).reshape(len(targets), -1).mean(1)
    ranks = np.empty(len(targets), np.int64)
    ranks[np.argsort(place, kind="stable")] = np.arange(len(targets))
    return ranks // NEIGHBOURS


def sample_of(kinds: Labels, most: int, seed: int) -> NDArray[np.bool_]:
    """A mask of about `most` rows, the same share of each stratum, two at least."""
    chosen = np.zeros(len(kinds), bool)
    rng = np.random.default_rng(seed)
    for kind in np.unique(kinds):
        rows = rng.permutation(np.flatnonzero(kinds == kind))
        chosen[rows[: max(2, round(len(rows) * most / len(kinds)))]] = True
    return chosen


def _keep_every_class(fold: Labels, unit: Labels, labels: NDArray[Any]) -> None:
    """Hold out no group that takes a class's last rows along. Changes `fold`."""
    for label in np.unique(labels):
        units = unit[labels == label]
        if len(np.unique(fold[units])) == 1:
            fold[units] = -1


Matrix = NDArray[np.float64]
Settings = dict[str, float | str]

ROUGH, EXACT = 1e-3, 1e-8  # gradient tolerances
GAINS = (-6.0, 9.0)  # logarithms of the least and the greatest gain
SMALL = 10_000_000  # numbers in a matrix up to which one thread is faster than two


@dataclass(frozen=True)
class Part:
    """Training rows.

    Attributes:
        data: features, shape (n, d), standardised where the family wants them so.
        targets: encoded, shape (n, units): one-hot, 0/1, or a regression's targets standardised.
        weights: one a row, of mean 1.
        task: one of `tasks.TASKS`.
        seed: for solvers that draw numbers.
        blocks: columns of each block of features, see `Scaler.of`; empty for one.
        tolerance: of the gradient, where the solver iterates.
    """

    data: Matrix
    targets: Matrix
    weights: Matrix
    task: str
    seed: int = 0
    blocks: tuple[int, ...] = ()
    tolerance: float = EXACT

    def rows(self, chosen: NDArray[np.bool_]) -> Part:
        """Some of the rows."""
        return replace(
            self, data=self.data[chosen], targets=self.targets[chosen], weights=self.weights[chosen]
        )

    def told(self, chosen: NDArray[np.bool_]) -> Part:
        """Targets and weights of some of the rows, without their features, which may be large."""
        return replace(self, data=self.data[:, :0]).rows(chosen)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class numbers, shape (n,), of a multiclass or binary part."""
        one_hot = self.task == "multiclass"
        return (self.targets.argmax(1) if one_hot else self.targets[:, 0]).astype(np.int64)

    @property
    def signs(self) -> Matrix:
        """-1 and 1 for 0 and 1; a regression's targets as they are."""
        return self.targets if self.task == "regression" else 2 * self.targets - 1


Fit = Callable[[Settings], Rule]
Mask = NDArray[np.bool_]
Held = Callable[[Settings], Matrix]


@dataclass(frozen=True)
class Family:
    """A kind of head.

    Attributes:
        phrase: its name in a sentence.
        prepare: makes a part ready and gives back the function that solves it under given settings.
        grid: the settings to choose from, for a part.
        tasks: those it can do.
        ordered: the loss has one valley along the grid; what comes after two rises is left out.
        per_unit: every label or target gets settings of its own.
        scaled: features are standardised first.
        calibrated: its decision values are on the scale of probabilities already.
        count: how many folds.
        views: makes a part ready for folds that share work, and gives back the function from a mask of
            held-out rows to what answers for them: decision values (m, units), of settings. Used where there
            are more rows than features; None: every fold prepares by itself.
        warm: a setting starts from what was found for the one before it, so they are solved in order.
        most: rows that cross-validation looks at; more are left out of it, a share of each class.
    """

    phrase: str
    prepare: Callable[[Part], Fit]
    grid: Callable[[Part], Sequence[Settings]]
    tasks: tuple[str, ...] = tuple(TASKS)
    ordered: bool = False
    per_unit: bool = False
    scaled: bool = True
    calibrated: bool = False
    count: int = 5
    views: Callable[[Part], Callable[[Mask], Held]] | None = None
    warm: bool = False
    most: int = 1_000_000


@dataclass(frozen=True)
class Trial:
    """Settings that were tried.

    Attributes:
        settings: the settings.
        decisions: values of the rows that were held out, shape (m, units).
        link: the temperature that suits them.
        losses: mean loss, shape (units,): of each label or target, or one and the same for classes.
    """

    settings: Settings
    decisions: Matrix
    link: Link
    losses: Matrix


def cross_validate(
    family: Family, part: Part, *, groups: NDArray[np.int64] | None = None
) -> tuple[list[Trial], NDArray[np.bool_]]:
    """Try a family's settings on held-out rows.

    Args:
        family: what to try.
        part: features as they are, not standardised.
        groups: shape (n,); rows of one group are held out together.

    Returns:
        The trials in the order of the grid, and the mask (n,) of the rows they answered: those that a fold
        held out. No trial where nothing can be held out.
    """
    grid = list(family.grid(part))
    answers = plain(part)
    sample = sample_of(strata(answers, part.task), family.most, part.seed)
    part = part.rows(sample)
    groups = None if groups is None else groups[sample]
    parts = folds(answers[sample], task=part.task, count=family.count, seed=part.seed, groups=groups)
    seen = np.any(parts, axis=0) if parts else np.zeros(len(part.data), bool)
    trials: list[Trial] = []
    hold, told = _holder(family, part) if parts else None, part.told(seen)
    # A thread a fold keeps the processors busy; several in one matrix product only get in the way.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        ready = list(pool.map(hold, parts)) if hold else []

        def try_out(settings: Settings, run: Callable[..., Iterable[Matrix]] = map) -> Trial:
            decisions = np.zeros_like(part.targets)
            for held, answer in zip(parts, run(partial(_answer, settings), ready), strict=True):
                decisions[held] = answer
            return judged(settings, decisions[seen], told, family)

        # Where folds share all of their work, a setting is cheap: each has a thread of its own.
        together = family.views is not None and not family.warm
        tried = pool.map(try_out, grid) if together else (try_out(settings, pool.map) for settings in grid)
        for trial in tried if parts else ():
            trials.append(trial)
            last = [trial.losses.mean() for trial in trials[-3:]]
            if family.ordered and len(last) == 3 and last[0] < last[1] < last[2]:
                break
    answered = np.zeros(len(sample), bool)
    answered[sample] = seen
    return trials, answered


def solved(family: Family, part: Part, settings: Settings) -> tuple[Rule, Scaler]:
    """The family's rule for all rows of a part, whose features are as they are."""
    scaler = Scaler.of(part.data, part.blocks) if family.scaled else Scaler.none(part.data.shape[1])
    threads = 1 if part.data.size < SMALL else None
    with threadpool_limits(threads):
        fit = family.prepare(replace(part, data=scaler(part.data)))
    with threadpool_limits(threads):  # again, for libraries that were loaded on the way
        return fit(settings), scaler


def _holder(family: Family, part: Part) -> Callable[[Mask], Held]:
    """From a mask of held-out rows to what answers for them, solved on the others."""
    if family.views is not None and len(part.data) > part.data.shape[1]:
        return family.views(part)

    def hold(held: Mask) -> Held:
        train = part.rows(~held)
        scaler = Scaler.of(train.data, part.blocks) if family.scaled else Scaler.none(part.data.shape[1])
        data = scaler(part.data[held])
        fit = family.prepare(replace(train, data=scaler(train.data), tolerance=ROUGH))
        return lambda settings: fit(settings).decide(data)

    return hold


def _answer(settings: Settings, fold: Held) -> Matrix:
    with threadpool_limits(1, user_api="openmp"):  # OpenMP counts for each thread that calls it
        return fold(settings)


def plain(part: Part) -> Matrix | NDArray[np.int64]:
    """Targets as `folds` takes them."""
    return part.labels if part.task in ("multiclass", "binary") else part.targets


def judged(settings: Settings, decisions: Matrix, part: Part, family: Family) -> Trial:
    """Decision values of the rows of a part, (n, units), with the temperature and the losses they have."""
    gain = np.ones(part.targets.shape[1])
    if not family.calibrated and part.task != "regression":
        gain = warmth(decisions, part)
    link = Link(TASKS[part.task].activation, gain, np.zeros_like(gain))
    answers, weights = link(decisions), part.weights / part.weights.sum()
    columns = [slice(None)] if part.task == "multiclass" else [slice(at, at + 1) for at in range(len(gain))]
    each = [weights @ TASKS[part.task].losses(answers[:, at], part.targets[:, at]) for at in columns]
    return Trial(settings, decisions, link, np.broadcast_to(np.array(each), gain.shape))


def warmth(decisions: Matrix, part: Part) -> Matrix:
    """One over the temperature of each unit, shape (units,): one for all classes, one a label.

    Args:
        decisions: shape (n, units).
        part: the targets and weights of the same rows.
    """
    units = decisions.shape[1]
    share = 1 / (len(decisions) + 2)
    if part.task == "multiclass":
        soft = part.targets * (1 - share) + share / units
        return np.full(units, _gain(decisions, soft, part.weights))
    soft = part.targets * (1 - share) + share / 2
    pairs = [
        (np.stack([np.zeros_like(values), values], 1), np.stack([1 - truth, truth], 1))
        for values, truth in zip(decisions.T, soft.T, strict=True)
    ]
    return np.array([_gain(values, truth, part.weights) for values, truth in pairs])


def _gain(decisions: Matrix, soft: Matrix, weights: Matrix) -> float:
    """The g of least cross-entropy of softmax(g decisions): convex in g, so where its slope is zero."""
    from scipy.optimize import brentq

    below = (decisions - decisions.max(1, keepdims=True)).astype(np.float32)
    wanted = float(weights @ np.einsum("ij,ij->i", soft, below))
    answer = np.empty_like(below)

    def slope(log_gain: float) -> float:
        np.exp(np.multiply(below, np.float32(np.exp(log_gain)), out=answer), out=answer)
        return float(weights @ (np.einsum("ij,ij->i", answer, below) / answer.sum(1))) - wanted

    low, high = GAINS
    if slope(low) >= 0:
        return float(np.exp(low))
    return float(np.exp(high if slope(high) <= 0 else brentq(slope, low, high, xtol=1e-3)))
