"""Cross-validation: folds, and the choice of a head's settings.

Each fold standardises, solves and answers on its own; the chosen settings have the lowest loss on the
held-out images, with a temperature of its own for each choice (`calibration`). Folds may share work
(`SolverSpec.prepare_folds`) if that leaves their solutions unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from regraft.solvers.calibration import fit_inverse_temperature
from regraft.solvers.decision import Link, Rule, Scaler
from regraft.tasks import TASKS

__all__ = [
    "EXACT", "ROUGH", "AnswerHeldOut", "FewerRows", "Fit", "HeldOut", "Mask", "Settings", "SolverSpec",
    "TrainingRows", "Trial", "answer_fold", "assign_strata", "cross_validate", "draw_folds",
    "draw_stratified_sample", "fit_rule", "make_fold_preparer", "make_folds", "score_trial",
]  # fmt: skip

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]
Mask = NDArray[np.bool_]
Settings = dict[str, float | str]
Fit = Callable[[Settings], Rule]
AnswerHeldOut = Callable[[Settings], Matrix]  # decision values (m, units) of the rows that a fold holds out

ROUGH, EXACT = 1e-3, 1e-8  # gradient tolerances
SINGLE_THREAD_SIZE = 10_000_000  # numbers in a matrix up to which one thread is faster than two
STRATUM_SIZE = 10  # samples next to each other in the order of a regression's targets


@dataclass(frozen=True)
class TrainingRows:
    """Features, targets and weights of the rows that a head is solved on.

    Attributes:
        data: features, shape (n, d), standardised if the solver wants them so.
        targets: encoded targets, shape (n, units): one-hot, 0/1, or a regression's targets standardised.
        weights: weight of each row, with mean 1.
        task: one of `tasks.TASKS`.
        seed: random seed, for folds and for solvers that draw numbers.
        blocks: columns of each block of features, see `Scaler.from_features`; empty for a single block.
        tolerance: gradient tolerance of iterative solvers.
    """

    data: Matrix
    targets: Matrix
    weights: Matrix
    task: str
    seed: int = 0
    blocks: tuple[int, ...] = ()
    tolerance: float = EXACT

    def select(self, mask: Mask) -> TrainingRows:
        """Return the rows of a mask (n,)."""
        return replace(self, data=self.data[mask], targets=self.targets[mask], weights=self.weights[mask])

    def select_targets(self, mask: Mask) -> TrainingRows:
        """Return the rows of a mask (n,) without their features, which may be large."""
        return replace(self, data=self.data[:, :0]).select(mask)

    @property
    def labels(self) -> Labels:
        """Class numbers, shape (n,), of a multiclass or binary task."""
        one_hot = self.task == "multiclass"
        return (self.targets.argmax(1) if one_hot else self.targets[:, 0]).astype(np.int64)

    @property
    def signs(self) -> Matrix:
        """-1 and 1 for 0 and 1; a regression's targets unchanged."""
        return self.targets if self.task == "regression" else 2 * self.targets - 1

    @property
    def fold_targets(self) -> Matrix | Labels:
        """Targets in the form that `make_folds` takes."""
        return self.labels if self.task in ("multiclass", "binary") else self.targets


@dataclass(frozen=True)
class SolverSpec:
    """A kind of head: how to solve it and which settings to try.

    Attributes:
        phrase: name for use in a sentence.
        prepare: takes rows and returns the function that solves them with given settings.
        grid: returns the settings to choose from, for rows.
        tasks: tasks the solver can do.
        is_unimodal: the loss has one valley along the grid, so cross-validation stops after two rises.
        is_per_unit: each label or target gets its own settings.
        is_scaled: features are standardised first.
        is_calibrated: decision values are already on the scale of probabilities, so settings are compared
            without a temperature.
        fold_count: number of folds.
        prepare_folds: takes rows and returns a function from a mask of held-out rows to `AnswerHeldOut`, with
            work shared between folds. Used if there are more rows than features; None prepares each fold
            separately.
        is_warm_started: each setting starts from the solution of the previous one, so their order matters.
        max_rows: rows used for cross-validation; of more, a stratified sample.
        keeps_predictions: a user's estimator: calibration neither moves its decisions nor changes its
            probabilities, if it gives any.
    """

    phrase: str
    prepare: Callable[[TrainingRows], Fit]
    grid: Callable[[TrainingRows], Sequence[Settings]]
    tasks: tuple[str, ...] = tuple(TASKS)
    is_unimodal: bool = False
    is_per_unit: bool = False
    is_scaled: bool = True
    is_calibrated: bool = False
    fold_count: int = 5
    prepare_folds: Callable[[TrainingRows], Callable[[Mask], AnswerHeldOut]] | None = None
    is_warm_started: bool = False
    max_rows: int = 1_000_000
    keeps_predictions: bool = False

    def make_scaler(self, rows: TrainingRows) -> Scaler:
        """Return the scaler of the rows' features, or one that changes nothing."""
        if self.is_scaled:
            return Scaler.from_features(rows.data, rows.blocks, rows.weights)
        return Scaler.identity(rows.data.shape[1])


class FewerRows(NamedTuple):
    """Decision values of the same rows by heads that were solved on fewer rows.

    Attributes:
        decisions: shape (m, units).
        step: the share of the difference from these decision values to those of the folds that a head of all
            rows is likely to add.
    """

    decisions: Matrix
    step: float


@dataclass(frozen=True)
class HeldOut:
    """Decision values of rows by heads that were solved without them, before the link.

    Attributes:
        rows: numbers of the rows, shape (m,), ascending.
        decisions: shape (m, units).
        fewer: see `solvers.fewer_rows`; None if there is nothing to compare with.
    """

    rows: Labels
    decisions: Matrix
    fewer: FewerRows | None = None


@dataclass(frozen=True)
class Trial:
    """The held-out answers of one choice of settings.

    Attributes:
        settings: the settings.
        decisions: decision values of the held-out rows, shape (m, units).
        link: link with the temperature fitted to them.
        losses: mean loss, shape (units,): of each label or target; for classes the same number throughout.
    """

    settings: Settings
    decisions: Matrix
    link: Link
    losses: Matrix


# --- folds


def make_folds(
    targets: NDArray[Any],
    *,
    task: str = "multiclass",
    count: int,
    seed: int,
    groups: NDArray[Any] | None = None,
) -> list[Mask]:
    """Return stratified folds as masks of the held-out rows.

    Args:
        targets: class numbers (n,), 0/1 per label (n, labels), or numbers (n, targets), by the task.
        task: one of `tasks.TASKS`.
        count: number of folds at most; empty folds are dropped.
        seed: random seed of the partition.
        groups: shape (n,); rows of one group (several views of one image) are held out together.

    Returns:
        Masks of shape (n,), at most one of them true for a row. No fold holds out all of a class: every fold
        trains on every class, so a class of one image (or one group) is never held out.

    Example:
        >>> [int(held.sum()) for held in make_folds(np.array([0, 0, 0, 1, 1, 1]), count=3, seed=0)]
        [2, 2, 2]
    """
    names = np.arange(len(targets)) if groups is None else groups
    _, first_rows, group_of_row = np.unique(names, return_index=True, return_inverse=True)
    rng = np.random.default_rng(seed)
    strata = assign_strata(targets[first_rows], task)
    fold_of_group = np.full(len(first_rows), -1)
    for offset, stratum in enumerate(np.unique(strata)):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        if len(members) > 1:
            fold_of_group[members] = (np.arange(len(members)) + offset) % count
    if task in ("multiclass", "binary"):
        _keep_every_class(fold_of_group, group_of_row, targets.ravel())
    fold_of_row = fold_of_group[group_of_row]
    return [fold_of_row == number for number in range(count) if (fold_of_row == number).any()]


def assign_strata(targets: NDArray[Any], task: str) -> Labels:
    """Return the stratum of each row, shape (n,): rows of one number are alike.

    Strata are the classes; for labels the rarest label of the row; for a regression, neighbours in the order
    of the targets (their mean, standardised).
    """
    if task in ("multiclass", "binary"):
        return targets.ravel().astype(np.int64)
    if task == "multilabel":
        has = targets > 0
        rarest: Labels = np.where(has, has.sum(0), len(has) + 1).argmin(1)
        return np.where(has.any(1), rarest, has.shape[1])
    spread = targets.std(0)
    mean = (targets / np.where(spread > 0, spread, 1)).reshape(len(targets), -1).mean(1)
    ranks = np.empty(len(targets), np.int64)
    ranks[np.argsort(mean, kind="stable")] = np.arange(len(targets))
    return ranks // STRATUM_SIZE


def draw_stratified_sample(strata: Labels, size: int, seed: int) -> Mask:
    """Return a mask of about `size` rows: the same share of each stratum, at least two rows."""
    mask = np.zeros(len(strata), bool)
    rng = np.random.default_rng(seed)
    for stratum in np.unique(strata):
        rows = rng.permutation(np.flatnonzero(strata == stratum))
        mask[rows[: max(2, round(len(rows) * size / len(strata)))]] = True
    return mask


def _keep_every_class(fold_of_group: Labels, group_of_row: Labels, labels: NDArray[Any]) -> None:
    """Hold out no group that contains the last rows of a class. Changes `fold_of_group`."""
    for label in np.unique(labels):
        groups = group_of_row[labels == label]
        if len(np.unique(fold_of_group[groups])) == 1:
            fold_of_group[groups] = -1


def draw_folds(
    rows: TrainingRows, *, max_rows: int, count: int, groups: Labels | None
) -> tuple[Mask, list[Mask]]:
    """Return the mask of a stratified sample of about `max_rows` rows, and the folds of the sample.

    Rows of the weight 0 are not in the sample: they count nowhere.
    """
    sample = draw_stratified_sample(assign_strata(rows.fold_targets, rows.task), max_rows, rows.seed)
    sample &= rows.weights > 0
    targets, groups = rows.fold_targets[sample], None if groups is None else groups[sample]
    return sample, make_folds(targets, task=rows.task, count=count, seed=rows.seed, groups=groups)


# --- trials


def cross_validate(
    spec: SolverSpec, rows: TrainingRows, *, groups: Labels | None = None
) -> tuple[list[Trial], Mask]:
    """Try a solver's settings on held-out rows.

    Args:
        spec: solver to try.
        rows: rows with their raw features, not standardised.
        groups: shape (n,); rows of one group are held out together.

    Returns:
        The trials in the order of the grid, and the mask (n,) of the rows they answered: those that a fold
        held out. There is no trial if nothing can be held out.
    """
    grid = list(spec.grid(rows))
    sample, folds = draw_folds(rows, max_rows=spec.max_rows, count=spec.fold_count, groups=groups)
    answered = np.zeros(len(sample), bool)
    if not folds:
        return [], answered
    answered[sample] = np.any(folds, axis=0)
    return _try_grid(spec, rows.select(sample), grid, folds), answered


def _try_grid(
    spec: SolverSpec, rows: TrainingRows, grid: Sequence[Settings], folds: Sequence[Mask]
) -> list[Trial]:
    prepare_fold, is_held = make_fold_preparer(spec, rows), np.any(folds, axis=0)
    truth = rows.select_targets(is_held)
    trials: list[Trial] = []
    # One thread per fold keeps the processors busy; several threads in one matrix product get in the way.
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        prepared = list(pool.map(prepare_fold, folds))

        def try_settings(settings: Settings, run: Callable[..., Iterable[Matrix]] = map) -> Trial:
            decisions = np.zeros_like(rows.targets)
            for held, values in zip(folds, run(partial(answer_fold, settings), prepared), strict=True):
                decisions[held] = values
            return score_trial(settings, decisions[is_held], truth, spec)

        # If folds share all of their work, a setting is cheap: each setting has its own thread.
        if spec.prepare_folds is not None and not spec.is_warm_started:
            results: Iterable[Trial] = pool.map(try_settings, grid)
        else:
            results = (try_settings(settings, pool.map) for settings in grid)
        for trial in results:
            trials.append(trial)
            last = [trial.losses.mean() for trial in trials[-3:]]
            if spec.is_unimodal and len(last) == 3 and last[0] < last[1] < last[2]:
                break
    return trials


def make_fold_preparer(spec: SolverSpec, rows: TrainingRows) -> Callable[[Mask], AnswerHeldOut]:
    """Return the function from a mask of held-out rows to their answers, solved on the other rows."""
    if spec.prepare_folds is not None and len(rows.data) > rows.data.shape[1]:
        return spec.prepare_folds(rows)

    def prepare_fold(held: Mask) -> AnswerHeldOut:
        train = rows.select(~held)
        scaler = spec.make_scaler(train)
        data = scaler(rows.data[held])
        fit = spec.prepare(replace(train, data=scaler(train.data), tolerance=ROUGH))
        return lambda settings: fit(settings).decide(data)

    return prepare_fold


def answer_fold(settings: Settings, answer: AnswerHeldOut) -> Matrix:
    """Return the decision values of a fold, in one thread."""
    with threadpool_limits(1, user_api="openmp"):  # OpenMP counts for each thread that calls it
        return answer(settings)


def fit_rule(spec: SolverSpec, rows: TrainingRows, settings: Settings) -> tuple[Rule, Scaler]:
    """Solve all rows, whose features are not standardised yet; return the rule and the scaler before it."""
    scaler = spec.make_scaler(rows)
    threads = 1 if rows.data.size < SINGLE_THREAD_SIZE else None
    with threadpool_limits(threads):
        fit = spec.prepare(replace(rows, data=scaler(rows.data)))
    with threadpool_limits(threads):  # again, for libraries that `prepare` loaded
        return fit(settings), scaler


def score_trial(settings: Settings, decisions: Matrix, rows: TrainingRows, spec: SolverSpec) -> Trial:
    """Fit the temperature of the rows' decision values (n, units) and measure their losses."""
    task, gain = TASKS[rows.task], np.ones(rows.targets.shape[1])
    if not spec.is_calibrated and rows.task != "regression":
        gain = fit_inverse_temperature(decisions, rows.targets, rows.weights, task=rows.task)
    link = Link(task.activation, gain, np.zeros_like(gain))
    answers, weights = link(decisions), rows.weights / rows.weights.sum()
    columns = (
        [slice(None)] if rows.task == "multiclass" else [slice(unit, unit + 1) for unit in range(len(gain))]
    )
    losses = [
        weights @ task.compute_losses(answers[:, column], rows.targets[:, column]) for column in columns
    ]
    return Trial(settings, decisions, link, np.broadcast_to(np.array(losses), gain.shape))
