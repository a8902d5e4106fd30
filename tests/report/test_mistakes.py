"""The most confident mistakes and the most frequent confusions."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.errors import DataError
from regraft.report.mistakes import (
    Confusion,
    largest_errors,
    most_confused,
    most_wrong,
    most_wrong_labels,
)


def test_most_wrong_starts_with_the_most_confident_mistake() -> None:
    probabilities = [[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.1, 0.9, 0.0], [0.2, 0.1, 0.7]]
    assert most_wrong([0, 0, 0, 0], probabilities).tolist() == [2, 3, 1]


def test_most_wrong_weighs_the_probability_of_the_truth() -> None:
    # Both answers have 0.5; the second gave the truth less.
    assert most_wrong([0, 0], [[0.4, 0.5, 0.1], [0.1, 0.5, 0.4]]).tolist() == [1, 0]


def test_most_wrong_keeps_the_order_of_ties() -> None:
    probabilities = np.tile([0.25, 0.75], (50, 1)).astype(np.float32)
    assert most_wrong(np.zeros(50, int), probabilities, count=10).tolist() == list(range(10))


def test_most_wrong_of_flawless_answers_is_empty() -> None:
    labels = np.arange(4)
    assert most_wrong(labels, np.eye(4)).tolist() == []
    assert most_wrong([], np.empty((0, 4))).tolist() == []


def test_most_wrong_refuses_shapes_that_disagree() -> None:
    with pytest.raises(DataError, match=r"\(2,\) and \(1, 2\)"):
        most_wrong([0, 1], [[0.5, 0.5]])


def test_most_confused_sorts_by_count_then_share() -> None:
    confusion = np.array([[9, 2, 0], [2, 1, 0], [0, 5, 0]])
    assert most_confused(confusion, ["a", "b", "c"]) == [
        Confusion("c", "b", 5, 5),
        Confusion("b", "a", 2, 3),
        Confusion("a", "b", 2, 11),
    ]
    assert len(most_confused(confusion, ["a", "b", "c"], count=1)) == 1


def test_the_most_wrong_labels_come_first_then_the_most_confident() -> None:
    truth = [[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]]
    answers = [[0.4, 0.1, 0.1], [0.2, 0.2, 0.9], [0.0, 0.0, 0.9], [0.1, 0.1, 0.1]]
    assert most_wrong_labels(truth, answers, [0.5] * 3).tolist() == [1, 3, 0]
    assert most_wrong_labels(truth, answers, [0.5] * 3, count=1).tolist() == [1]


def test_a_threshold_decides_what_is_a_wrong_label() -> None:
    assert most_wrong_labels([[1]], [[0.4]], [0.4]).tolist() == []
    assert most_wrong_labels([[1]], [[0.4]], [0.41]).tolist() == [0]


def test_the_largest_errors_count_in_units_of_their_target() -> None:
    truth = np.zeros((3, 2))
    answers = np.array([[1.0, 100.0], [5.0, 100.0], [0.0, 0.0]])
    assert largest_errors(truth, answers).tolist() == [1, 0]
    assert largest_errors(truth, truth).tolist() == []
