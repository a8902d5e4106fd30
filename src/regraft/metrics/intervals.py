"""95 % intervals: how far a measured value may be from the one that more images would show.

Four kinds: Wilson's for a share, a seeded percentile bootstrap for functions of sums over images, a normal
interval on the logit for rankings, and order statistics for a median. With the bootstrap and the logit a
flawless result has no width: it says that no mistake was seen, not that none is possible.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError

__all__ = [
    "Interval",
    "bootstrap",
    "bootstrap_difference",
    "exceeds_standard_error",
    "logit_interval",
    "median_interval",
    "wilson_interval",
]

Floats = npt.NDArray[np.float64]
WeightedScores = Callable[[Floats], Floats]  # weights of images (r, n) -> scores (r, s), NaN where undefined

RESAMPLES = 1000
Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution
DRAWS_AT_ONCE = 2_000_000  # bounds the bootstrap's memory to some tens of MB for any n


@dataclass(frozen=True)
class Interval:
    """A measured value and the ends of its 95 % interval, all in the value's own unit."""

    value: float
    low: float
    high: float


def wilson_interval(hits: int, n: int) -> Interval:
    """Return the 95 % Wilson score interval of the share of `hits` in `n` trials.

    Unlike the textbook interval, it stays inside 0..1 and keeps a width when all trials agree.
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
    # In the extreme cases an end is exactly 0 or 1; rounding must not push the value outside.
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def bootstrap(table: Any, statistic: Callable[[Floats], Floats], *, seed: int = 0) -> list[Interval]:
    """Return percentile bootstrap intervals of functions of sums over images, from 1000 resamples.

    Args:
        table: the summands, shape (n, m), one row for each image; an array or a SciPy sparse array.
        statistic: a function from sums of shape (r, m) to values of shape (r, s), NaN where undefined.
            Resamples in which a value is undefined do not count in its interval.
        seed: the same seed and order of rows give the same intervals.

    Returns:
        s intervals, each widened where necessary to contain its value.

    >>> bootstrap(np.array([[1.0], [3.0]]), lambda sums: sums / 2)
    [Interval(value=2.0, low=1.0, high=3.0)]
    """
    n = table.shape[0]
    values = statistic(np.ones((1, n)) @ table)[0]
    resampled = np.concatenate([statistic(weights @ table) for weights in _resamples(n, seed)])
    return [_percentiles(float(value), drawn) for value, drawn in zip(values, resampled.T, strict=True)]


def bootstrap_difference(
    first: WeightedScores, second: WeightedScores, n: int, *, seed: int = 0
) -> list[Interval]:
    """Return by how much scores of one model exceed another's on the same n images, each with an interval.

    A resample draws the same images for both models, so that what makes an image hard for both cancels out.

    Args:
        first, second: functions from weights of images, (r, n), to scores, (r, s), NaN where undefined.
        n: how many images there are.
        seed: the same seed and order of images give the same intervals.

    Returns:
        s percentile intervals of `second` minus `first`, as in `bootstrap`.

    >>> hits = np.array([[0.0, 1.0], [1.0, 1.0]])  # of each model, on two images
    >>> bootstrap_difference(lambda w: w @ hits[:1].T / 2, lambda w: w @ hits[1:].T / 2, 2)
    [Interval(value=0.5, low=0.0, high=1.0)]
    """
    values = (second(np.ones((1, n))) - first(np.ones((1, n))))[0]
    drawn = np.concatenate([second(weights) - first(weights) for weights in _resamples(n, seed)])
    return [_percentiles(float(value), column) for value, column in zip(values, drawn.T, strict=True)]


def logit_interval(value: float, influence: npt.ArrayLike) -> Interval:
    """Return a normal interval on the logit of a score in 0..1, which stays inside 0..1.

    The standard error is that of the infinitesimal jackknife. With ties such intervals have better coverage
    than the bootstrap: K. Boyd, K. H. Eng, C. D. Page, "Area under the precision-recall curve" (2013).

    Args:
        value: the score, 0..1.
        influence: n times the derivative of the score with respect to each image's weight, shape (n,).

    >>> interval = logit_interval(0.5, [0.5, -0.5] * 50)
    >>> round(interval.low, 3), round(interval.high, 3)
    (0.403, 0.597)
    """
    influences = np.asarray(influence, dtype=np.float64)
    error, slope = math.sqrt(float((influences**2).sum())) / len(influences), value * (1 - value)
    if slope <= 0:
        return Interval(value, value, value)
    centre, half = math.log(value / (1 - value)), min(Z95 * error / slope, 500.0)
    low, high = (1 / (1 + math.exp(-end)) for end in (centre - half, centre + half))
    return Interval(value, min(low, value), max(high, value))


def median_interval(values: npt.ArrayLike) -> Interval:
    """Return the median of `values`, shape (n,), n > 0, with an interval that holds for any distribution.

    >>> median_interval(range(101))
    Interval(value=50.0, low=40.0, high=60.0)
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    n = len(ordered)
    # The number of values below the median is binomial: its mean is n / 2, its deviation sqrt(n) / 2.
    skipped = max(0, math.floor((n - Z95 * math.sqrt(n)) / 2))
    return Interval(float(np.median(ordered)), float(ordered[skipped]), float(ordered[n - 1 - skipped]))


def _percentiles(value: float, drawn: Floats) -> Interval:
    if math.isnan(value):
        return Interval(value, value, value)
    low, high = np.quantile(drawn[np.isfinite(drawn)], [0.025, 0.975])
    return Interval(value, float(min(low, value)), float(max(high, value)))


def _resamples(n: int, seed: int) -> Iterator[Floats]:
    """Yield how often each of n rows was drawn, (r, n), for a bounded number of resamples at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // n)
    for start in range(0, RESAMPLES, rows):
        count = min(rows, RESAMPLES - start)
        draws = generator.integers(n, size=(count, n)) + n * np.arange(count)[:, np.newaxis]
        yield np.bincount(draws.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def exceeds_standard_error(gains: npt.NDArray[np.floating[Any]], *, ddof: int = 0) -> bool:
    """Return whether the mean of paired gains, (n,), is above 0 by more than its standard error.

    Args:
        gains: what each image gains; the answer is False if there are not more than `ddof`.
        ddof: subtracted from n in the variance, as for `numpy.std`.

    >>> exceeds_standard_error(np.array([0.1, 0.2, 0.1])), exceeds_standard_error(np.array([0.9, -0.7, 0.0]))
    (True, False)
    """
    if len(gains) <= ddof:
        return False
    return bool(gains.mean() > gains.std(ddof=ddof) / np.sqrt(len(gains)))
