"""Which questions heat maps answer for each task."""

from __future__ import annotations

import numpy as np

from regraft.explanation.evidence import list_questions


def test_a_class_is_compared_with_the_mean_of_all_and_with_the_runner_up() -> None:
    alone, against = list_questions("multiclass", ["a", "b", "c"], np.array([0.2, 0.1, 0.7]), {})
    assert (alone.subject, alone.rival, alone.is_signed) == ("c", "", False)
    np.testing.assert_allclose(alone.direction, [-1 / 3, -1 / 3, 2 / 3])
    assert (against.subject, against.rival, against.is_signed) == ("c", "a", True)
    np.testing.assert_allclose(against.direction, [-1, 0, 1])


def test_a_constant_added_to_all_decision_values_changes_no_question() -> None:
    for question in list_questions("multiclass", ["a", "b", "c"], np.array([0.2, 0.1, 0.7]), {}):
        assert abs(question.direction.sum()) < 1e-12


def test_two_classes_have_one_map_that_speaks_for_the_predicted_one() -> None:
    (first,) = list_questions("binary", ["cat", "dog"], np.array([0.9, 0.1]), {})
    assert (first.subject, first.rival, first.direction.tolist()) == ("cat", "dog", [-1.0])
    (second,) = list_questions("binary", ["cat", "dog"], np.array([0.1, 0.9]), {})
    assert (second.subject, second.rival, second.direction.tolist()) == ("dog", "cat", [1.0])


def test_labels_above_their_thresholds_get_a_map_at_most_three() -> None:
    outputs, limits = ["a", "b", "c", "d", "e"], {"a": 0.95}
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.55])
    assert [question.subject for question in list_questions("multilabel", outputs, values, limits)] == [
        "b",
        "c",
        "d",
    ]


def test_without_a_label_the_likeliest_ones_get_a_map() -> None:
    questions = list_questions("multilabel", ["a", "b"], np.array([0.1, 0.3]), {})
    assert [question.subject for question in questions] == ["b", "a"]


def test_numbers_are_compared_with_the_rest_of_the_image() -> None:
    (question,) = list_questions("regression", ["age"], np.array([40.0]), {})
    assert question.is_centred
    assert question.is_signed
