"""Scores against scikit-learn and closed forms; intervals against simulation."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from sklearn import metrics as reference

from regraft.errors import DataError
from regraft.evaluation.scores import compute_baseline
from regraft.metrics.classification import (
    ClassRow,
    confusion_matrix,
    score_binary,
    score_classes,
    score_multiclass,
)
from regraft.metrics.intervals import Z95

KEYS = ["top1", "balanced_accuracy", "macro_f1", "macro_auc", "log_loss"]


def answers(n: int, n_classes: int, *, seed: int = 0, skill: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that lean towards them."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(n_classes, size=n)
    logits = generator.normal(size=(n, n_classes))
    logits[np.arange(n), labels] += skill
    probabilities = np.exp(logits)
    return labels, probabilities / probabilities.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("n", "n_classes"), [(300, 2), (400, 7), (25, 12)])
def test_scores_agree_with_scikit_learn(n: int, n_classes: int) -> None:
    labels, probabilities = answers(n, n_classes, seed=n)
    predicted, present = probabilities.argmax(axis=1), np.unique(labels)
    scores = score_multiclass(labels, probabilities)
    assert list(scores) == KEYS
    assert scores["top1"].value == pytest.approx(reference.accuracy_score(labels, predicted))
    recalls = reference.recall_score(labels, predicted, labels=present, average=None)
    assert scores["balanced_accuracy"].value == pytest.approx(recalls.mean())
    f1 = reference.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert scores["macro_f1"].value == pytest.approx(f1)
    areas = [reference.roc_auc_score(labels == label, probabilities[:, label]) for label in present]
    assert scores["macro_auc"].value == pytest.approx(np.mean(areas))
    log_loss = reference.log_loss(labels, probabilities, labels=np.arange(n_classes))
    assert scores["log_loss"].value == pytest.approx(log_loss)


def test_a_class_without_images_adds_no_term() -> None:
    labels = [0, 0, 1, 1]
    probabilities = np.eye(3)[[0, 2, 1, 1]]
    scores = score_multiclass(labels, probabilities)
    assert scores["balanced_accuracy"].value == pytest.approx((0.5 + 1.0) / 2)
    assert scores["macro_f1"].value == pytest.approx((2 / 3 + 1.0) / 2)


def test_intervals_hold_their_value_and_stay_in_range() -> None:
    for n in (1, 2, 5, 40):
        for interval in score_multiclass(*answers(n, 4, seed=n)).values():
            assert 0 <= interval.low <= interval.value <= interval.high
    for key in KEYS[:4]:
        assert score_multiclass(*answers(9, 4))[key].high <= 1


@pytest.mark.slow
def test_intervals_cover_the_truth_about_as_often_as_claimed() -> None:
    trials, covered = 100, dict.fromkeys(KEYS, 0)
    labels, probabilities = answers(200_000, 3, seed=99)
    predicted = probabilities.argmax(axis=1)
    truth = {
        "top1": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "macro_f1": reference.f1_score(labels, predicted, average="macro"),
        "macro_auc": reference.roc_auc_score(labels, probabilities, multi_class="ovr"),
        "log_loss": reference.log_loss(labels, probabilities),
    }
    for trial in range(trials):
        scores = score_multiclass(*answers(150, 3, seed=1000 + trial), seed=trial)
        for key in covered:
            covered[key] += scores[key].low <= truth[key] <= scores[key].high
    for key, times in covered.items():
        assert 0.88 <= times / trials <= 1, key


def test_order_of_images_makes_no_difference() -> None:
    labels, probabilities = answers(200, 5)
    order = np.random.default_rng(3).permutation(200)
    assert score_multiclass(labels, probabilities) == score_multiclass(labels[order], probabilities[order])


def test_a_seed_fixes_the_intervals() -> None:
    labels, probabilities = answers(200, 5)
    first = score_multiclass(labels, probabilities, seed=1)
    assert first == score_multiclass(labels, probabilities, seed=1)
    other = score_multiclass(labels, probabilities, seed=2)
    assert first["macro_f1"].low != other["macro_f1"].low
    assert first["macro_f1"].value == other["macro_f1"].value


def test_perfect_answers() -> None:
    labels = np.arange(60) % 3
    scores = score_multiclass(labels, np.eye(3)[labels])
    assert scores["top1"].value == scores["top1"].high == 1.0
    assert 0.9 < scores["top1"].low < 1.0
    assert scores["macro_f1"].low == scores["balanced_accuracy"].low == 1.0
    assert scores["log_loss"].value == scores["log_loss"].high == 0.0


def test_hopeless_answers() -> None:
    labels = np.arange(60) % 3
    scores = score_multiclass(labels, np.eye(3)[(labels + 1) % 3])
    assert scores["top1"].value == scores["top1"].low == 0.0
    assert scores["macro_f1"].high == 0.0
    assert scores["log_loss"].value == pytest.approx(-math.log(1e-15))


def test_a_single_image() -> None:
    scores = score_multiclass([1], [[0.3, 0.7]])
    assert scores["top1"].value == 1.0
    assert scores["top1"].low == pytest.approx(1 / (1 + Z95**2))
    assert scores["log_loss"].low == scores["log_loss"].high == pytest.approx(-math.log(0.7))


def test_half_precision_is_scored_in_double() -> None:
    labels, probabilities = answers(50, 4)
    single = score_multiclass(labels, probabilities.astype(np.float16))
    assert single["log_loss"].value == pytest.approx(
        score_multiclass(labels, probabilities)["log_loss"].value, abs=1e-3
    )


def test_many_images_and_classes_are_quick() -> None:
    labels, probabilities = answers(5000, 100)
    start = time.process_time()
    score_multiclass(labels, probabilities)
    assert time.process_time() - start < 8  # about 1 s of the processor


@pytest.mark.parametrize(
    ("labels", "probabilities", "message"),
    [
        ([], np.empty((0, 3)), "n > 0"),
        ([0, 1], [[0.5, 0.5]], "whole numbers"),
        ([0.0], [[0.5, 0.5]], "whole numbers"),
        ([2], [[0.5, 0.5]], "from 0 to 1"),
        ([-1], [[0.5, 0.5]], "from 0 to 1"),
        ([0], [[7.1, -3.0]], "softmax"),
        ([0], [[math.nan, 0.5]], "Expected probabilities"),
        ([0], [0.5, 0.5], "shape"),
    ],
)
def test_impossible_input_is_refused(labels: object, probabilities: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_multiclass(labels, probabilities)


def test_confusion_matrix_agrees_with_scikit_learn() -> None:
    labels, probabilities = answers(300, 6)
    predicted = probabilities.argmax(axis=1)
    expected = reference.confusion_matrix(labels, predicted, labels=range(6))
    np.testing.assert_array_equal(confusion_matrix(labels, predicted, 6), expected)


def test_confusion_matrix_of_nothing_is_zero() -> None:
    np.testing.assert_array_equal(confusion_matrix([], [], 2), np.zeros((2, 2), int))


def test_class_rows_agrees_with_scikit_learn() -> None:
    labels, probabilities = answers(300, 4)
    predicted = probabilities.argmax(axis=1)
    precision, recall, f1, n = reference.precision_recall_fscore_support(labels, predicted)
    rows = score_classes(labels, predicted, ["a", "b", "c", "d"])
    assert [row.name for row in rows] == ["a", "b", "c", "d"]
    assert [row.n for row in rows] == n.tolist()
    np.testing.assert_allclose([row.precision for row in rows], precision)
    np.testing.assert_allclose([row.recall for row in rows], recall)
    np.testing.assert_allclose([row.f1 for row in rows], f1)


def test_class_rows_leaves_undefined_scores_open() -> None:
    rows = score_classes([0, 0], [0, 2], ["here", "nowhere", "only answered"])
    assert rows[1] == ClassRow("nowhere", 0, None, None, None)
    assert rows[2] == ClassRow("only answered", 0, 0.0, None, 0.0)


def test_the_baseline_takes_the_largest_class_of_the_training_labels() -> None:
    assert compute_baseline("multiclass", [0, 1, 1, 2], [1, 2, 2, 2]) == 0.25
    assert compute_baseline("binary", [0, 1], [0, 0, 1, 1, 1]) == 0.4  # a tie goes to the smaller number
    with pytest.raises(DataError):
        compute_baseline("multiclass", [], [1])


def two_classes(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, a third of them 1, and answers of shape (n, 1) that lean towards them."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(n) < 1 / 3).astype(np.int64)
    return labels, 1 / (1 + np.exp(-generator.normal(labels * 2.0 - 1.2, 1.0)))[:, np.newaxis]


def test_binary_scores_agree_with_scikit_learn() -> None:
    labels, answers_ = two_classes(400)
    positive = answers_[:, 0]
    predicted = positive > 0.5
    expected = {
        "top1": reference.accuracy_score(labels, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, predicted),
        "f1": reference.f1_score(labels, predicted),
        "auc": reference.roc_auc_score(labels, positive),
        "average_precision": reference.average_precision_score(labels, positive),
        "log_loss": reference.log_loss(labels, positive),
    }
    scores = score_binary(labels, answers_)
    assert list(scores) == list(expected)
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value), name
        assert scores[name].low < value < scores[name].high


def test_binary_is_two_classes_seen_from_one_side() -> None:
    labels, positive = two_classes(150)
    both = score_multiclass(labels, np.concatenate([1 - positive, positive], axis=1))
    one = score_binary(labels, positive)
    for name in ("top1", "balanced_accuracy", "log_loss"):
        assert one[name] == both[name]
    assert one["auc"].value == pytest.approx(both["macro_auc"].value)


def test_binary_scores_that_are_undefined_are_left_out() -> None:
    only = score_binary([0, 0], [[0.1], [0.2]])
    assert list(only) == ["top1", "balanced_accuracy", "log_loss"]
    assert "macro_auc" not in score_multiclass([0, 0], [[0.9, 0.1], [0.8, 0.2]])


@pytest.mark.slow
def test_binary_intervals_cover_the_truth_about_as_often_as_claimed() -> None:
    labels, positive = two_classes(200_000, seed=99)
    truth = {name: score.value for name, score in score_binary(labels[:50_000], positive[:50_000]).items()}
    covered = dict.fromkeys(truth, 0)
    for trial in range(100):
        for name, score in score_binary(*two_classes(150, seed=1000 + trial), seed=trial).items():
            covered[name] += score.low <= truth[name] <= score.high
    for name, times in covered.items():
        assert times >= 88, name


def test_binary_answers_have_one_column() -> None:
    with pytest.raises(DataError, match=r"\(n, 1\)"):
        score_binary([0, 1], [[0.5, 0.5], [0.1, 0.9]])
