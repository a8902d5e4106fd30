"""Scores of several labels an image against scikit-learn; thresholds against every threshold there is."""

from __future__ import annotations

import time

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.errors import DataError
from regraft.evaluation.scores import compute_baseline
from regraft.metrics.multilabel import choose_thresholds, score_labels, score_multilabel


def labelled(n: int, labels: int, *, seed: int = 0, decimals: int = 9) -> tuple[np.ndarray, np.ndarray]:
    """Labels of different shares, and probabilities that lean towards them."""
    generator = np.random.default_rng(seed)
    truth = generator.random((n, labels)) < np.linspace(0.08, 0.6, labels)
    answers = 1 / (1 + np.exp(-generator.normal(truth * 1.5 - 1.0)))
    return truth.astype(np.float32), answers.round(decimals)


def test_scores_agree_with_scikit_learn() -> None:
    truth, answers = labelled(300, 6)
    thresholds = np.linspace(0.2, 0.7, 6)
    predicted = answers >= thresholds
    expected = {
        "mAP": reference.average_precision_score(truth, answers, average="macro"),
        "micro_f1": reference.f1_score(truth, predicted, average="micro"),
        "macro_f1": reference.f1_score(truth, predicted, average="macro"),
        "macro_auc": reference.roc_auc_score(truth, answers, average="macro"),
        "log_loss": np.mean(
            [reference.log_loss(truth[:, column], answers[:, column]) for column in range(6)]
        ),
    }
    scores = score_multilabel(truth, answers, thresholds=thresholds)
    assert list(scores) == list(expected)
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value), name
        assert scores[name].low < value < scores[name].high


def test_labels_that_do_not_occur_add_no_term() -> None:
    truth, answers = labelled(60, 3)
    more = np.hstack([truth, np.zeros((60, 1))])
    with_it = score_multilabel(more, np.hstack([answers, np.full((60, 1), 0.1)]))
    without = score_multilabel(truth, answers)
    for name in ("mAP", "macro_f1", "macro_auc"):
        assert with_it[name] == without[name]


def test_images_without_any_label_leave_only_what_is_defined() -> None:
    assert list(score_multilabel(np.zeros((3, 2)), np.full((3, 2), 0.1))) == ["log_loss"]
    assert list(score_multilabel(np.zeros((3, 2)), np.full((3, 2), 0.9))) == ["micro_f1", "log_loss"]


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_claimed() -> None:
    truth = {name: score.value for name, score in score_multilabel(*labelled(20_000, 3, seed=99)).items()}
    covered = dict.fromkeys(truth, 0)
    for trial in range(100):
        scores = score_multilabel(*labelled(150, 3, seed=1000 + trial), seed=trial)
        for name, value in truth.items():
            covered[name] += scores[name].low <= value <= scores[name].high
    for name, times in covered.items():
        assert times >= 88, name


def test_order_of_images_makes_no_difference() -> None:
    truth, answers = labelled(80, 4)
    order = np.random.default_rng(3).permutation(80)
    moved = score_multilabel(truth[order], answers[order])
    for name, score in score_multilabel(truth, answers).items():
        np.testing.assert_allclose(
            [score.value, score.low, score.high], [moved[name].value, moved[name].low, moved[name].high]
        )


@pytest.mark.slow
@pytest.mark.parametrize("decimals", [9, 1])
def test_no_threshold_has_a_higher_f1(decimals: int) -> None:
    truth, answers = labelled(120, 5, decimals=decimals)
    thresholds = choose_thresholds(truth, answers)
    for label, answer, threshold in zip(truth.T, answers.T, thresholds, strict=True):
        best = max(reference.f1_score(label, answer >= level) for level in np.unique(answer))
        assert reference.f1_score(label, answer >= threshold) == pytest.approx(best)
        assert 0 <= threshold <= 1
        assert abs(threshold - answer).min() > 0  # between two answers, not on one


def test_of_equally_good_thresholds_the_nearest_to_a_half_is_taken() -> None:
    assert choose_thresholds([[0], [1]], [[0.1], [0.7]]) == pytest.approx([0.4])
    # Everything has the label: any threshold below the lowest answer will do.
    assert choose_thresholds([[1], [1]], [[0.3], [0.4]]) == pytest.approx([0.15])


def test_an_answer_at_the_threshold_means_the_label() -> None:
    arguments = ([[1], [0]], [[0.4], [0.1]])
    assert score_multilabel(*arguments, thresholds=[0.4])["micro_f1"].value == 1.0
    assert score_labels(*arguments, ["a"], thresholds=[0.4])[0].recall == 1.0
    assert score_labels(*arguments, ["a"], thresholds=[0.41])[0].recall == 0.0


def test_a_label_that_no_image_has_keeps_the_middle() -> None:
    assert choose_thresholds([[0], [0]], [[0.1], [0.7]]) == pytest.approx([0.5])


def test_rows_agree_with_scikit_learn() -> None:
    truth, answers = labelled(200, 4)
    thresholds = [0.3, 0.4, 0.5, 0.6]
    rows = score_labels(truth, answers, ["a", "b", "c", "d"], thresholds=thresholds)
    predicted = answers >= thresholds
    precision, recall, f1, n = reference.precision_recall_fscore_support(truth, predicted, zero_division=0)
    assert [row.name for row in rows] == ["a", "b", "c", "d"]
    assert [row.n for row in rows] == n.tolist()
    assert [row.threshold for row in rows] == thresholds
    np.testing.assert_allclose([row.precision for row in rows], precision)
    np.testing.assert_allclose([row.recall for row in rows], recall)
    np.testing.assert_allclose([row.f1 for row in rows], f1)
    np.testing.assert_allclose([row.share for row in rows], truth.mean(axis=0))
    expected = reference.average_precision_score(truth, answers, average=None)
    np.testing.assert_allclose([row.average_precision for row in rows], expected)
    np.testing.assert_allclose(
        [row.auc for row in rows], reference.roc_auc_score(truth, answers, average=None)
    )


def test_rows_leave_undefined_scores_open() -> None:
    absent, everywhere = score_labels([[0, 1], [0, 1]], [[0.1, 0.9], [0.2, 0.9]], ["absent", "everywhere"])
    assert (absent.average_precision, absent.auc, absent.precision, absent.recall, absent.f1) == (None,) * 5
    assert (everywhere.average_precision, everywhere.auc, everywhere.f1) == (1.0, None, 1.0)


def test_random_answers_come_to_the_mean_share() -> None:
    generator = np.random.default_rng(1)
    truth, _ = labelled(20_000, 4)
    scores = score_multilabel(truth, generator.random(truth.shape))
    assert scores["mAP"].value == pytest.approx(compute_baseline("multilabel", truth, truth), abs=0.01)
    assert compute_baseline("multilabel", [[0, 0]], [[0, 0]]) == 0.0
    assert compute_baseline("multilabel", [[1, 1, 1]], [[1, 0, 0], [1, 1, 0]]) == 0.75


@pytest.mark.slow
def test_many_images_and_labels_are_quick() -> None:
    truth, answers = labelled(5000, 80)
    start = time.process_time()
    score_multilabel(truth, answers, thresholds=choose_thresholds(truth, answers))
    assert time.process_time() - start < 8  # about 1 s of the processor


@pytest.mark.parametrize(
    ("truth", "answers", "message"),
    [
        ([[0, 1]], [[0.1]], "2 labels|1 labels"),
        ([[0, 2]], [[0.1, 0.2]], "0 or 1"),
        ([[0, 1]], [[0.1, 7.0]], "within 0..1"),
        (np.empty((0, 2)), np.empty((0, 2)), "n > 0"),
    ],
)
def test_impossible_input_is_refused(truth: object, answers: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_multilabel(truth, answers)
    with pytest.raises(DataError, match="2 thresholds"):
        score_multilabel([[0, 1]], [[0.1, 0.2]], thresholds=[0.5])
