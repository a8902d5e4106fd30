"""Scores of groups of images, and which groups are worse than the rest by more than chance and many looks.

The more groups are looked at, the more look bad by chance. So the probabilities are corrected for their
number, and of data where no group is worse, a group is called worse in 5 % of the cases at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.metrics.intervals import Interval, bootstrap, wilson_interval

__all__ = ["MIN_GROUP", "GroupRow", "correct_by_holm", "score_groups"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

MIN_GROUP = 10  # images of a group, and of the rest
SIGNIFICANT = 0.05  # share of data sets without a worse group in which one is called worse, at most
PERMUTATIONS = (1999, 9999)  # fewest and most
DRAWS = 200_000_000  # images drawn by all permutations of a test together
DRAWS_AT_ONCE = 2_000_000  # bounds the memory


@dataclass(frozen=True)
class GroupRow:
    """The score of a group of images beside that of all others.

    Attributes:
        column: what the images are grouped by, such as "brightness".
        value: the group: a value of that column, or a range of it.
        n: images in the group.
        score: the mean of its images, with its 95 % interval.
        rest: the mean of all other images.
        p_value: how probable so bad a group is by chance, corrected for the number of groups.
        worse: whether the group is worse than the rest by more than chance.
    """

    column: str
    value: str
    n: int
    score: Interval
    rest: float
    p_value: float
    worse: bool


def score_groups(
    quality: npt.ArrayLike, columns: Mapping[str, Sequence[str]], *, is_error: bool, seed: int = 0
) -> list[GroupRow]:
    """Score the groups that columns make of images, and test each against all other images.

    Rights and wrongs are compared by Fisher's exact test, other numbers by a permutation test of the mean,
    all one-sided and corrected together. Groups and rests of fewer than 10 images are left out.

    Args:
        quality: how well each image is answered, (n,): true or false for right or wrong, or a number.
        columns: column -> group of each image, (n,), "" for none.
        is_error: whether a higher number is worse.
        seed: random seed of permutations and intervals.

    Returns:
        The groups that are worse with the most certainty first, then those that are worse by the most.

    >>> right = np.arange(100) >= 20
    >>> rows = score_groups(right, {"site": ["A"] * 25 + ["B"] * 75}, is_error=False)
    >>> [(row.value, row.n, row.score.value, row.worse) for row in rows]
    [('A', 25, 0.2, True), ('B', 75, 1.0, False)]
    """
    values = np.asarray(quality)
    groups = list(_iter_groups(columns, len(values)))
    if not groups:
        return []
    members = np.stack([chosen for _, _, chosen in groups])
    is_exact = values.dtype == bool
    errors = ~values if is_exact else (values if is_error else -values)
    chances = (
        np.array([_test_by_fisher(errors, chosen) for chosen in members])
        if is_exact
        else _test_by_permutation(errors.astype(np.float64), members, seed)
    )
    corrected = correct_by_holm(chances).tolist()
    rows = [
        GroupRow(column, value, int(chosen.sum()), *_measure(values, chosen, seed), chance, False)
        for (column, value, chosen), chance in zip(groups, corrected, strict=True)
    ]
    rows = [replace(row, worse=row.p_value < SIGNIFICANT) for row in rows]
    sign = 1 if is_error else -1
    return sorted(rows, key=lambda row: (row.p_value, sign * (row.rest - row.score.value)))


def correct_by_holm(p_values: npt.ArrayLike) -> Floats:
    """Return p-values, (k,), corrected for their number: any is below 0.05 by chance in 5 % of the cases.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Stat. 6 (1979).

    >>> correct_by_holm([0.01, 0.04, 0.03]).round(3).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(values, kind="stable")
    factors = np.arange(len(values), 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1.0)
    return corrected


def _iter_groups(columns: Mapping[str, Sequence[str]], n: int) -> Iterator[tuple[str, str, Bools]]:
    """Yield column, value and images, (n,), of every group that is large enough, and whose rest is."""
    for column, cells in columns.items():
        for value in dict.fromkeys(cell for cell in cells if cell):
            chosen = np.array([cell == value for cell in cells])
            if MIN_GROUP <= chosen.sum() <= n - MIN_GROUP:
                yield column, value, chosen


def _measure(values: npt.NDArray[Any], chosen: Bools, seed: int) -> tuple[Interval, float]:
    group, rest = values[chosen], float(values[~chosen].mean())
    if values.dtype == bool:
        return wilson_interval(int(group.sum()), len(group)), rest
    ordered = np.sort(group.astype(np.float64))[:, None]
    return bootstrap(ordered, lambda sums: sums / len(ordered), seed=seed)[0], rest


def _test_by_fisher(errors: Bools, chosen: Bools) -> float:
    """Return how probable as many errors in the group are if errors fall on images at random."""
    from scipy.special import gammaln

    n, wrong, size, observed = len(errors), int(errors.sum()), int(chosen.sum()), int(errors[chosen].sum())
    counts = np.arange(max(0, size + wrong - n), min(size, wrong) + 1)

    def log_choose(total: Any, part: Any) -> Any:
        return gammaln(total + 1) - gammaln(part + 1) - gammaln(total - part + 1)

    logs = log_choose(wrong, counts) + log_choose(n - wrong, size - counts)
    shares = np.exp(logs - logs.max())
    return float(shares[counts >= observed].sum() / shares.sum())


def _test_by_permutation(errors: Floats, members: Bools, seed: int) -> Floats:
    """Return for each group, (k, n), how often errors put on images at random are as high, (k,)."""
    n, indicator = len(errors), members.T.astype(np.float64)
    fewest, most = PERMUTATIONS
    total = max(fewest, min(most, DRAWS // n))
    # Equal sums in another order differ in their last digits, and are equal nevertheless.
    observed = errors @ indicator - 1e-9 * abs(errors).sum()
    generator, at_once = np.random.default_rng(seed), max(1, DRAWS_AT_ONCE // n)
    as_high = np.ones(len(members))  # the data themselves are one arrangement
    for start in range(0, total, at_once):
        drawn = np.tile(errors, (min(at_once, total - start), 1))
        as_high += (generator.permuted(drawn, axis=1) @ indicator >= observed).sum(axis=0)
    return as_high / (total + 1)
