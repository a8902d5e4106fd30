"""The most confident mistakes and the most frequent confusions."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.errors import DataError
from regraft.report.mistakes import (
    Confusion,
    rank_confusions,
    rank_errors,
    rank_right_answers,
    rank_wrong_answers,
    rank_wrong_labels,
)


def test_the_most_confident_mistake_comes_first() -> None:
    probabilities = [[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.1, 0.9, 0.0], [0.2, 0.1, 0.7]]
    assert rank_wrong_answers([0, 0, 0, 0], probabilities).tolist() == [2, 3, 1]


def test_the_probability_of_the_truth_counts() -> None:
    # Both answers have 0.5; the second gave the truth less.
    assert rank_wrong_answers([0, 0], [[0.4, 0.5, 0.1], [0.1, 0.5, 0.4]]).tolist() == [1, 0]


def test_ties_stay_in_order() -> None:
    probabilities = np.tile([0.25, 0.75], (50, 1)).astype(np.float32)
    assert rank_wrong_answers(np.zeros(50, int), probabilities, count=10).tolist() == list(range(10))


def test_right_answers_are_not_among_the_mistakes() -> None:
    labels = np.arange(4)
    assert rank_wrong_answers(labels, np.eye(4)).tolist() == []
    assert rank_wrong_answers([], np.empty((0, 4))).tolist() == []


def test_the_surest_and_the_least_sure_right_answer_of_each_class_are_listed() -> None:
    probabilities = [[0.7, 0.2, 0.1], [0.9, 0.1, 0.0], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]]
    assert rank_right_answers([0, 0, 1, 0, 2], probabilities).tolist() == [1, 3, 2]
    assert rank_right_answers([0, 0, 1, 0, 2], probabilities, count=2).tolist() == [1, 3]
    assert rank_right_answers([], np.empty((0, 3))).tolist() == []
    assert rank_right_answers([1], [[0.9, 0.1]]).tolist() == []


def test_shapes_that_disagree_are_refused() -> None:
    with pytest.raises(DataError, match=r"\(2,\) and \(1, 2\)"):
        rank_wrong_answers([0, 1], [[0.5, 0.5]])


def test_confusions_are_sorted_by_count_then_share() -> None:
    confusion = np.array([[9, 2, 0], [2, 1, 0], [0, 5, 0]])
    assert rank_confusions(confusion, ["a", "b", "c"]) == [
        Confusion("c", "b", 5, 5),
        Confusion("b", "a", 2, 3),
        Confusion("a", "b", 2, 11),
    ]
    assert len(rank_confusions(confusion, ["a", "b", "c"], count=1)) == 1


def test_the_most_wrong_labels_come_first_then_the_most_confident() -> None:
    truth = [[1, 0, 0], [1, 1, 0], [0, 0, 1], [1, 0, 0]]
    answers = [[0.4, 0.1, 0.1], [0.2, 0.2, 0.9], [0.0, 0.0, 0.9], [0.1, 0.1, 0.1]]
    assert rank_wrong_labels(truth, answers, [0.5] * 3).tolist() == [1, 3, 0]
    assert rank_wrong_labels(truth, answers, [0.5] * 3, count=1).tolist() == [1]


def test_a_threshold_decides_what_is_a_wrong_label() -> None:
    assert rank_wrong_labels([[1]], [[0.4]], [0.4]).tolist() == []
    assert rank_wrong_labels([[1]], [[0.4]], [0.41]).tolist() == [0]


def test_the_largest_errors_count_in_units_of_their_target() -> None:
    truth = np.zeros((3, 2))
    answers = np.array([[1.0, 100.0], [5.0, 100.0], [0.0, 0.0]])
    assert rank_errors(truth, answers).tolist() == [1, 0]
    assert rank_errors(truth, truth).tolist() == []
