"""Cells: raw values of a table or stream as text, numbers in one form, and lists of labels.

A cell is a text, or None where there is no value.
"""

from __future__ import annotations

import ast
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

__all__ = [
    "FLAGS",
    "Cell",
    "convert_cell",
    "do_most_fit",
    "escape_formula",
    "get_items",
    "is_flag",
    "is_missing_word",
    "is_number",
    "list_items",
    "normalise_cell",
    "read_decimal_commas",
    "read_weight",
    "unescape_formula",
    "unify_numbers",
    "write_number",
]

Cell = str | None

# Words for a missing value, as pandas, R and SQL write them.
_MISSING_WORDS = frozenset(
    ("NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
)
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")
_DECIMAL_COMMA = re.compile(r"([+-]?\d+),(\d+([eE][+-]?\d+)?)")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")  # 1,200 is 1200 to some and 1.2 to others
_ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?[\d.]+(?:[eE][+-]?\d+)?"""
_LIST = re.compile(rf"[\[({{]\s*(?:(?:{_ITEM})(?:[\s,]+|(?=[\])}}])))*[\])}}]")


def convert_cell(value: Any) -> Cell:
    """Return a raw value as text, the same for 1, 1.0, "1" and " 1.0 "; None where there is none.

    >>> [convert_cell(value) for value in (1, 1.0, " 1.0 ", True, "007", float("nan"), " ", "n/a")]
    ['1', '1', '1', 'True', '007', None, None, 'n/a']
    """
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    is_nan = isinstance(value, float | Decimal) and math.isnan(value)
    if value is None or is_nan or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    is_finite = isinstance(value, float) and math.isfinite(value)
    text = write_number(value) if is_finite else unicodedata.normalize("NFC", str(value).strip())
    match = _WHOLE_NUMBER.fullmatch(text)
    return match[1] if match else text or None


def write_number(value: float) -> str:
    """Return a number as text with all its digits, a whole one without a point.

    >>> write_number(1234567.0), write_number(0.1)
    ('1234567', '0.1')
    """
    number = float(value)
    return str(int(number)) if number.is_integer() else repr(number)


def normalise_cell(value: Any) -> Cell:
    """Return a raw value as `convert_cell` does, or None for a word that stands for a missing value.

    >>> [normalise_cell(value) for value in (1.0, "007", "n/a")]
    ['1', '007', None]
    """
    cell = convert_cell(value)
    return None if cell is None or is_missing_word(cell) else cell


def is_missing_word(cell: str, names: Sequence[str] = ()) -> bool:
    """Tell whether a cell is a word for a missing value, and none of the `names` of classes.

    >>> is_missing_word("None"), is_missing_word("None", ["None", "crack"]), is_missing_word("none")
    (True, False, False)
    """
    return cell in _MISSING_WORDS and cell not in names


def is_number(cell: str) -> bool:
    """Tell whether a cell is a finite number in digits. 007 is a code, and 1,000 is text.

    >>> [is_number(cell) for cell in ("0.5", "-3", "1e-3", "007", "inf", "1,000")]
    [True, True, True, False, False, False]
    """
    return _NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def is_flag(cell: str) -> bool:
    """Tell whether a cell is 0, 1, false, true, no or yes."""
    return cell.lower() in FLAGS


def escape_formula(text: str) -> str:
    """Return text that no spreadsheet takes for a formula. Numbers stay numbers.

    >>> escape_formula("=1+1"), escape_formula("-0.5"), escape_formula("cat")
    ("'=1+1", '-0.5', 'cat')
    """
    begins_formula = text.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{text}" if begins_formula and not is_number(text) else text


def unescape_formula(text: str) -> str:
    """Return the text that `escape_formula` made into this one.

    >>> [unescape_formula(text) for text in ("'=1+1", "-0.5", "cat", "'s")]
    ['=1+1', '-0.5', 'cat', "'s"]
    """
    return text[1:] if text.startswith("'") and escape_formula(text[1:]) == text else text


def do_most_fit(cells: Sequence[str], fits: Callable[[str], bool]) -> bool:
    """Tell whether more than half of some cells fit."""
    return 2 * sum(map(fits, cells)) > len(cells)


def read_decimal_commas(cells: list[Cell], are_usual: bool) -> list[Cell]:
    """Return the cells of a column with a point for each decimal comma, if it is a column of numbers.

    Every cell must be a number, or most of them where decimal commas are usual.

    >>> read_decimal_commas(["0,5", None, "12"], False), read_decimal_commas(["0,5", "1,2-diol"], False)
    (['0.5', None, '12'], ['0,5', '1,2-diol'])
    """
    points = [cell and _DECIMAL_COMMA.sub(r"\1.\2", cell) if _has_comma(cell) else cell for cell in cells]
    present = [cell for cell in points if cell is not None]
    if are_usual:
        return points if do_most_fit(present, is_number) else cells
    may_be_thousands = all(_THOUSANDS.fullmatch(cell) for cell in cells if cell and _has_comma(cell))
    has_points = any(cell and "." in cell for cell in cells)
    is_clear = not may_be_thousands and not has_points and all(map(is_number, present))
    return points if is_clear else cells


def read_weight(cell: Cell) -> float | str:
    """Return the weight that a cell holds, from 0; or why it holds none, as a phrase.

    >>> read_weight("0.5"), read_weight("-1"), read_weight("heavy"), read_weight(None)
    (0.5, "holds '-1', which is below 0", "holds 'heavy' where a number is expected", 'has no value')
    """
    if cell is None:
        return "has no value"
    if not is_number(cell):
        return f"holds {cell!r} where a number is expected"
    return float(cell) if float(cell) >= 0 else f"holds {cell!r}, which is below 0"


def _has_comma(cell: Cell) -> bool:
    return cell is not None and _DECIMAL_COMMA.fullmatch(cell) is not None


def unify_numbers(cells: list[Cell], names: Sequence[str] = ()) -> list[Cell]:
    """Return the cells of a column with every number in one form, if most are numbers; `names` stay.

    >>> unify_numbers(["+1", "1e5", "-0", "2.50", "12345678901234567890"])
    ['1', '100000', '0', '2.50', '12345678901234567890']
    """
    if not do_most_fit([cell for cell in cells if cell is not None], is_number):
        return cells
    return [_unify_number(cell) if cell and cell not in names and is_number(cell) else cell for cell in cells]


def _unify_number(cell: str) -> str:
    value = float(cell)
    is_exact = value.is_integer() and abs(value) < 2**53
    return str(int(value)) if is_exact else cell.removeprefix("+")


def list_items(values: Sequence[Any]) -> list[list[Cell] | None] | None:
    """Return the items of each value of a column of lists; None in it for no value; None for no such column.

    A text among lists is a list of one. Texts are lists if all of them are written as such.

    >>> list_items([["cat", "indoors"], "dog", None])
    [['cat', 'indoors'], ['dog'], None]
    >>> list_items(["['cat', 'indoors']", '["dog"]']), list_items(["cat", "['dog']"])
    ([['cat', 'indoors'], ['dog']], None)
    """
    lists = [get_items(value) for value in values]
    if all(items is None for items in lists):
        texts = [normalise_cell(value) for value in values]
        if not any(texts) or any(_read_list(text) is None for text in texts if text):
            return None
        lists = [_read_list(text) if text else None for text in texts]
    return [
        [convert_cell(item) for item in items] if items is not None else _make_list(value)
        for value, items in zip(values, lists, strict=True)
    ]


def get_items(value: Any) -> list[Any] | None:
    """Return the items of a list, tuple, set or array; None for a single value.

    >>> get_items({"dog", "cat"}), get_items(np.array([1, 2])), get_items("cat"), get_items(np.array(1))
    (['cat', 'dog'], [1, 2], None, None)
    """
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if not isinstance(value, list | tuple) and not hasattr(value, "__array__"):
        return None
    array = np.asarray(value) if hasattr(value, "__array__") else None
    if array is None:
        return list(value)
    return None if array.ndim == 0 else array.ravel().tolist()


def _make_list(value: Any) -> list[Cell] | None:
    cell = normalise_cell(value)
    return None if cell is None else [cell]


def _read_list(text: str) -> list[str] | None:
    """Return the items of a list that Python, NumPy or JSON wrote; None where the text is none.

    Items are in quotes, or numbers in square brackets: "(1)" may be a class.
    """
    if not _LIST.fullmatch(text) or not (text.startswith("[") or "'" in text or '"' in text):
        return None
    items = re.findall(_ITEM, text)
    try:
        return [str(ast.literal_eval(item)) if item[0] in "'\"" else item for item in items]
    except (SyntaxError, ValueError):  # a broken escape
        return None
