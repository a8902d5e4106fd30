"""Calibration error and Brier score against independent formulas, and chance against its known figures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.special import expit, softmax
from scipy.stats import binom
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss

from regraft.errors import DataError
from regraft.metrics.calibration import compute_brier, measure_calibration


def draw_classes(n: int, classes: int = 10, *, heat: float = 1.0, seed: int = 0) -> tuple[np.ndarray, ...]:
    """Labels drawn with the softmax of logits, and answers that are hotter than that."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (n, classes))
    labels = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    return labels, softmax(heat * logits, axis=1)


def compute_ece_in_a_loop(probabilities: np.ndarray, is_true: np.ndarray, bins: int = 15) -> float:
    total = 0.0
    edges = np.linspace(0, 1, bins + 1)
    for low, high in itertools.pairwise(edges):
        inside = (probabilities >= low) & ((probabilities < high) | (high == 1))
        if inside.any():
            total += abs(probabilities[inside].mean() - is_true[inside].mean()) * inside.sum()
    return total / len(probabilities)


def test_classes_equal_independent_formulas() -> None:
    labels, answers = draw_classes(700, heat=2.0)
    measured = measure_calibration(labels, answers)
    right = answers.argmax(1) == labels
    assert measured.ece == pytest.approx(compute_ece_in_a_loop(answers.max(1), right))
    assert measured.n == sum(one.n for one in measured.bins) == 700
    assert measured.brier == pytest.approx(brier_score_loss(labels, answers, scale_by_half=False))
    shares, means = calibration_curve(right, answers.max(1), n_bins=15)
    np.testing.assert_allclose([one.share for one in measured.bins], shares)
    np.testing.assert_allclose([one.probability for one in measured.bins], means)


def test_two_classes_and_labels_equal_independent_formulas() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(-1, 2, (500, 3))
    truth, answers = (rng.random(logits.shape) < expit(logits)).astype(int), expit(2 * logits)
    measured = measure_calibration(truth, answers)
    assert measured.n == 1_500
    assert measured.ece == pytest.approx(compute_ece_in_a_loop(answers.ravel(), truth.ravel()))
    assert measured.brier == pytest.approx(
        np.mean([brier_score_loss(*column) for column in zip(truth.T, answers.T, strict=True)])
    )
    single = measure_calibration(truth[:, 0], answers[:, :1])
    shares, _ = calibration_curve(truth[:, 0], answers[:, 0], n_bins=15)
    np.testing.assert_allclose([one.share for one in single.bins], shares)
    assert single.brier == pytest.approx(brier_score_loss(truth[:, 0], answers[:, 0]))


@pytest.mark.slow
def test_chance_is_what_calibrated_answers_score() -> None:
    """Answers that are right as often as they say score in the range in 95 of 100 cases, and its mean."""
    errors, chances = [], []
    for seed in range(60):
        measured = measure_calibration(*draw_classes(372, seed=seed))
        errors.append(measured.ece)
        chances.append(measured.chance)
    inside = [chance.low <= error <= chance.high for error, chance in zip(errors, chances, strict=True)]
    assert 0.85 <= np.mean(inside) <= 1
    assert np.mean(errors) == pytest.approx(np.mean([chance.mean for chance in chances]), rel=0.1)


def test_over_confidence_leaves_the_range_of_chance() -> None:
    measured = measure_calibration(*draw_classes(1_000, heat=2.0))
    assert measured.ece > 1.5 * measured.chance.high


def test_the_chance_of_one_probability_is_binomial() -> None:
    measured = measure_calibration(np.arange(200) % 2, np.full((200, 1), 0.5))
    assert measured.ece == 0
    (only,) = measured.bins
    assert (only.low, only.high) == pytest.approx(binom.ppf([0.025, 0.975], 200, 0.5) / 200, abs=0.011)
    counts = np.arange(201)
    expected = (abs(counts / 200 - 0.5) * binom.pmf(counts, 200, 0.5)).sum()
    assert measured.chance.mean == pytest.approx(expected, rel=0.1)


def test_the_same_seed_gives_the_same_chance() -> None:
    answers = draw_classes(100)
    assert measure_calibration(*answers, seed=3) == measure_calibration(*answers, seed=3)
    assert measure_calibration(*answers, seed=3).chance != measure_calibration(*answers, seed=4).chance


def test_certain_answers_leave_nothing_to_chance() -> None:
    """A part whose answers are all 0 or 1."""
    truth = np.array([[0, 1], [1, 0], [1, 1]])
    right = measure_calibration(truth, truth.astype(float))
    assert (right.ece, right.brier, right.chance.high) == (0, 0, 0)
    wrong = measure_calibration(truth, 1.0 - truth)
    assert (wrong.ece, wrong.brier) == (1, 1)
    assert wrong.chance.high == 0
    assert [one.probability for one in wrong.bins] == [0, 1]


def test_a_part_of_one_class_or_one_image_is_measured() -> None:
    assert measure_calibration([1, 1, 1], [[0.2, 0.8]] * 3).ece == pytest.approx(0.2)
    single = measure_calibration([0], [[0.6, 0.4]])
    assert single.ece == pytest.approx(0.4)
    assert single.brier == pytest.approx(0.32)


def test_a_brier_score_lies_between_certain_right_and_wrong_answers() -> None:
    assert compute_brier([0, 1], [[1.0, 0.0], [0.0, 1.0]]) == 0
    assert compute_brier([1, 0], [[1.0, 0.0], [0.0, 1.0]]) == 2


@pytest.mark.parametrize(
    ("targets", "answers"),
    [
        ([0, 3], [[0.5, 0.5], [0.5, 0.5]]),
        ([0], [[0.5, 0.5], [0.5, 0.5]]),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]]),
        ([[2], [0]], [[0.5], [0.5]]),
        ([[0, 1]], [[0.5], [0.5]]),
        ([0, 1], [[0.5], [1.5]]),
    ],
)
def test_targets_that_do_not_fit_are_refused(targets: list[object], answers: list[list[float]]) -> None:
    with pytest.raises(DataError, match="Expected"):
        measure_calibration(targets, answers)
