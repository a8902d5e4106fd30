"""Folds for cross-validation: stratified, whole groups, deterministic."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["folds", "sample_of", "strata"]

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
