"""Scores of numbers against scikit-learn; the verdict on them against simulation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.errors import DataError
from regraft.metrics.regression import (
    is_better_than_mean,
    mean_baseline_error,
    score_regression,
    score_targets,
)

KEYS = ["mae", "rmse", "r2", "median_error"]


def measured(n: int, targets: int = 1, *, seed: int = 0, noise: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of different scales, and answers off by `noise` of their scale."""
    generator = np.random.default_rng(seed)
    scale = 10.0 ** np.arange(targets)
    truth = generator.normal(size=(n, targets)) * scale + 100
    return truth.astype(np.float32), truth + generator.normal(size=(n, targets)) * scale * noise


def values(scores) -> dict[str, float]:
    return {name: score.value for name, score in scores.items()}


@pytest.mark.parametrize("targets", [1, 3])
def test_scores_agree_with_scikit_learn(targets: int) -> None:
    truth, answers = measured(200, targets)
    scores = score_regression(truth, answers)
    expected = {
        "mae": reference.mean_absolute_error(truth, answers),
        "rmse": reference.root_mean_squared_error(truth, answers),
        "r2": reference.r2_score(truth, answers),
        "median_error": np.median(abs(truth - answers).mean(axis=1)),
    }
    assert list(scores) == KEYS
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, rel=1e-5), name
        assert scores[name].low < value < scores[name].high


def test_rows_agree_with_scikit_learn() -> None:
    truth, answers = measured(150, 3)
    means = truth.mean(axis=0) + 1
    rows = score_targets(truth, answers, ["a", "b", "c"], means=means)
    for index, row in enumerate(rows):
        one, other = truth[:, index], answers[:, index]
        assert row.mae.value == pytest.approx(reference.mean_absolute_error(one, other))
        assert row.rmse.value == pytest.approx(reference.root_mean_squared_error(one, other))
        assert row.r2.value == pytest.approx(reference.r2_score(one, other))
        assert row.median_error.value == pytest.approx(reference.median_absolute_error(one, other))
        assert row.error_of_the_mean == pytest.approx(
            reference.mean_absolute_error(one, np.full(150, means[index]))
        )


def test_a_target_that_does_not_vary_has_no_r2() -> None:
    constant = np.full((20, 1), 0.1)
    assert list(score_regression(constant, constant + 1)) == ["mae", "rmse", "median_error"]
    truth, answers = measured(20)
    both = score_regression(np.hstack([truth, constant]), np.hstack([answers, constant]))
    assert both["r2"].value == pytest.approx(reference.r2_score(truth, answers), rel=1e-5)
    row = score_targets(constant, constant + 1, ["constant"], means=[0.1])[0]
    assert (row.r2, row.error_of_the_mean, row.better) == (None, 0.0, False)


def test_a_large_offset_costs_no_digits() -> None:
    truth, answers = measured(100)
    moved = score_regression(truth.astype(np.float64) + 1e7, answers + 1e7)
    assert moved["r2"].value == pytest.approx(score_regression(truth, answers)["r2"].value, rel=1e-6)


def test_a_single_image() -> None:
    scores = score_regression([[2.0]], [[3.0]])
    assert values(scores) == {"mae": 1.0, "rmse": 1.0, "median_error": 1.0}


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_claimed() -> None:
    truth = values(score_regression(*measured(50_000, seed=99)))
    covered = dict.fromkeys(KEYS, 0)
    for trial in range(100):
        for name, score in score_regression(*measured(150, seed=1000 + trial), seed=trial).items():
            covered[name] += score.low <= truth[name] <= score.high
    for name, times in covered.items():
        assert times >= 88, name


def test_order_of_images_makes_no_difference() -> None:
    truth, answers = measured(90, 2)
    order = np.random.default_rng(3).permutation(90)
    moved = score_regression(truth[order], answers[order])
    for name, score in score_regression(truth, answers).items():
        assert (score.low, score.high) == pytest.approx((moved[name].low, moved[name].high))


def test_the_mean_baseline_error_is_that_of_a_constant_answer() -> None:
    truth, _ = measured(50, 2)
    means = [1.0, 2.0]
    expected = reference.mean_absolute_error(truth, np.tile(means, (50, 1)))
    assert mean_baseline_error(truth, means) == pytest.approx(expected)


def test_real_answers_beat_the_mean_and_noise_seldom_does() -> None:
    better = blind = 0
    for seed in range(60):
        truth, answers = measured(60, 2, seed=seed, noise=0.5)
        better += is_better_than_mean(truth, answers, [100, 100])
        # Answers that know nothing: the mean, and a little noise of their own.
        guess = 100 + np.random.default_rng(1000 + seed).normal(size=truth.shape) * 0.05
        blind += is_better_than_mean(truth, guess, [100, 100])
    assert better == 60
    assert blind <= 5  # about one in forty by chance


def test_a_target_of_large_numbers_does_not_outvote_the_others() -> None:
    generator = np.random.default_rng(0)
    small, large = generator.normal(size=(2, 200, 1))
    truth = np.hstack([small, 1000 * large])
    good_and_poor = np.hstack([small, np.zeros((200, 1)) + 20 * generator.normal(size=(200, 1))])
    assert is_better_than_mean(truth, good_and_poor, [0, 0])


def test_nothing_follows_from_a_handful_of_images() -> None:
    truth = np.arange(5.0).reshape(5, 1)
    assert not is_better_than_mean(truth, truth, [2.0])
    assert is_better_than_mean(np.arange(6.0).reshape(6, 1), np.arange(6.0).reshape(6, 1), [2.5])


@pytest.mark.parametrize(
    ("truth", "answers", "message"),
    [
        ([1.0], [1.0], r"\(n, targets\)"),
        ([[1.0]], [[1.0, 2.0]], r"\(1, 1\) and \(1, 2\)"),
        (np.empty((0, 1)), np.empty((0, 1)), "n > 0"),
        ([[1.0]], [[np.nan]], "finite"),
    ],
)
def test_impossible_input_is_refused(truth: object, answers: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_regression(truth, answers)
