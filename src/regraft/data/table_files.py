"""Read columns of a CSV file, a Parquet file or a data frame; convert cells to text and back.

The reader copes with all that spreadsheets do to a CSV file: byte order mark, UTF-16, semicolons or tabs,
line ends of any system, line breaks in quotes, blank rows. Rows are numbered as in a spreadsheet: the header
is row 1.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from regraft.errors import DataError, EnvironmentFault, UsageError, suggest_nearest, wrap_os_errors

__all__ = ["FLAGS", "Cell", "Table", "escape_formula", "is_flag", "is_number", "normalise_cell", "read_table"]

Cell = str | None  # None is a missing value

# Missing values of pandas: nobody means a class of that name.
_MISSING = frozenset(
    ("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
)
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE_NUMBER = re.compile(r"([+-]?\d+)\.0*")

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass
class Table:
    """Some columns of a table.

    Attributes:
        name: of the file, for messages.
        folder: where the file lies; its paths are relative to it.
        columns: the values of each column, as read, one for each row.
        numbers: the numbers of these rows.
        refused: the faults of rows that do not fit the header, by the number of the row.
        decimal_comma: whether numbers may be written as 0,5.
    """

    name: str
    folder: Path
    columns: dict[str, list[Any]]
    numbers: list[int]
    refused: dict[int, str] = field(default_factory=dict)
    decimal_comma: bool = False


def read_table(source: Any, names: Sequence[str]) -> Table:
    """Read columns of a table.

    Args:
        source: path of a CSV or Parquet file, or a data frame (pandas, polars, a dictionary of lists).
        names: of the columns.

    Raises:
        UsageError: there is no such file or column.
        DataError: the source is not a table, or has no rows.
        EnvironmentFault: the file cannot be read, or a package for Parquet is missing.

    Example:
        >>> read_table({"file": ["a.png", "b.png"], "label": [1, 2]}, ["label"]).columns
        {'label': [1, 2]}
    """
    table = _read_file(Path(source), names) if isinstance(source, str | Path) else _read_frame(source, names)
    if not table.numbers and not table.refused:
        raise DataError(f"{table.name} has a header and no rows.")
    return table


def _read_file(path: Path, names: Sequence[str]) -> Table:
    with wrap_os_errors(f"{path} cannot be read"):
        if not path.is_file():
            description = "a folder" if path.is_dir() else "there is nothing by that name"
            raise UsageError(f"Expected a table: a CSV or Parquet file. Received: {path} ({description}).")
        with path.open("rb") as file:
            head = file.read(4096)
        return _read_parquet(path, names) if head[:4] == b"PAR1" else _read_csv(path, head, names)


def _read_frame(frame: Any, names: Sequence[str]) -> Table:
    keys = list(getattr(frame, "columns", frame))
    header = [str(key) for key in keys]
    _check_columns(header, names, "The table")
    columns = {name: list(frame[keys[header.index(name)]]) for name in names}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise DataError(f"The columns of the table differ in length: {sorted(lengths)}.")
    return Table("The table", Path(), columns, list(range(2, 2 + lengths.pop())))


def _read_parquet(path: Path, names: Sequence[str]) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFault(
            f'{path.name} is a Parquet file, which needs a package: pip install "regraft[parquet]"'
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check_columns(file.schema_arrow.names, names, path.name)
            columns = file.read(columns=list(names)).to_pydict()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path.name} is a damaged Parquet file: {error}.") from error
    rows = len(next(iter(columns.values()), []))
    return Table(path.name, path.parent, columns, list(range(2, 2 + rows)))


def _read_csv(path: Path, head: bytes, names: Sequence[str]) -> Table:
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")
    if encoding != "utf-16" and (b"\0" in head or not head.strip()):
        content = "an empty file" if not head.strip() else "binary content"
        raise DataError(
            f"Expected a table in CSV (UTF-8 or UTF-16) or Parquet. Received: {path} ({content})."
        )
    # Open with universal newlines, since csv does not take a single carriage return for a line end.
    try:
        with path.open(encoding=encoding) as file:
            header = file.readline()
            delimiter = max(DELIMITERS, key=lambda delimiter: _score_delimiter(header, delimiter, names))
            reader = csv.reader(chain([header], file), delimiter=delimiter, strict=True)
            return _read_rows(path, reader, names, delimiter)
    except UnicodeError as error:
        raise DataError(f"{path} is neither UTF-8 nor UTF-16 text. Save it as CSV UTF-8.") from error


def _score_delimiter(header: str, delimiter: str, names: Sequence[str]) -> tuple[int, int]:
    """Return how many of the names, and how many columns, a header has when read with a delimiter."""
    columns = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    return len(set(columns) & set(names)), len(columns)


def _read_rows(path: Path, reader: Any, names: Sequence[str], delimiter: str) -> Table:
    table = Table(path.name, path.parent, {name: [] for name in names}, [], decimal_comma=delimiter == ";")
    number = 1
    try:
        header = [name.strip() for name in next(reader)]
        _check_columns(header, names, path.name)
        indices = [(table.columns[name], header.index(name)) for name in names]
        for number, row in enumerate(reader, 2):
            if len(row) == len(header):
                if any(row):
                    table.numbers.append(number)
                    for values, index in indices:
                        values.append(row[index])
            elif any(row):
                table.refused[number] = f"{len(row)} cells in it, and {len(header)} in the header"
    except csv.Error as error:
        raise DataError(
            f"{path.name} cannot be read beyond row {number}: {error}. Is a quotation mark never closed?"
        ) from error
    return table


def _check_columns(header: Sequence[str], names: Iterable[str], table: str) -> None:
    """Check that every name is that of exactly one column."""
    counts = Counter(header)
    for name in names:
        if counts[name] > 1:
            raise DataError(f"{table} has {counts[name]} columns called {name}. Rename all but one.")
        if not counts[name]:
            hint = suggest_nearest(name, header)
            if len(header) == 1 and not hint:
                delimiters = " or ".join(DELIMITERS.values())
                hint = f" The header reads as a single column: expected {delimiters} between columns."
            raise UsageError(
                f"{table} has no column {name}. It has: {', '.join(header[:30])}"
                f"{', ...' if len(header) > 30 else ''}.{hint}"
            )


def normalise_cell(value: Any) -> Cell:
    """Return a raw value as text, the same for 1, 1.0, "1" and " 1.0 "; None where it is missing.

    >>> [normalise_cell(value) for value in (1, 1.0, " 1.0 ", True, "007", float("nan"), "n/a")]
    ['1', '1', '1', 'True', '007', None, None]
    """
    value = value.item() if hasattr(value, "item") else value
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = unicodedata.normalize("NFC", str(value).strip())
    if match := _WHOLE_NUMBER.fullmatch(text):
        return match[1]
    return None if text in _MISSING else text


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
