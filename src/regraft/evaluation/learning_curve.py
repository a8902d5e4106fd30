"""Would more images help? The score of a head that is solved on shares of the training images.

Heads are solved on 10, 20, 50 and 100 % of four fifths of the images, of each class alike, and scored on the
other fifth; smaller shares several times, with other images. The test part is not touched. How the scores go
on is a power law, see `metrics.learning_curve`.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from regraft.metrics.classification import score_classes
from regraft.metrics.learning_curve import (
    LearningCurve,
    OutputGain,
    fit_power_law,
    fit_scores,
    summarise_draws,
)
from regraft.metrics.ranking import average_precision
from regraft.solvers.closed_form import standardise_in_place
from regraft.solvers.cross_validation import (
    ROUGH,
    Mask,
    Settings,
    SolverSpec,
    TrainingRows,
    assign_strata,
    draw_stratified_sample,
    make_folds,
    score_trial,
)
from regraft.solvers.decision import Link, Scaler
from regraft.solvers.solve import SOLVER_SPECS, make_training_rows
from regraft.tasks import TASKS

__all__ = ["compute_learning_curve"]

SHARES = (0.1, 0.2, 0.5, 1.0)  # of the images that a fold trains on
REPEATS = (4, 4, 2, 1)  # of each share
FOLDS = 5
MIN_IMAGES = 50  # of fewer, scores are too coarse for a forecast
MIN_SIZES = 3  # different numbers of images that a curve needs
MIN_BLOCKS = 3  # of images, that its band needs
MAX_ROWS = 50_000  # images, of more a stratified sample
SCORED = 4_000  # images that are enough to score: of many images, not all folds are held out
PENALTIES = {"logistic": (0.3, 0.1, 0.03, 0.01, 0.003), "ridge": (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)}
BLOCKS = 10  # of images, for the bootstrap
SHOWN_GAINS = 3

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


class _Answers(NamedTuple):
    """Decision values of held-out rows, by heads that were solved on one share of the other rows.

    `sizes` are the numbers of rows they were solved on; `repeats` holds values of shape (n, units).
    """

    sizes: list[int]
    repeats: list[Floats]


def compute_learning_curve(
    features: NDArray[np.floating[Any]],
    targets: NDArray[Any],
    *,
    task: str,
    solver: str = "",
    seed: int = 0,
    groups: NDArray[np.integer[Any]] | None = None,
    weights: NDArray[np.floating[Any]] | None = None,
    limits: tuple[int, int] = (MAX_ROWS, SCORED),
) -> LearningCurve | None:
    """Measure how the score of a head grows with the number of images, and what more would bring.

    Args:
        features, targets, task, seed: as for `solvers.solve.solve`.
        solver: logistic, ridge or lda; for another the first of them that can do the task.
        groups: shape (n,); rows of one group are left out and held out together.
        weights: shape (n,); how much each row counts.
        limits: the most images to use, of more a stratified sample; and how many are enough to score.

    Returns:
        None if there are fewer than 50 images, too few of the classes, or nothing to learn: numbers that are
        all the same.

    Raises:
        DataError: features and targets that no head can be solved on.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(300) % 3
        >>> features = 2 * np.eye(40)[labels] + rng.normal(size=(300, 40))
        >>> curve = compute_learning_curve(features, labels, task="multiclass")
        >>> curve.sizes, curve.scores[0] < curve.scores[-1], curve.gain.low > 0
        ((24, 48, 120, 240), True, True)
    """
    rows, _ = make_training_rows(
        np.asarray(features), np.asarray(targets), task=task, seed=seed, weights=weights
    )
    images, numbers = len(rows.data), np.arange(len(rows.data)) if groups is None else np.asarray(groups)
    if images > limits[0]:
        sample = draw_stratified_sample(assign_strata(rows.fold_targets, task), limits[0], seed)
        rows, numbers = rows.select(sample), numbers[sample]
    folds = make_folds(rows.fold_targets, task=task, count=FOLDS, seed=seed, groups=numbers)
    folds = folds[: max(1, -(-limits[1] * FOLDS // len(rows.data)))]
    if images < MIN_IMAGES or not folds or (rows.targets.std(0) == 0).all():
        return None
    # Standardised once, without labels: heads differ in the images they are solved on, and in nothing else.
    data = standardise_in_place(rows.data.astype(np.float32), Scaler.from_features(rows.data))
    rows, name = replace(rows, data=data, tolerance=ROUGH), _choose_solver(solver, task)
    answers = _answer_shares(name, rows, folds, numbers)
    sizes = np.array([round(float(np.mean(share.sizes))) for share in answers])
    is_held = np.any(folds, axis=0)
    truth = rows.select_targets(is_held)
    blocks = make_folds(truth.fold_targets, task=task, count=BLOCKS, seed=seed + 1, groups=numbers[is_held])
    if len(set(sizes.tolist())) < MIN_SIZES or len(blocks) < MIN_BLOCKS:
        return None
    values = _score_blocks(answers, truth, blocks, sizes)
    if not np.isfinite(values.by_block).all():
        return None
    law = fit_power_law(sizes, values.by_block, values.noise, seed=seed)
    ends = law.predict(np.array([images, 2 * images]))
    known_sizes = {*sizes.tolist(), images, 2 * images, 4 * images}
    return LearningCurve(
        score=TASKS[task].score_name,
        solver=SOLVER_SPECS[name].phrase,
        images=images,
        sizes=tuple(sizes.tolist()),
        scores=tuple(values.by_block.mean(0).tolist()),
        forecasts={size: law.forecast(size) for size in sorted(known_sizes)},
        gain=summarise_draws(ends[:, 1] - ends[:, 0]),
        exponent=float(np.median(law.exponent)),
        output_gains=_list_output_gains(answers, truth, sizes, images=images, exponent=law.exponent),
    )


def _choose_solver(solver: str, task: str) -> str:
    """Return the solver if it is quick and can do the task, otherwise one that does."""
    if solver in (*PENALTIES, "lda") and task in SOLVER_SPECS[solver].tasks:
        return solver
    return "ridge" if task == "regression" else "logistic"


# --- heads on shares of the images


def _answer_shares(name: str, rows: TrainingRows, folds: list[Mask], groups: Labels) -> list[_Answers]:
    """Solve a head for each share, repeat and fold; return the answers to the rows that folds hold out."""
    spec, is_held = SOLVER_SPECS[name], np.any(folds, axis=0)
    ranks = [_rank_groups(rows, groups, rows.seed + repeat) for repeat in range(max(REPEATS))]
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        settings = _choose_settings(name, rows, folds[0], ranks[0])
        jobs = [
            (ranks[repeat] < share, held)
            for share, count in zip(SHARES, REPEATS, strict=True)
            for repeat in range(count)
            for held in folds
        ]
        results = iter(pool.map(lambda job: _answer_fold(spec, settings, rows, *job), jobs))
        answers = []
        for count in REPEATS:
            share = _Answers([], [])
            for _ in range(count):
                decisions = np.zeros_like(rows.targets)
                for held in folds:
                    size, decisions[held] = next(results)
                    share.sizes.append(size)
                share.repeats.append(decisions[is_held])
            answers.append(share)
    return answers


def _rank_groups(rows: TrainingRows, groups: Labels, seed: int) -> Floats:
    """Return for each row the share of images of its kind from which on it is among those trained on, (n,).

    Rows of a group have the same share; the first group of each class or stratum is always among them.
    """
    _, first_rows, group_of_row = np.unique(groups, return_index=True, return_inverse=True)
    strata = assign_strata(rows.fold_targets[first_rows], rows.task)
    rng, rank = np.random.default_rng(seed), np.zeros(len(first_rows))
    for stratum in np.unique(strata):
        members = rng.permutation(np.flatnonzero(strata == stratum))
        rank[members] = np.arange(len(members)) / len(members)
    ranks: Floats = rank[group_of_row]
    return ranks


def _answer_fold(
    spec: SolverSpec, settings: Settings, rows: TrainingRows, is_chosen: Mask, held: Mask
) -> tuple[int, Floats]:
    """Return how many rows a head was solved on, and its decision values of the held-out rows."""
    chosen = _complete_classes(rows, is_chosen & ~held, ~held)
    rule = spec.prepare(rows.select(chosen))(settings)
    return int(chosen.sum()), rule.decide(rows.data[held])


def _complete_classes(rows: TrainingRows, chosen: Mask, allowed: Mask) -> Mask:
    """Add the first allowed row of every class that has none among those chosen."""
    if rows.task not in ("multiclass", "binary"):
        return chosen
    chosen = chosen.copy()
    for label in np.setdiff1d(rows.labels[allowed], rows.labels[chosen]):
        chosen[np.flatnonzero(allowed & (rows.labels == label))[0]] = True
    return chosen


def _choose_settings(name: str, rows: TrainingRows, held: Mask, ranks: Floats) -> Settings:
    """Return the settings of least loss on one fold, for heads on half of the other images."""
    spec = SOLVER_SPECS[name]
    grid: list[Settings] = [{"penalty": penalty} for penalty in PENALTIES.get(name, ())]
    grid = grid or list(spec.grid(rows))
    chosen = _complete_classes(rows, (ranks < 0.5) & ~held, ~held)
    fit, truth = spec.prepare(rows.select(chosen)), rows.select_targets(held)
    trials = [score_trial(settings, fit(settings).decide(rows.data[held]), truth, spec) for settings in grid]
    return min(trials, key=lambda trial: float(trial.losses.mean())).settings


# --- scores and their spread


class _BlockScores(NamedTuple):
    """Scores of each block of images at each size, (blocks, sizes), and their noise by the choice of images.

    The score of a block is its jackknife pseudo-value, so that their mean is the score of all images. `noise`
    is the standard error of each size's mean over repeats, (sizes,).
    """

    by_block: Floats
    noise: Floats


def _score_blocks(
    answers: list[_Answers], truth: TrainingRows, blocks: list[Mask], sizes: Labels
) -> _BlockScores:
    everything, count = np.ones(len(truth.targets), bool), len(blocks)
    columns, squares, freedom = [], 0.0, 0
    for share, size in zip(answers, sizes, strict=True):
        total = np.array([_score(decisions, everything, truth) for decisions in share.repeats])
        without = np.array(
            [[_score(decisions, ~block, truth) for block in blocks] for decisions in share.repeats]
        )
        columns.append((count * total[:, None] - (count - 1) * without).mean(0))
        squares += float(size * ((total - total.mean()) ** 2).sum())
        freedom += len(total) - 1
    # Few repeats say little on the noise of one size: all sizes together do, for it falls as their roots.
    repeats = np.array([len(share.repeats) for share in answers])
    return _BlockScores(np.stack(columns, 1), np.sqrt(squares / max(freedom, 1) / sizes / repeats))


def _score(decisions: Floats, mask: Mask, truth: TrainingRows) -> float:
    task, units = TASKS[truth.task], truth.targets.shape[1]
    link = Link(task.activation, np.ones(units), np.zeros(units))
    return task.score(link(decisions[mask]), truth.targets[mask])


# --- classes


def _list_output_gains(
    answers: list[_Answers], truth: TrainingRows, sizes: Labels, *, images: int, exponent: Floats
) -> tuple[OutputGain, ...]:
    """Return the outputs that twice as many images would help most, by the power law of all outputs."""
    if truth.task == "regression" or truth.targets.shape[1] < 2:
        return ()
    scores: Floats = np.array(
        [
            np.mean([_score_outputs(decisions, truth) for decisions in share.repeats], axis=0)
            for share in answers
        ]
    )
    middle = float(np.median(exponent))
    _, factors, _ = fit_scores(sizes.astype(np.float64) ** -middle, scores.T)
    gains = factors * (images**-middle - (2 * images) ** -middle)
    order = [number for number in np.argsort(-gains, kind="stable").tolist() if gains[number] > 0]
    return tuple(OutputGain(number, float(gains[number])) for number in order[:SHOWN_GAINS])


def _score_outputs(decisions: Floats, truth: TrainingRows) -> Floats:
    """Return the recall of each class, or the average precision of each label, (units,)."""
    if truth.task == "multiclass":
        names = [str(number) for number in range(decisions.shape[1])]
        rows = score_classes(truth.labels, decisions.argmax(1), names)
        return np.array([row.recall or 0.0 for row in rows])
    return np.array(
        [
            _average_precision(labels, values)
            for labels, values in zip(truth.targets.T, decisions.T, strict=True)
        ]
    )


def _average_precision(labels: Floats, values: Floats) -> float:
    score = average_precision(labels, values)
    return score.value if score else 0.0
