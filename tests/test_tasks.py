"""Tasks: losses and scores are those of scikit-learn and Keras."""

import keras
import numpy as np
import pytest
from sklearn import metrics
from sklearn.utils.class_weight import compute_sample_weight

from regraft.tasks import TASKS

RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, 4, 50)
PROBABILITIES = RNG.dirichlet(np.ones(4), 50)
LABELS = (RNG.random((50, 3)) < 0.3).astype(np.float32)
SIGMOIDS = RNG.uniform(0.01, 0.99, (50, 3))
NUMBERS = RNG.normal(10, 5, (50, 2)).astype(np.float32)
GUESSES = NUMBERS + RNG.normal(0, 2, (50, 2))


def test_multiclass_is_log_loss_and_accuracy():
    task = TASKS["multiclass"]
    encoded = task.encode(CLASSES, 4)
    expected = metrics.log_loss(CLASSES, PROBABILITIES, labels=range(4))
    assert task.compute_losses(PROBABILITIES, encoded).mean() == pytest.approx(expected)
    assert task.score(PROBABILITIES, encoded) == metrics.accuracy_score(CLASSES, PROBABILITIES.argmax(1))


def test_binary_is_one_column():
    task = TASKS["binary"]
    truth = CLASSES % 2
    encoded, answers = task.encode(truth, 2), SIGMOIDS[:, :1]
    assert encoded.shape == (50, 1) == (50, task.count_units(2))
    both = np.hstack([1 - answers, answers])
    assert task.compute_losses(answers, encoded).mean() == pytest.approx(metrics.log_loss(truth, both))
    assert task.score(answers, encoded) == metrics.accuracy_score(truth, answers[:, 0] > 0.5)


def test_multilabel_is_binary_cross_entropy_and_mean_average_precision():
    task = TASKS["multilabel"]
    expected = np.asarray(keras.losses.binary_crossentropy(LABELS, SIGMOIDS.astype("float32")))
    np.testing.assert_allclose(task.compute_losses(SIGMOIDS, task.encode(LABELS, 3)), expected, rtol=1e-4)
    expected = metrics.average_precision_score(LABELS, SIGMOIDS, average="macro")
    assert task.score(SIGMOIDS, LABELS) == pytest.approx(expected)


def test_average_precision_holds_with_equal_answers_and_absent_labels():
    answers = SIGMOIDS.round(1)
    expected = metrics.average_precision_score(LABELS, answers, average="macro")
    score = TASKS["multilabel"].score
    assert score(answers, LABELS) == pytest.approx(expected)
    absent = np.hstack([LABELS, np.zeros((50, 1))])
    assert score(np.hstack([answers, answers[:, :1]]), absent) == pytest.approx(expected)
    assert np.isnan(score(answers[:5, :2], np.zeros((5, 2))))


def test_regression_is_squared_error_in_variances_and_r2():
    task, spread = TASKS["regression"], NUMBERS.std(0)
    expected = ((GUESSES - NUMBERS) ** 2 / spread**2).mean(1)
    np.testing.assert_allclose(task.compute_losses(GUESSES, NUMBERS, spread), expected, rtol=1e-5)
    assert task.score(GUESSES, NUMBERS) == pytest.approx(metrics.r2_score(NUMBERS, GUESSES), rel=1e-5)


def test_balanced_class_weights_are_those_of_scikit_learn():
    expected = compute_sample_weight("balanced", CLASSES)
    encoded = TASKS["multiclass"].encode(CLASSES, 4)
    np.testing.assert_allclose(
        TASKS["multiclass"].compute_balanced_weights(encoded)[:, 0], expected, rtol=1e-6
    )


def test_balanced_label_weights_make_yes_and_no_of_each_label_count_alike():
    weights = TASKS["multilabel"].compute_balanced_weights(LABELS)
    assert weights.shape == LABELS.shape
    np.testing.assert_allclose((weights * LABELS).sum(0), 25, rtol=1e-5)
    np.testing.assert_allclose((weights * (1 - LABELS)).sum(0), 25, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "targets", "first", "second"),
    [
        ("multiclass", CLASSES, PROBABILITIES, PROBABILITIES * 0.6 + 0.4 * np.eye(4)[CLASSES]),
        ("binary", CLASSES % 2, SIGMOIDS[:, :1], 1 - SIGMOIDS[:, :1]),
        ("multilabel", LABELS, SIGMOIDS, SIGMOIDS * 0.7 + 0.3 * LABELS),
        ("regression", NUMBERS, GUESSES, GUESSES + 1),
    ],
)
def test_the_gain_is_the_difference_of_the_scores(name, targets, first, second):
    task = TASKS[name]
    encoded = task.encode(targets, {"multilabel": 3, "regression": 2}.get(name, 4))
    gain = task.compare(first, second, encoded)
    assert gain.value == pytest.approx(task.score(second, encoded) - task.score(first, encoded))
    assert gain.low <= gain.value <= gain.high
    assert task.compare(first, second, encoded) == gain


def test_a_gain_that_is_undefined_is_none():
    assert TASKS["multilabel"].compare(SIGMOIDS, SIGMOIDS, np.zeros_like(LABELS)) is None
