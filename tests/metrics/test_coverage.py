"""The chance band of coverage is that of the beta-binomial distribution; figures are plain means."""

import math

import numpy as np
import pytest
from scipy.stats import betabinom

from regraft.metrics.coverage import LimitTrial, chance_band, mean_band, measure_coverage


@pytest.mark.parametrize(("images", "rank", "scores"), [(372, 901, 1000), (10, 9, 9), (1, 5, 9)])
def test_the_band_of_one_limit_is_beta_binomial(images, rank, scores):
    expected = betabinom.ppf([0.025, 0.975], images, rank, scores + 1 - rank) / images
    np.testing.assert_allclose(chance_band([LimitTrial(images, rank, scores)]), expected)


def test_the_band_of_several_limits_is_that_of_their_sum():
    trials = [LimitTrial(40, 73, 80), LimitTrial(60, 46.8, 51), LimitTrial(0, 9, 9)]
    rng = np.random.default_rng(0)
    drawn = sum(
        rng.binomial(images, rng.beta(rank, scores + 1 - rank, 200_000))
        for images, rank, scores in trials[:2]
    )
    expected = np.quantile(drawn, [0.025, 0.975]) / 100
    np.testing.assert_allclose(chance_band(trials), expected, atol=0.011)


def test_every_image_is_within_an_infinite_limit():
    assert chance_band([LimitTrial(12, 20, 18)]) == (1, 1)


def test_there_is_no_band_without_images():
    assert all(math.isnan(end) for end in chance_band([LimitTrial(0, 9, 9)]))
    assert all(math.isnan(end) for end in mean_band(0.9, np.zeros(0), 100))


def test_the_band_of_a_mean_holds_it_in_95_of_100_draws():
    rng, inside = np.random.default_rng(0), []
    for _ in range(2_000):
        held_out, new = rng.beta(9, 1, 300), rng.beta(9, 1, 200)
        level = 0.9 + 0.9 - held_out.mean()  # a limit that is too strict on these images by what chance gave
        low, high = mean_band(0.9, new, 300)
        inside.append(low <= new.mean() + level - 0.9 <= high)
    assert 0.93 < np.mean(inside) < 0.97


def test_coverage_counts_truths_in_sets_and_their_members():
    covered, sizes = np.array([True, True, False, True]), np.array([1, 3, 1, 2])
    within = np.array([True, False, False, True])
    coverage = measure_coverage(0.8, covered, sizes, band=(0.6, 1.0), within_limits=within)
    assert (coverage.coverage, coverage.mean_size, coverage.within_limits) == (0.75, 1.75, 0.5)
    assert not coverage.is_as_expected


def test_json_has_no_number_that_is_not_finite():
    endless = measure_coverage(0.9, np.ones(3), np.full(3, np.inf), band=(math.nan, math.nan), target="size")
    assert endless.is_as_expected
    assert endless.to_json() == {
        "level": 0.9, "coverage": 1.0, "low": None, "high": None, "mean_size": None, "within_limits": 1.0,
        "target": "size",
    }  # fmt: skip
    assert "target" not in measure_coverage(0.9, np.ones(3), np.ones(3), band=(0.5, 1.0)).to_json()
