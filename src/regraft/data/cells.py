"""A raw value of any source -> a text, the same wherever it came from; a text -> a harmless cell."""

from __future__ import annotations

import math
import re
from typing import Any

__all__ = ["FLAGS", "Cell", "as_cell", "is_flag", "is_number", "safe_cell"]

Cell = str | None  # None is a missing value

# What pandas takes for a missing value: a class of that name is nobody's intention.
_MISSING = frozenset(
    ("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
)
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"([+-]?\d+)\.0*")


def as_cell(value: Any) -> Cell:
    """A raw value as a text, the same for 1, 1.0, "1" and " 1.0 "; None where it is missing.

    >>> [as_cell(value) for value in (1, 1.0, " 1.0 ", True, "007", float("nan"), "n/a")]
    ['1', '1', '1', 'True', '007', None, None]
    """
    value = value.item() if hasattr(value, "item") else value
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).strip()
    if whole := _WHOLE.fullmatch(text):
        return whole[1]
    return None if text in _MISSING else text


def is_number(cell: str) -> bool:
    """A finite number in digits. 007 is a code, and 1,000 a text.

    >>> [is_number(cell) for cell in ("0.5", "-3", "1e-3", "007", "inf", "1,000")]
    [True, True, True, False, False, False]
    """
    return _NUMBER.fullmatch(cell) is not None and math.isfinite(float(cell))


def is_flag(cell: str) -> bool:
    """0, 1, false, true, no or yes."""
    return cell.lower() in FLAGS


def safe_cell(text: str) -> str:
    """A text for a CSV file that a spreadsheet may open: never a formula. Numbers stay numbers.

    >>> safe_cell("=1+1"), safe_cell("-0.5"), safe_cell("cat")
    ("'=1+1", '-0.5', 'cat')
    """
    return (
        f"'{text}"
        if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) and not is_number(text)
        else text
    )
