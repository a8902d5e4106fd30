"""Rankings against scikit-learn; standard errors against resampling."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.metrics.ranking import area_under_roc, average_over_columns, average_precision, compute_curves

MEASURES = [
    (area_under_roc, reference.roc_auc_score),
    (average_precision, reference.average_precision_score),
]


def ranked(n: int, *, seed: int = 0, digits: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Labels, a quarter of them 1, and scores that lean towards them; few digits make ties."""
    generator = np.random.default_rng(seed)
    truth = generator.random(n) < 0.25
    return truth, generator.normal(truth * 1.0).round(digits)


@pytest.mark.parametrize(("measure", "expected"), MEASURES)
@pytest.mark.parametrize("digits", [9, 1, 0])
def test_values_agree_with_scikit_learn(measure, expected, digits: int) -> None:
    truth, scores = ranked(300, digits=digits)
    assert measure(truth, scores).value == pytest.approx(expected(truth, scores))


@pytest.mark.parametrize(("measure", "expected"), MEASURES)
@pytest.mark.parametrize("digits", [9, 1])
def test_the_influence_is_the_derivative_by_the_weight_of_an_image(measure, expected, digits: int) -> None:
    truth, scores = ranked(60, digits=digits)
    score = measure(truth, scores)
    for index in range(60):
        # A twentieth of a per cent more weight on one image, in scikit-learn's own words.
        weights = np.ones(60)
        weights[index] += 5e-4
        moved = expected(truth, scores, sample_weight=weights) - expected(truth, scores)
        assert score.influence[index] == pytest.approx(60 * moved / 5e-4, abs=5e-3)
    assert score.influence.sum() == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("measure", "expected"), MEASURES)
def test_intervals_cover_the_truth_about_as_often_as_claimed(measure, expected) -> None:
    truth = expected(*ranked(400_000, seed=99))
    intervals = [measure(*ranked(150, seed=seed)).interval for seed in range(300)]
    covered = np.mean([interval.low <= truth <= interval.high for interval in intervals])
    assert 0.91 <= covered <= 0.985


def test_what_is_undefined_is_none() -> None:
    assert area_under_roc([1, 1], [0.1, 0.2]) is None
    assert area_under_roc([0, 0], [0.1, 0.2]) is None
    assert average_precision([0, 0], [0.1, 0.2]) is None
    assert average_precision([1, 1], [0.1, 0.2]).value == 1.0
    assert compute_curves([1, 1], [0.1, 0.2]) is compute_curves([0, 0], [0.1, 0.2]) is None


def test_curves_agree_with_scikit_learn() -> None:
    truth, scores = ranked(200, digits=1)
    curves = compute_curves(truth, scores)
    false_positive, recall, _ = reference.roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(curves.false_positive, false_positive[1:])
    np.testing.assert_allclose(curves.recall, recall[1:])
    precision, recall, _ = reference.precision_recall_curve(truth, scores)
    np.testing.assert_allclose(curves.precision, precision[:-1][::-1])
    np.testing.assert_allclose(curves.recall, recall[:-1][::-1])


def test_a_mean_takes_those_that_are_defined() -> None:
    truth, scores = ranked(80)
    columns = [truth, np.ones_like(truth), truth]
    mean = average_over_columns(
        area_under_roc, np.transpose(columns), np.transpose([scores, scores, -scores])
    )
    assert mean.value == pytest.approx(0.5)
    np.testing.assert_allclose(mean.influence, 0, atol=1e-9)
    assert average_over_columns(area_under_roc, [[1], [1]], [[0.1], [0.2]]) is None
    assert average_over_columns(area_under_roc, np.zeros((2, 0)), np.zeros((2, 0))) is None


def test_nothing_warns() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for truth in ([0, 1], [1, 0], [1, 1]):
            average_precision(truth, [0.5, 0.5])
            area_under_roc(truth, [0.5, 0.5])
