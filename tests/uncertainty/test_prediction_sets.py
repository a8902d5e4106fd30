"""Sets of classes and labels: limits against their definition and MAPIE, coverage, few images."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin

from regraft.uncertainty.prediction_sets import (
    ClassSets,
    LabelSets,
    check_coverage,
    conformal_quantile,
    count_least,
    extrapolate,
    interpolate_quantile,
)

LEVELS = (0.5, 0.8, 0.9, 0.95)


def draw_answers(count, *, classes=4, seed=0):
    """Return probabilities (count, classes) and class numbers drawn from them."""
    rng = np.random.default_rng(seed)
    answers = rng.dirichlet(np.full(classes, 0.4), count)
    labels = (rng.random((count, 1)) > answers.cumsum(1)).sum(1).clip(0, classes - 1)
    return answers, labels


def draw_labels(count, *, labels=6, seed=0):
    """Return probabilities (count, labels), and 0 or 1 drawn from them."""
    rng = np.random.default_rng(seed)
    answers = rng.beta(0.6, 1.2, (count, labels))
    return answers, (rng.random((count, labels)) < answers).astype(np.int64)


# --- quantiles


@pytest.mark.parametrize("coverage", [0, 1, 1.5, -0.1, float("nan")])
def test_a_coverage_outside_0_to_1_is_refused(coverage):
    with pytest.raises(ValueError, match=r"expected a share above 0 and below 1, such as 0\.9"):
        check_coverage(coverage)


@pytest.mark.parametrize("coverage", LEVELS)
@pytest.mark.parametrize("count", [8, 9, 19, 100, 1000])
def test_the_quantile_is_the_kth_smallest_score(count, coverage):
    scores = np.random.default_rng(count).random(count)
    rank = next(k for k in range(count + 2) if k >= (count + 1) * coverage - 1e-12)
    expected = np.append(np.sort(scores), np.inf)[rank - 1]
    assert conformal_quantile(scores, coverage) == expected
    assert (interpolate_quantile(scores, coverage) <= expected) or np.isinf(expected)
    assert np.isinf(expected) == (count < count_least(coverage))


def test_a_whole_position_is_not_rounded_up_by_floating_point():
    assert conformal_quantile(np.arange(1.0, 100), 0.07) == 7  # 0.07 * 100 is a little more than 7


def test_a_new_score_is_within_the_quantile_as_often_as_is_asked():
    scores = np.random.default_rng(0).random((20_000, 21))
    within = [row[0] <= conformal_quantile(row[1:], 0.9) for row in scores]
    assert abs(np.mean(within) - 19 / 21) < 0.006
    within = [row[0] <= interpolate_quantile(row[1:], 0.9) for row in scores]
    assert abs(np.mean(within) - 0.9) < 0.006


def test_extrapolated_scores_move_on_as_the_quantiles_did():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=500)
    fewer = rng.permutation(scores) + 1
    moved = extrapolate(scores, fewer, step=0.6)
    np.testing.assert_allclose(moved, scores - 0.6)
    np.testing.assert_array_equal(extrapolate(scores, scores, step=0.6), scores)


# --- classes


class AnswersAsTheyAre(ClassifierMixin, BaseEstimator):
    """A classifier whose inputs are its probabilities."""

    classes_ = np.arange(12)

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, rows, labels):
        return self

    def predict(self, rows):
        return rows.argmax(1)

    def predict_proba(self, rows):
        return rows


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_limits_and_sets_equal_those_of_mapie(coverage):
    mapie = pytest.importorskip("mapie.classification")
    answers, labels = draw_answers(100, classes=12)
    new, _ = draw_answers(500, classes=12, seed=1)
    theirs = mapie.SplitConformalClassifier(AnswersAsTheyAre(), confidence_level=coverage, prefit=True)
    theirs.conformalize(answers, labels)
    expected = theirs.predict_set(new)[1][:, :, 0]
    sets = ClassSets.fit(answers, labels)
    limits = sets.find_limits(coverage)  # one: every class has fewer than 16 images
    quantile = theirs._mapie_classifier.conformity_score_function_.quantiles_
    np.testing.assert_allclose(1 - limits, np.broadcast_to(quantile, 12), atol=1e-9)
    np.testing.assert_array_equal(sets.are_within(new, limits), expected)


def test_each_class_is_covered_as_often_as_is_asked():
    coverages = []
    for seed in range(60):
        answers, labels = draw_answers(800, seed=seed)
        sets = ClassSets.fit(answers[:400], labels[:400])
        within = sets.are_within(answers[400:], sets.find_limits(0.9))[np.arange(400), labels[400:]]
        coverages.append([within[labels[400:] == one].mean() for one in range(4)])
    np.testing.assert_allclose(np.mean(coverages, 0), 0.9, atol=0.015)


def test_the_most_probable_class_is_in_every_set():
    answers, labels = draw_answers(400)
    sets = ClassSets.fit(answers, labels)
    limits = sets.find_limits(0.5)
    assert not sets.are_within(answers, limits).any(1).all()
    members = sets.select(answers, limits)
    assert members[np.arange(400), answers.argmax(1)].all()


def test_a_probability_that_differs_by_rounding_reaches_its_limit():
    answers = np.array([[0.6, 0.4]] * 20)
    sets = ClassSets.fit(answers, np.zeros(20, np.int64))
    assert sets.are_within(answers.astype(np.float32), sets.find_limits(0.9))[:, 0].all()


def test_classes_with_few_images_share_a_limit_and_are_named():
    answers, labels = draw_answers(400)
    labels = np.concatenate([labels % 2, [2, 2], [3] * 9])
    answers = np.concatenate([answers, answers[:11]])
    sets, names = ClassSets.fit(answers, labels), ["hat", "shoe", "scarf", "tie"]
    groups = sets.list_groups(0.9)
    assert [group.classes.tolist() for group in groups] == [[0], [1], [2, 3]]
    assert len(groups[-1].scores) == 411  # 11 images are too few even together
    assert sets.describe(0.9, names) == (
        "Each class with 36 held-out images or more has a limit of its own; the others share one: scarf, tie."
    )
    limits = sets.find_limits(0.9)
    assert limits[2] == limits[3] == 1 - interpolate_quantile(sets.scores, 0.9)


def test_small_classes_set_their_limit_together_where_they_can():
    labels = np.repeat(np.arange(5), [100, 20, 20, 20, 20])
    answers, _ = draw_answers(len(labels), classes=5)
    groups = ClassSets.fit(answers, labels).list_groups(0.9)
    assert [len(group.scores) for group in groups] == [100, 80]


def test_thirty_images_have_one_limit_and_eight_have_none():
    answers, labels = draw_answers(30)
    sets = ClassSets.fit(answers, labels)
    assert sets.describe(0.9, list("abcd")) == "All classes share one limit."
    assert len(set(sets.find_limits(0.9))) == 1
    few = ClassSets.fit(answers[:8], labels[:8])
    assert few.select(answers, few.find_limits(0.9)).all()
    assert few.describe(0.9, list("abcd")) == (
        "A coverage of 90 % takes 9 held-out images, and there are 8: every set holds every class."
    )


def test_answers_of_fewer_images_make_sets_smaller():
    rng = np.random.default_rng(0)
    odds = rng.normal(2, 2, 500)
    answers, fewer = (
        np.stack([1 / (1 + np.exp(-one)), 1 / (1 + np.exp(one))], 1) for one in (odds, odds - 0.5)
    )
    labels = np.zeros(500, np.int64)
    plain, moved = ClassSets.fit(answers, labels), ClassSets.fit(answers, labels, fewer=fewer, step=0.6)
    expected = 1 / (1 + np.exp(odds + 0.3))
    np.testing.assert_allclose(moved.scores, expected)
    assert (moved.find_limits(0.9) > plain.find_limits(0.9)).all()


def test_class_sets_survive_being_arrays():
    sets = ClassSets.fit(*draw_answers(100))
    copy = ClassSets.from_arrays(sets.to_arrays())
    np.testing.assert_array_equal(copy.find_limits(0.9), sets.find_limits(0.9))


def test_of_many_scores_a_sample_is_held():
    answers, labels = draw_answers(60_000)
    sets = ClassSets.fit(answers, labels, seed=3)
    assert len(sets.scores) == 50_000
    assert sum(array.nbytes for array in sets.to_arrays().values()) < 1e6
    np.testing.assert_array_equal(sets.scores, ClassSets.fit(answers, labels, seed=3).scores)
    scores = 1 - answers[np.arange(60_000), labels]
    assert abs((scores <= conformal_quantile(sets.scores, 0.9)).mean() - 0.9) < 0.003


# --- labels


def find_limit_by_trying(answers, targets, coverage):
    """Return the highest of all answers that keeps the bound on the missed share below its level."""
    has = targets[targets.any(1)] > 0
    table, images = answers[targets.any(1)], has.any(1).sum()
    best = 0.0
    for limit in np.unique(table):
        missed = ((has & (table < limit)).sum(1) / has.sum(1)).sum()
        if (missed + 1) / (images + 1) <= 1 - coverage + 1e-12:
            best = limit
    return best


@pytest.mark.parametrize("coverage", LEVELS)
def test_the_limit_of_labels_is_the_highest_that_controls_the_risk(coverage):
    answers, targets = draw_labels(60)
    expected = find_limit_by_trying(answers, targets, coverage)
    sets = LabelSets.fit(answers, targets)
    above = np.sort(answers[targets > 0])
    # Between two probabilities of true labels nothing changes, so the limit is the upper one.
    assert sets.find_limits(coverage)[0] == above[np.searchsorted(above, expected)]


@pytest.mark.parametrize("coverage", LEVELS)
def test_the_limit_of_labels_equals_that_of_mapie(coverage):
    mapie = pytest.importorskip("mapie.risk_control")
    answers, targets = draw_labels(60)
    has_any = targets.any(1)
    grid = np.nextafter(np.unique(answers[has_any]), 0)
    controller = mapie.MultiLabelClassificationController(
        predict_function=lambda rows: rows, risk="recall", target_level=coverage, predict_params=grid
    )
    controller.calibrate(answers[has_any], targets[has_any])
    sets = LabelSets.fit(answers, targets)
    new, _ = draw_labels(300, seed=1)
    expected = controller.predict(new)[:, :, 0]
    ours = sets.select(new, sets.find_limits(coverage))
    limit = float(controller.best_predict_param[0])
    between = (new > limit + 1e-9) & (new < sets.find_limits(coverage)[0] - 1e-9)
    np.testing.assert_array_equal(ours | between, expected)
    true = answers[targets > 0]
    assert not ((true > limit + 1e-9) & (true < sets.find_limits(coverage)[0] - 1e-9)).any()


def test_on_average_no_more_labels_are_missed_than_is_asked():
    missed = []
    for seed in range(150):
        answers, targets = draw_labels(200, seed=seed)
        sets = LabelSets.fit(answers[:100], targets[:100])
        has = targets[100:] > 0
        has, members = has[has.any(1)], sets.select(answers[100:], sets.find_limits(0.9))[has.any(1)]
        missed.append(((has & ~members).sum(1) / has.sum(1)).mean())
    assert 0.085 < np.mean(missed) <= 0.1 + 0.003


def test_images_without_labels_do_not_count():
    answers, targets = draw_labels(100)
    empty = np.zeros_like(targets)
    both = LabelSets.fit(np.concatenate([answers, answers]), np.concatenate([targets, empty]))
    alone = LabelSets.fit(answers, targets)
    assert both.find_limits(0.9).tolist() == alone.find_limits(0.9).tolist()


def test_too_few_images_put_every_label_in_every_set():
    answers, targets = draw_labels(8)
    targets[:, 0] = 1
    sets = LabelSets.fit(answers, targets)
    assert sets.select(answers, sets.find_limits(0.9)).all()
    assert "takes 9 held-out images, and there are 8" in sets.describe(0.9, list("abcdef"))


def test_label_sets_survive_being_arrays():
    sets = LabelSets.fit(*draw_labels(100))
    copy = LabelSets.from_arrays(sets.to_arrays())
    np.testing.assert_array_equal(copy.find_limits(0.9), sets.find_limits(0.9))
