"""Cells: raw values as text, and text that no spreadsheet runs as a formula."""

import numpy as np
import pandas
import pytest

from regraft.data.cells import escape_formula, normalise_cell


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
