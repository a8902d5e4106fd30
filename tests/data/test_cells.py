"""Cells: raw values as text, and text that no spreadsheet runs as a formula."""

import numpy as np
import pandas
import pytest

from regraft.data.cells import (
    escape_formula,
    list_items,
    normalise_cell,
    read_decimal_commas,
    unify_numbers,
    write_number,
)


@pytest.mark.parametrize(
    "value", [None, float("nan"), np.float32("nan"), pandas.NA, pandas.NaT, "", "  ", "NaN", "NA"]
)
def test_what_is_missing_is_none(value):
    assert normalise_cell(value) is None


@pytest.mark.parametrize(
    "value", [1, 1.0, "1", "1.0", " 1.00 ", np.int8(1), np.float32(1), np.array(1), b"1"]
)
def test_one_is_one_however_it_is_written(value):
    assert normalise_cell(value) == "1"


@pytest.mark.parametrize(
    ("value", "text"), [("007", "007"), ("1.0.0", "1.0.0"), (True, "True"), ("v1.0", "v1.0")]
)
def test_other_texts_stay_as_they_are(value, text):
    assert normalise_cell(value) == text


def test_numbers_come_back_to_the_last_digit():
    values = np.random.default_rng(0).normal(size=1000)
    assert [float(normalise_cell(value)) for value in values] == values.tolist()
    single = values.astype(np.float32)
    assert [np.float32(normalise_cell(value)) for value in single] == single.tolist()


@pytest.mark.parametrize(
    "text", ["=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "--1", "-x/1.png"]
)
def test_no_cell_begins_like_a_formula(text):
    assert escape_formula(text) == "'" + text


@pytest.mark.parametrize("text", ["", "cat", "-1", "+1.5e3", "a=b", "1.png"])
def test_harmless_cells_stay_as_they_are(text):
    assert escape_formula(text) == text


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["0,5", "1,25", None], ["0.5", "1.25", None]),
        (["-0,5", "+1,5e3", "2"], ["-0.5", "+1.5e3", "2"]),
        (["0,125", "0,250"], ["0.125", "0.250"]),
        (["1,5", "1,200"], ["1.5", "1.200"]),
    ],
)
def test_decimal_commas_are_read_where_every_cell_is_such_a_number(cells, expected):
    assert read_decimal_commas(cells, False) == expected
    assert read_decimal_commas(cells, True) == expected


@pytest.mark.parametrize(
    "cells",
    [
        ["0,5", "blurred"],
        ["1,200", "1,237"],  # thousands to some
        ["1.5", "0,5"],
        ["screw 3,5 mm", "screw 4,0 mm"],
        ["1,2-diol", "1,3-diol"],
        ["1,2,3", "4,5,6"],
        ["007,5", "0,5"],
    ],
)
def test_other_commas_are_part_of_the_text(cells):
    assert read_decimal_commas(cells, False) == cells


def test_one_text_among_decimal_commas_does_not_matter_where_they_are_usual():
    assert read_decimal_commas(["0,5", "1,5", "blurred"], True) == ["0.5", "1.5", "blurred"]
    assert read_decimal_commas(["nut", "bolt", "1,5"], True) == ["nut", "bolt", "1,5"]
    assert read_decimal_commas(["1.100,50 EUR", "screw 3,5 mm"], True) == ["1.100,50 EUR", "screw 3,5 mm"]


@pytest.mark.parametrize("spelling", ["+1", "1e0", "1.0e+00", "1.000000000000000000e+00", "01e0"[1:], "1."])
def test_a_number_has_one_form_among_numbers(spelling):
    assert unify_numbers([spelling, "2", "3"]) == ["1", "2", "3"]


def test_texts_and_numbers_of_many_digits_keep_their_form():
    assert unify_numbers(["1e5", "a1b", "f00"]) == ["1e5", "a1b", "f00"]
    assert unify_numbers(["-0", "-0.0", "1e5"]) == ["0", "0", "100000"]
    assert unify_numbers(["3.10", "3.9", "12345678901234567890"]) == ["3.10", "3.9", "12345678901234567890"]
    assert unify_numbers(["+1", "2", "3"], ["+1"]) == ["+1", "2", "3"]


@pytest.mark.parametrize(
    "value",
    [
        ["cat", "in"],
        ("cat", "in"),
        {"cat", "in"},
        frozenset({"in", "cat"}),
        np.array(["cat", "in"]),
        np.array(["cat", "in"], object),
        pandas.Series(["cat", "in"]),
        "['cat', 'in']",
        '["cat", "in"]',
        "('cat', 'in')",
        "{'cat', 'in'}",
        "['cat' 'in']",
        "['cat'\n 'in']",
    ],
)
def test_a_list_is_a_list_however_it_is_written(value):
    assert list_items([value, value]) == [["cat", "in"]] * 2


@pytest.mark.parametrize(
    "values", [["cat", "dog"], ["(1)", "(2)"], ["[a]", "[b]"], ["['cat'", "'in']"], ["", None]]
)
def test_other_texts_are_no_lists(values):
    assert list_items(values) is None


def test_empty_lists_and_missing_ones_differ():
    assert list_items([["1"], [], None, float("nan"), "a"]) == [["1"], [], None, None, ["a"]]
    assert list_items(['["it\'s", "\\u00e4"]', "[1, 2.5]", ""]) == [["it's", "ä"], ["1", "2.5"], None]


def test_a_number_is_written_with_all_its_digits():
    values = [1700000000.0, 1234567.0, 0.1, 1e-7, 1234567.125, -3.0]
    assert [write_number(value) for value in values] == [
        "1700000000", "1234567", "0.1", "1e-07", "1234567.125", "-3",
    ]  # fmt: skip
