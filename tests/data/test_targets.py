"""Targets: what is inferred from raw values, what can be requested, and what is refused."""

import pytest

from regraft.data.raw_targets import read_raw_targets
from regraft.data.targets import convert_targets, put_positive_last, read_targets
from regraft.errors import DataError, UsageError


def one(cells, **options):
    return read_raw_targets([cells], ["label"], **options)


def test_text_is_classes_sorted_and_two_of_them_are_binary():
    found = one(["dog", "cat", "ape", "cat"])
    assert (found.task, found.outputs, found.values) == ("multiclass", ("ape", "cat", "dog"), [2, 1, 0, 1])
    assert found.why == "Column label holds 3 classes"
    found = one(["dog", "cat"])
    assert (found.task, found.outputs, found.values) == ("binary", ("cat", "dog"), [1, 0])
    assert found.why == "Column label holds 2 classes; the positive class is dog"


@pytest.mark.parametrize(
    ("names", "positive"),
    [
        (("yes", "no"), "yes"),
        (("abnormal", "normal"), "abnormal"),
        (("disease", "healthy"), "disease"),
        (("infected", "uninfected"), "infected"),
        (("hot dog", "not hot dog"), "hot dog"),
        (("True", "False"), "True"),
        (("1", "0"), "1"),
        (("-1", "1"), "1"),
        (("benign", "malignant"), "malignant"),
        (("cat", "dog"), "dog"),
    ],
)
def test_the_positive_class_is_the_one_that_does_not_mean_no(names, positive):
    assert put_positive_last(names)[1] == positive
    assert put_positive_last(names[::-1])[1] == positive
    found = one([names[0], names[1]] * 2)
    assert found.outputs[found.values[0]] == names[0]
    assert found.outputs[found.values[1]] == names[1]


def test_numbers_that_are_not_whole_are_regression():
    found = one(["0.5", "1", "2"])
    assert (found.task, found.outputs, found.values) == ("regression", ("label",), [(0.5,), (1.0,), (2.0,)])
    assert found.why == "Column label holds 3 distinct numbers"


def test_few_whole_numbers_are_classes_in_the_order_of_numbers_and_many_are_not():
    found = one([str(number) for number in (10, 9, 11)] * 4)
    assert (found.task, found.outputs) == ("multiclass", ("9", "10", "11"))
    assert found.why == "Column label holds 3 different whole numbers"
    assert one([str(number) for number in range(5, 45)] * 4).task == "regression"
    assert one([str(number) for number in range(5, 12)]).task == "regression"  # none occurs twice


def test_whole_numbers_that_count_from_zero_are_classes():
    found = one([str(number) for number in range(100)] * 2)
    assert (found.task, len(found.outputs), found.values[:3]) == ("multiclass", 100, [0, 1, 2])


def test_codes_with_leading_zeros_are_no_numbers():
    assert one([f"{number:03}" for number in range(60)] * 2).task == "multiclass"


def test_missing_values_and_texts_among_numbers_refuse_their_row_only():
    found = one(["0.5", None, "blurred", "0.25", "0.75"])
    assert found.values == [(0.5,), None, None, (0.25,), (0.75,)]
    assert {row: code for row, (code, _) in found.refused.items()} == {1: "missing_label", 2: "not_a_number"}
    assert "'blurred'" in found.refused[2][1]
    found = one(["cat", None, "dog"])
    assert (found.outputs, found.values) == (("cat", "dog"), [0, None, 1])


def test_whole_numbers_beside_a_text_are_classes():
    assert one(["0", "1", "2", "many"] * 3).outputs == ("0", "1", "2", "many")


def test_a_column_of_missing_values_is_an_error():
    with pytest.raises(DataError, match="holds no values"):
        one([None, None])


@pytest.mark.parametrize(
    ("cells", "task", "why"),
    [
        (["cat", "dog", "ape", "1"], "regression", "texts such as 'cat'"),
        (["cat", "dog", "ape"], "binary", "needs 2 classes, and there are 3"),
        (["cat", "dog"], "bianry", 'Did you mean "binary"'),
    ],
)
def test_a_task_that_the_values_cannot_have_is_a_usage_error(cells, task, why):
    with pytest.raises(UsageError, match=why):
        one(cells, task=task)


def test_a_task_asked_for_overrules():
    assert one(["1", "2"] * 5, task="regression").values[:2] == [(1.0,), (2.0,)]
    assert one(["1.5", "2.5"], task="multiclass").outputs == ("1.5", "2.5")
    assert one(["cat", "dog"], task="multiclass").task == "multiclass"
    assert one(["cat", "dog", "ape"], task="multilabel").values == [(1,), (2,), (0,)]


def test_labels_in_a_cell_are_taken_apart_and_an_empty_cell_has_none():
    found = one(["red|dress", " dress ", None, "", "red||red"], separator="|")
    assert (found.task, found.outputs) == ("multilabel", ("dress", "red"))
    assert found.values == [(0, 1), (0,), (), (), (1,)]
    with pytest.raises(UsageError, match="several labels a sample"):
        one(["a|b"], separator="|", task="multiclass")
    with pytest.raises(DataError, match="no label"):
        one([None, ""], separator="|")


def test_columns_of_flags_are_labels():
    rows = [
        ("1", "0", "true"),
        ("0", "0", "False"),
        ("yes", "1", "no"),
        ("1", None, "0"),
        ("1", "maybe", "0"),
    ]
    found = read_targets(rows, ["red", "long", "new"])
    assert (found.task, found.outputs) == ("multilabel", ("red", "long", "new"))
    assert found.values == [(0, 2), (), (0, 1), None, None]
    assert found.refused[3] == ("missing_label", "Column long has no value")
    assert found.refused[4] == ("not_a_number", "Column long holds 'maybe' where 0 or 1 is expected")


def test_columns_with_one_flag_a_row_are_classes():
    rows = [("0", "1", "0"), ("1", "0", "0"), ("0", "0", "1")]
    found = read_targets(rows, ["b", "a", "c"])
    assert (found.task, found.outputs, found.values) == ("multiclass", ("b", "a", "c"), [1, 0, 2])
    assert found.why == "3 columns hold 0 and 1, exactly one 1 a row: 3 classes"
    assert read_targets(rows, ["b", "a", "c"], task="multilabel").values == [(1,), (0,), (2,)]
    with pytest.raises(UsageError, match="some rows have no 1"):
        read_targets([*rows, ("0", "0", "0")], ["b", "a", "c"], task="multiclass")


def test_columns_of_numbers_are_several_targets():
    rows = [("0", "1.5"), ("1", "2"), ("0", None), ("wide", "3"), ("1", "0")]
    found = read_targets(rows, ["width", "height"])
    assert (found.task, found.outputs) == ("regression", ("width", "height"))
    assert found.values == [(0.0, 1.5), (1.0, 2.0), None, None, (1.0, 0.0)]
    assert {row: code for row, (code, _) in found.refused.items()} == {2: "missing_label", 3: "not_a_number"}


def test_columns_of_text_cannot_be_targets():
    with pytest.raises(UsageError, match="Column colour with values such as 'red'"):
        read_targets([("1", "red"), ("0", "blue")], ["new", "colour"])
    with pytest.raises(UsageError, match=r"for multilabel: expected 0 and 1 in each.*'7'"):
        read_targets([("1", "7"), ("0", "8")], ["new", "size"], task="multilabel")


def test_names_say_what_whole_numbers_stand_for():
    found = one(["1", "0", "7", "wolf"], names=["cat", "wolf"])
    assert (found.task, found.outputs, found.values) == ("binary", ("cat", "wolf"), [1, 0, None, 1])
    assert found.refused[2][0] == "unknown_class"


def test_two_classes_become_binary_and_back():
    found = convert_targets([0, 1, 1], ("ill", "normal"), "multiclass", "auto")
    assert (found.task, found.outputs, found.values) == ("binary", ("normal", "ill"), [1, 0, 0])
    back = convert_targets(found.values, found.outputs, "binary", "multiclass")
    assert (back.task, back.outputs, back.values) == ("multiclass", ("normal", "ill"), [1, 0, 0])
    assert convert_targets([0, 1, 2], ("a", "b", "c"), "multiclass", "auto").task == "multiclass"
    assert convert_targets([0, 1], ("no", "yes"), "binary", "auto").values == [0, 1]


def test_classes_named_by_numbers_can_be_a_regression_and_others_cannot():
    found = convert_targets([1, 0], ("0.5", "2"), "multiclass", "regression")
    assert (found.task, found.outputs, found.values) == ("regression", ("target",), [(2.0,), (0.5,)])
    with pytest.raises(UsageError, match="classes such as 'cat'"):
        convert_targets([0], ("cat", "2"), "multiclass", "regression")
    with pytest.raises(UsageError, match="its targets are those of regression"):
        convert_targets([(0.5,)], ("target",), "regression", "multiclass")


def test_labels_are_classes_only_where_each_sample_has_one():
    assert convert_targets([(1,), (0,)], ("a", "b"), "multilabel", "multiclass").values == [1, 0]
    with pytest.raises(UsageError, match="or several"):
        convert_targets([(0, 1)], ("a", "b"), "multilabel", "multiclass")


def test_a_word_for_a_missing_value_is_a_class_where_the_names_hold_it():
    found = one(["None", "crack", "None"], names=["None", "crack"])
    assert (found.values, found.refused, found.notes) == ([0, 1, 0], {}, ())
    found = one(["None", "crack", "hole", None])
    assert found.values == [None, 0, 1, None]
    assert found.refused[0][1] == (
        "Column label holds None, which is read as a missing value; a class needs another name"
    )
    assert found.refused[3][1] == "Column label has no value"
