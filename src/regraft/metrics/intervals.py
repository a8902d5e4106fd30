"""95 % intervals: how far a measured value may be from what more images would show.

Four ways, each where it holds: Wilson's for a share, a seeded percentile bootstrap for what is made of sums
over images, a normal interval on the logit for rankings, order statistics for a median. Except for Wilson's
and the last, a flawless result has no width: "no mistake was seen", not "none is possible".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError

__all__ = ["Interval", "bootstrap", "logit_interval", "median_interval", "wilson_interval"]

Floats = npt.NDArray[np.float64]

RESAMPLES = 1000
Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution
DRAWS_AT_ONCE = 2_000_000  # bounds the bootstrap's memory to some tens of MB, whatever n is


@dataclass(frozen=True)
class Interval:
    """A measured value and the ends of its 95 % interval, all in the value's own unit."""

    value: float
    low: float
    high: float


def wilson_interval(hits: int, n: int) -> Interval:
    """The Wilson score interval, 95 %, of a share of `hits` in `n` trials.

    Unlike the textbook interval it stays inside 0..1 and keeps a width when every trial agrees.
    Source: E. B. Wilson, "Probable inference", J. Am. Stat. Assoc. 22 (1927).

    Raises:
        DataError: if `n` is not positive or `hits` is outside 0..n.

    >>> interval = wilson_interval(9, 10)
    >>> f"{interval.value:.2f} from {interval.low:.2f} to {interval.high:.2f}"
    '0.90 from 0.60 to 0.98'
    """
    if not 0 <= hits <= n or n == 0:
        raise DataError(f"Expected 0 <= hits <= n and n > 0. Received: hits={hits}, n={n}.")
    share, z2 = hits / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The ends are exactly 0 and 1 in the extreme cases; rounding must not push the value outside.
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def bootstrap(table: Any, statistic: Callable[[Floats], Floats], *, seed: int = 0) -> list[Interval]:
    """Percentile bootstrap of statistics that are functions of sums over images; 1000 resamples.

    Args:
        table: what is summed, shape (n, m), a row an image; an array or a SciPy sparse array.
        statistic: sums of shape (r, m) -> values of shape (r, s); NaN where they are undefined. A resample
            that leaves a value undefined is left out of its interval.
        seed: the same seed and order of rows give the same intervals.

    Returns:
        s intervals, each widened where needed to hold its value.

    >>> bootstrap(np.array([[1.0], [3.0]]), lambda sums: sums / 2)
    [Interval(value=2.0, low=1.0, high=3.0)]
    """
    n = table.shape[0]
    values = statistic(np.ones((1, n)) @ table)[0]
    resampled = np.concatenate([statistic(weights @ table) for weights in _resamples(n, seed)])
    return [_percentiles(float(value), drawn) for value, drawn in zip(values, resampled.T, strict=True)]


def logit_interval(value: float, influence: npt.ArrayLike) -> Interval:
    """A normal interval on the logit of a score in 0..1, which keeps it there.

    The standard error is the infinitesimal jackknife's. Such intervals cover better than the bootstrap where
    ties matter: K. Boyd, K. H. Eng, C. D. Page, "Area under the precision-recall curve" (2013).

    Args:
        value: the score, 0..1.
        influence: n times the derivative of the score by the weight of each image, shape (n,).

    >>> interval = logit_interval(0.5, [0.5, -0.5] * 50)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.403, 0.597)
    """
    pull = np.asarray(influence, dtype=np.float64)
    spread, room = math.sqrt(float((pull**2).sum())) / len(pull), value * (1 - value)
    if room <= 0:
        return Interval(value, value, value)
    centre, half = math.log(value / (1 - value)), min(Z95 * spread / room, 500.0)
    low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
    return Interval(value, min(low, value), max(high, value))


def median_interval(values: npt.ArrayLike) -> Interval:
    """The median of `values`, shape (n,), n > 0, between two of them; whatever their distribution.

    >>> median_interval(range(101))
    Interval(value=50.0, low=40.0, high=60.0)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    # How many values lie below the median is binomial: n / 2, give or take sqrt(n) / 2.
    skipped = max(0, math.floor((n - Z95 * math.sqrt(n)) / 2))
    return Interval(float(np.median(ordered)), float(ordered[skipped]), float(ordered[n - 1 - skipped]))


def _percentiles(value: float, drawn: Floats) -> Interval:
    if math.isnan(value):
        return Interval(value, value, value)
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return Interval(value, float(min(low, value)), float(max(high, value)))


def _resamples(n: int, seed: int) -> Iterator[Floats]:
    """How often each of n rows was drawn, (r, n), a bounded number of resamples at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // n)
    for start in range(0, RESAMPLES, rows):
        taken = min(rows, RESAMPLES - start)
        draws = generator.integers(n, size=(taken, n)) + n * np.arange(taken)[:, np.newaxis]
        yield np.bincount(draws.ravel(), minlength=taken * n).reshape(taken, n).astype(np.float64)
