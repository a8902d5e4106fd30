"""Two models on the same images: the verdict, its sentence, and which images changed."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.evaluation.comparison import ModelAnswers, compare_models, format_difference
from regraft.metrics.paired import mcnemar_test

NAMES = [f"{number:03}.jpg" for number in range(200)]


def answer(right):
    """Answers to 200 images of class 0 among three."""
    wrong = np.where(np.arange(200) % 2, 1, 2)
    return np.eye(3)[np.where(right, 0, wrong)] * 0.7 + 0.1


def compare_classes(first, second):
    models = [ModelAnswers(name, answer(right)) for name, right in (("a", first), ("b", second))]
    return compare_models("multiclass", np.zeros(200, int), *models, outputs=["x", "y", "z"], images=NAMES)


def test_a_clearly_better_model_is_called_better_and_the_other_way_round():
    few, many = np.arange(200) >= 60, np.arange(200) >= 30
    result = compare_classes(few, many)
    assert result.verdict == "better"
    assert result.mcnemar == mcnemar_test(few, many)
    assert result.summary.startswith(
        "b is better: a top-1 accuracy of 85.0 % against 70.0 % on the same 200 images, +15.0 points (95 % +"
    )
    assert "McNemar's exact p = 1.9e-09" in result.summary
    assert compare_classes(many, few).verdict == "worse"


def test_a_difference_within_chance_has_no_verdict():
    first, second = np.arange(200) >= 20, (np.arange(200) >= 24) | (np.arange(200) < 7)
    result = compare_classes(first, second)
    assert result.verdict == "unclear"
    assert "b is not clearly better or worse" in result.summary


def test_the_images_that_changed_are_listed_with_both_answers():
    first, second = np.arange(200) >= 3, np.arange(200) != 150
    result = compare_classes(first, second)
    changes = [
        (change.image, change.target, change.before, change.after, change.gain) for change in result.changes
    ]
    assert changes == [
        ("000.jpg", "x", "z", "x", 1.0),
        ("001.jpg", "x", "y", "x", 1.0),
        ("002.jpg", "x", "z", "x", 1.0),
        ("150.jpg", "x", "x", "z", -1.0),
    ]


def test_a_lower_error_is_better():
    truth = np.arange(200.0)[:, None]
    noise = np.random.default_rng(0).normal(size=(200, 1))
    models = [ModelAnswers(name, truth + scale * noise) for name, scale in (("a", 4.0), ("b", 1.0))]
    result = compare_models("regression", truth, *models, outputs=["age"], images=NAMES)
    assert (result.verdict, result.mcnemar) == ("better", None)
    assert "a mean absolute error of" in result.summary
    assert "points" not in result.summary
    unit = abs(4 * noise).mean()
    gains = (4 - 1) * abs(noise[:, 0]) / unit
    assert {change.image for change in result.changes} == {NAMES[n] for n in np.flatnonzero(gains >= 1)}
    assert result.changes[0].image == NAMES[gains.argmax()]


def test_images_with_more_wrong_labels_are_worse():
    truth = np.tile([[1.0, 0.0, 1.0]], (200, 1))
    first = np.tile([[0.9, 0.1, 0.8]], (200, 1))
    second = first.copy()
    second[7] = [0.2, 0.9, 0.8]
    models = [ModelAnswers("a", first), ModelAnswers("b", second, np.array([0.5, 0.5, 0.85]))]
    result = compare_models("multilabel", truth, *models, outputs=["red", "wool", "dress"], images=NAMES)
    assert len(result.changes) == 200  # the second model's own threshold misses one label everywhere
    worst = result.changes[0]
    assert (worst.image, worst.target, worst.before, worst.after) == (
        "007.jpg",
        "red, dress",
        "red, dress",
        "wool",
    )
    assert worst.gain == -3


@pytest.mark.parametrize(
    ("score", "value", "text"),
    [("top1", 0.03, "+3.0"), ("top1", -0.005, "-0.5"), ("r2", 0.5, "+0.500"), ("mae", -12345.6, "-12,346")],
)
def test_differences_have_signs(score, value, text):
    assert format_difference(score, value) == text
