"""The sentence about a model that does not beat its baseline: there when it is true, and only then."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.evaluation.scores import compare_with_baseline, compute_baseline

ANGLES = np.linspace(-45, 45, 60)[:, np.newaxis]
NOISE = np.random.default_rng(0).normal(size=(60, 1))


def compare(task: str, training: object, targets: object, answers: object, outputs: list[str]) -> str:
    return compare_with_baseline(task, training, targets, answers, outputs=outputs, part="test")


def test_classes_are_compared_with_the_largest_of_training() -> None:
    labels = np.arange(90) % 3
    assert compare("multiclass", labels, labels, np.eye(3)[labels], ["a", "b", "c"]) == ""
    constant = np.tile([0.1, 0.8, 0.1], (90, 1))
    assert compare("multiclass", labels, labels, constant, ["a", "b", "c"]) == (
        "No better than predicting the largest class: a top-1 accuracy of 33.3 % against 33.3 % "
        "on the 90 test images."
    )


def test_a_flawless_model_of_very_few_images_proves_nothing() -> None:
    assert "Not shown to be better" in compare("binary", [0, 1], [0, 1], [[0.1], [0.9]], ["a", "b"])
    labels = np.arange(20) % 2
    assert compare("binary", labels, labels, labels[:, np.newaxis] * 0.8 + 0.1, ["a", "b"]) == ""


def test_labels_are_compared_with_their_shares() -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((200, 3)) < 0.3).astype(float)
    skilled = truth * 0.4 + generator.random((200, 3)) * 0.5
    assert compare("multilabel", truth, truth, skilled, ["a", "b", "c"]) == ""
    blind = compare("multilabel", truth, truth, np.full((200, 3), 0.3), ["a", "b", "c"])
    assert blind.startswith("No better than random answers: a mAP of ")
    assert compare("multilabel", truth, truth * 0, skilled, ["a", "b", "c"]) == ""  # nothing to judge by


def test_numbers_are_compared_with_the_mean_of_training() -> None:
    assert compare("regression", ANGLES, ANGLES, ANGLES + 5 * NOISE, ["angle"]) == ""
    assert compare("regression", ANGLES, ANGLES, 0.4 * NOISE, ["angle"]).startswith(
        "No better than predicting the mean: a mean absolute error of 22."
    )


def test_too_few_numbers_are_called_that() -> None:
    caution = compare("regression", ANGLES, ANGLES[:4], ANGLES[:4], ["angle"])
    assert caution == (
        "Too few images to decide whether this is better than predicting the mean on the 4 test images."
    )


def test_targets_that_are_behind_are_named() -> None:
    truth = np.hstack([ANGLES, ANGLES[::-1]])
    answers = np.hstack([ANGLES + NOISE, 0.4 * NOISE])
    assert compare("regression", truth, truth, answers, ["angle", "weight"]) == (
        "No better than predicting the mean on the 60 test images, for these targets: weight."
    )


@pytest.mark.parametrize("task", ["multiclass", "binary"])
def test_the_baseline_of_classes_is_the_largest_in_training(task: str) -> None:
    assert compute_baseline(task, [0, 0, 1], [0, 1, 1, 1]) == 0.25


def test_the_baseline_of_labels_is_their_share() -> None:
    assert compute_baseline("multilabel", [[0, 1]], [[1, 0], [0, 0]]) == 0.5


def test_the_baseline_of_numbers_is_the_mean_of_training() -> None:
    assert compute_baseline("regression", [[1.0], [5.0]], [[0.0], [4.0]]) == 2.0
