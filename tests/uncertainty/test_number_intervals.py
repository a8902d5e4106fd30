"""Intervals of numbers: their ends against MAPIE, widths that follow the errors, coverage, few images."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin

from regraft.uncertainty.intervals import NumberIntervals
from regraft.uncertainty.spread import fit_spread


def draw_numbers(count, *, seed=0, width=5):
    """Return features, answers and targets of two targets: the errors of the first grow with feature 0."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, width)).astype(np.float32)
    answers = rng.normal(size=(count, 2)) * [10, 0.1]
    noise = rng.normal(size=(count, 2)) * np.stack([np.exp(features[:, 0]), np.full(count, 0.01)], 1)
    return features, answers, answers + noise


class AnswersAsTheyAre(RegressorMixin, BaseEstimator):
    """A regressor whose input is its answer."""

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, rows, targets):
        return self

    def predict(self, rows):
        return rows[:, 0]


class SecondColumn(RegressorMixin, BaseEstimator):
    """A regressor that returns the second column of its input."""

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, rows, targets):
        return self

    def predict(self, rows):
        return rows[:, 1]


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_intervals_of_one_width_equal_those_of_mapie(coverage):
    mapie = pytest.importorskip("mapie.regression")
    _, answers, targets = draw_numbers(100)
    new = draw_numbers(50, seed=1)[1][:, :1]
    theirs = mapie.SplitConformalRegressor(AnswersAsTheyAre(), confidence_level=coverage, prefit=True)
    theirs.conformalize(answers[:, :1], targets[:, 0])
    expected = theirs.predict_interval(new)[1][:, :, 0]
    intervals = NumberIntervals.fit(answers[:, :1], targets[:, :1])
    np.testing.assert_allclose(
        intervals.find_ends(new, None, intervals.find_limits(coverage))[:, 0], expected, atol=1e-9
    )


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_intervals_of_a_given_spread_equal_those_of_mapie(coverage):
    mapie = pytest.importorskip("mapie.regression")
    scores = pytest.importorskip("mapie.conformity_scores")
    features, answers, targets = draw_numbers(100)
    spread, _ = fit_spread(features, np.abs(answers - targets)[:, :1], seed=0)
    assert not spread.is_constant[0]
    new_features, new, _ = draw_numbers(50, seed=1)
    rows, new_rows = (
        np.stack([answer[:, 0], spread(one)[:, 0]], 1)
        for answer, one in ((answers, features), (new, new_features))
    )
    score = scores.ResidualNormalisedScore(residual_estimator=SecondColumn(), prefit=True)
    theirs = mapie.SplitConformalRegressor(
        AnswersAsTheyAre(), confidence_level=coverage, prefit=True, conformity_score=score
    )
    theirs.conformalize(rows, targets[:, 0])
    expected = theirs.predict_interval(new_rows)[1][:, :, 0]
    ours = NumberIntervals(np.abs(answers - targets)[:, :1] / spread(features), spread)
    bounds = ours.find_ends(new[:, :1], new_features, ours.find_limits(coverage))
    np.testing.assert_allclose(bounds[:, 0], expected, atol=1e-9)


@pytest.mark.slow
def test_each_target_has_the_coverage_that_is_asked():
    covered = []
    for seed in range(15):
        features, answers, targets = draw_numbers(400, seed=seed)
        intervals = NumberIntervals.fit(answers[:200], targets[:200], features[:200])
        low, high = np.moveaxis(
            intervals.find_ends(answers[200:], features[200:], intervals.find_limits(0.9)), -1, 0
        )
        covered.append(((low <= targets[200:]) & (targets[200:] <= high)).mean(0))
    np.testing.assert_allclose(np.mean(covered, 0), 0.9, atol=0.02)


def test_widths_follow_the_errors_where_they_can_be_foretold():
    features, answers, targets = draw_numbers(400)
    intervals = NumberIntervals.fit(answers, targets, features)
    assert intervals.spread.is_constant.tolist() == [False, True]
    low, high = np.moveaxis(intervals.find_ends(answers, features, intervals.find_limits(0.9)), -1, 0)
    width = high - low
    assert np.corrcoef(np.log(width[:, 0]), features[:, 0])[0, 1] > 0.9
    assert np.ptp(width[:, 1]) < 1e-12
    one = NumberIntervals.fit(answers, targets)
    assert width[:, 0].mean() < 2 * one.find_limits(0.9)[0] * np.exp(one.spread.bias[0])
    assert intervals.describe(0.9, ["size", "age"]) == (
        "All intervals of age are equally wide: no image's error can be foretold."
    )


def test_spread_is_not_extrapolated_beyond_the_held_out_images():
    features, answers, targets = draw_numbers(200)
    spread, held_out = fit_spread(features, np.abs(answers - targets), seed=0)
    far = np.full((1, 5), 1e3, np.float32)
    assert held_out[:, 0].min() <= spread(far)[0, 0] <= held_out[:, 0].max() * (1 + 1e-12)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bits():
    features, answers, targets = draw_numbers(120)
    one, two = (NumberIntervals.fit(answers, targets, features, seed=1) for _ in range(2))
    for name, array in one.to_arrays().items():
        np.testing.assert_array_equal(array, two.to_arrays()[name])


def test_answers_of_fewer_images_make_intervals_narrower():
    _, answers, targets = draw_numbers(200)
    fewer = targets + 1.2 * (answers - targets)
    moved = NumberIntervals.fit(answers, targets, fewer=fewer, step=0.5)
    plain = NumberIntervals.fit(answers, targets)
    np.testing.assert_allclose(moved.scores, plain.scores / 1.2**0.5)


def test_a_constant_target_has_intervals_without_width():
    features, _, _ = draw_numbers(100)
    same = np.full((100, 2), 7.0)
    intervals = NumberIntervals.fit(same, same, features, fewer=same, step=0.6)
    assert intervals.find_ends(same[:1], features[:1], intervals.find_limits(0.95)).tolist() == [
        [[7, 7], [7, 7]]
    ]


def test_thirty_images_have_intervals_of_one_width_and_eighteen_none_at_95_percent():
    features, answers, targets = draw_numbers(30)
    assert NumberIntervals.fit(answers, targets, features).spread.is_constant.all()
    few = NumberIntervals.fit(answers[:18], targets[:18], features[:18])
    bounds = few.find_ends(answers[:1], features[:1], few.find_limits(0.95))
    assert np.isinf(bounds).all()
    assert few.describe(0.95, ["size", "age"]) == (
        "A coverage of 95 % takes 19 held-out images, and there are 18: intervals have no ends."
    )


def test_intervals_survive_being_arrays():
    features, answers, targets = draw_numbers(100)
    intervals = NumberIntervals.fit(answers, targets, features)
    copy = NumberIntervals.from_arrays(intervals.to_arrays())
    limits = intervals.find_limits(0.9)
    np.testing.assert_array_equal(
        copy.find_ends(answers, features, copy.find_limits(0.9)),
        intervals.find_ends(answers, features, limits),
    )
