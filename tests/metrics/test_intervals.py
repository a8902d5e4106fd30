"""Intervals against closed forms, SciPy and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from scipy.sparse import csr_array

from regraft.errors import DataError
from regraft.metrics.intervals import (
    DRAWS_AT_ONCE,
    Z95,
    Interval,
    bootstrap,
    logit_interval,
    median_interval,
    wilson_interval,
)


def test_wilson_interval_agrees_with_its_closed_form() -> None:
    # Newcombe (1998), table I, 81 of 263 and 0 of 20, to four digits.
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)
    interval = wilson_interval(0, 20)
    assert (interval.low, round(interval.high, 4)) == (0.0, 0.1611)


def test_wilson_interval_solves_its_defining_equation() -> None:
    interval = wilson_interval(37, 50)
    for end in (interval.low, interval.high):
        assert abs(0.74 - end) == pytest.approx(Z95 * math.sqrt(end * (1 - end) / 50))


@pytest.mark.parametrize(("hits", "n"), [(0, 0), (-1, 3), (4, 3)])
def test_wilson_interval_refuses_impossible_counts(hits: int, n: int) -> None:
    with pytest.raises(DataError, match="Received"):
        wilson_interval(hits, n)


def test_the_bootstrap_of_a_mean_agrees_with_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=80)
    ours = bootstrap(values[:, np.newaxis], lambda sums: sums / 80, seed=1)[0]
    theirs = stats.bootstrap((values,), np.mean, method="percentile", rng=np.random.default_rng(2))
    spread = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.value == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.08 * spread)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.08 * spread)


def test_the_bootstrap_takes_sparse_tables_alike() -> None:
    table = np.random.default_rng(0).integers(3, size=(30, 4)).astype(np.float64)
    assert bootstrap(table, lambda sums: sums) == bootstrap(csr_array(table), lambda sums: sums)


def test_a_bootstrap_in_portions_draws_every_resample_once() -> None:
    seen = []
    bootstrap(np.ones((10_000, 1)), lambda sums: seen.append(len(sums)) or sums)
    assert seen == [1, *[DRAWS_AT_ONCE // 10_000] * 5]


def test_resamples_without_a_value_are_left_out() -> None:
    table = np.array([[1.0], [0.0], [0.0]])
    interval = bootstrap(table, lambda sums: np.where(sums > 0, sums, np.nan))[0]
    assert (interval.value, interval.low) == (1.0, 1.0)
    nothing = bootstrap(table, lambda sums: sums * np.nan)[0]
    assert math.isnan(nothing.value)


def test_a_logit_interval_stays_within_its_range() -> None:
    for value in (0.001, 0.5, 0.999):
        interval = logit_interval(value, [3.0, -3.0])
        assert 0 <= interval.low < value < interval.high <= 1
    assert logit_interval(1.0, [0.0, 0.0]) == Interval(1.0, 1.0, 1.0)


def test_a_logit_interval_of_a_share_is_the_textbooks() -> None:
    truth = np.repeat([1.0, 0.0], [30, 70])
    interval = logit_interval(0.3, truth - 0.3)
    half = Z95 / math.sqrt(100 * 0.3 * 0.7)
    assert math.log(interval.high / (1 - interval.high)) == pytest.approx(math.log(0.3 / 0.7) + half)


def test_median_intervals_cover_the_median() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        interval = median_interval(generator.exponential(size=60))
        covered += interval.low <= math.log(2) <= interval.high
    assert 0.92 <= covered / 400 <= 0.99
    assert median_interval([3.0]) == Interval(3.0, 3.0, 3.0)
