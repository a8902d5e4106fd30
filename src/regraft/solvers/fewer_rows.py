"""What more images change: out-of-fold answers by heads that were solved on fewer of them.

A head of all images answers new ones a little better than the heads of cross-validation, which lacked one
fold. How much better is measured one step earlier: heads that lack a second fold answer the same images. If
errors fall with one over the number of images, the step from four fifths of them to all is 0.6 of the step
from three fifths to four fifths.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from regraft.solvers.cross_validation import (
    FewerRows,
    Mask,
    Settings,
    SolverSpec,
    TrainingRows,
    answer_fold,
    draw_folds,
    make_fold_preparer,
)

__all__ = ["MAX_ROWS", "answer_from_fewer"]

Matrix = NDArray[np.float64]
Labels = NDArray[np.int64]

MAX_ROWS = 5_000  # up to which the difference is worth five more solutions


def answer_from_fewer(
    spec: SolverSpec, rows: TrainingRows, settings: Sequence[Settings], *, groups: Labels | None = None
) -> FewerRows | None:
    """Answer the rows that folds hold out by heads that were solved without a second fold.

    Args:
        spec, rows, groups: as in `cross_validate`; the folds are the same.
        settings: those of each unit.

    Returns:
        Decision values in the order of `cross_validate`; None for more than `MAX_ROWS` rows, of which a fold
        makes little difference, or if no second fold can be spared.
    """
    if len(rows.data) > MAX_ROWS:
        return None
    sample, folds = draw_folds(rows, max_rows=spec.max_rows, count=spec.fold_count, groups=groups)
    rows = rows.select(sample)
    seconds = [_choose_second_fold(rows, folds, number) for number in range(len(folds))]
    pairs = [(fold, second) for fold, second in zip(folds, seconds, strict=True) if second is not None]
    if not pairs or len(pairs) < len(folds):
        return None
    decisions, names = np.zeros_like(rows.targets), [str(one) for one in settings]
    for name in dict.fromkeys(names):
        units = np.flatnonzero([other == name for other in names])
        part = replace(rows, targets=rows.targets[:, units])
        values = _answer_folds(spec, part, settings[units[0]], pairs)
        for (fold, _), answers in zip(pairs, values, strict=True):
            decisions[np.ix_(fold, units)] = answers
    most, fewer = (len(folds) / (len(folds) - spared) for spared in (1, 2))  # rows of all to those of a head
    return FewerRows(decisions[np.any(folds, axis=0)], (most - 1) / (fewer - most))


def _answer_folds(
    spec: SolverSpec, rows: TrainingRows, settings: Settings, pairs: Sequence[tuple[Mask, Mask]]
) -> list[Matrix]:
    """Return the decision values of the first fold of each pair by heads that lack both."""
    prepare_fold = make_fold_preparer(spec, rows)

    def answer(pair: tuple[Mask, Mask]) -> Matrix:
        first, spared = pair[0], pair[0] | pair[1]
        values: Matrix = answer_fold(settings, prepare_fold(spared))[first[spared]]
        return values

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(answer, pairs))


def _choose_second_fold(rows: TrainingRows, folds: Sequence[Mask], number: int) -> Mask | None:
    """Return another fold such that rows of every class are in neither; None if there is no such fold."""
    if len(folds) < 3:
        return None
    for offset in (*range(2, len(folds)), 1):
        second: Mask = folds[(number + offset) % len(folds)]
        rest = rows.select_targets(~(folds[number] | second))
        if rows.task not in ("multiclass", "binary"):
            return second
        if len(np.unique(rest.labels)) == len(np.unique(rows.labels)):
            return second
    return None
