"""A CSV file, a Parquet file or a data frame -> columns with row numbers; a cell -> a text, and back.

What a spreadsheet can do to a CSV file is undone here: byte order mark, UTF-16, semicolons or tabs, line
ends of any system, line breaks in quotes, blank rows. Row numbers are those a spreadsheet shows: the header
is row 1.
"""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from regraft.errors import DataError, EnvironmentFault, UsageError, nearest

__all__ = ["FLAGS", "Cell", "Table", "as_cell", "is_flag", "is_number", "read_table", "safe_cell"]

Cell = str | None  # None is a missing value

# What pandas takes for a missing value: a class of that name is nobody's intention.
_MISSING = frozenset(
    ("", "NA", "N/A", "n/a", "NaN", "nan", "-NaN", "-nan", "NULL", "null", "None", "<NA>", "#N/A", "#NA")
)
FLAGS = {"0": 0, "1": 1, "false": 0, "true": 1, "no": 0, "yes": 1}
_NUMBER = re.compile(r"[+-]?((0|[1-9]\d*)(\.\d*)?|\.\d+)([eE][+-]?\d+)?")
_WHOLE = re.compile(r"([+-]?\d+)\.0*")

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


@dataclass
class Table:
    """Some columns of a table.

    Attributes:
        name: of the file, for messages.
        folder: where it lies, which the paths in it are relative to.
        columns: column -> one value a row, as they were read.
        numbers: the number of each of these rows.
        refused: numbers of rows that do not fit the header -> what is wrong with them.
        decimal_comma: a number may be written 0,5 in it.
    """

    name: str
    folder: Path
    columns: dict[str, list[Any]]
    numbers: list[int]
    refused: dict[int, str] = field(default_factory=dict)
    decimal_comma: bool = False


def read_table(source: Any, wanted: Sequence[str]) -> Table:
    """Read columns of a table.

    Args:
        source: path of a CSV or Parquet file, or a data frame (pandas, polars, a dictionary of lists).
        wanted: names of the columns.

    Raises:
        UsageError: there is no such file or column.
        DataError: it is no table, or has no rows.
        EnvironmentFault: it cannot be read, or Parquet needs a package.

    Example:
        >>> read_table({"file": ["a.png", "b.png"], "label": [1, 2]}, ["label"]).columns
        {'label': [1, 2]}
    """
    if not isinstance(source, str | Path):
        table = _read_frame(source, wanted)
    else:
        path = Path(source)
        if not path.is_file():
            what = "a folder" if path.is_dir() else "there is nothing by that name"
            raise UsageError(f"Expected a table: a CSV or Parquet file. Received: {path} ({what}).")
        try:
            with path.open("rb") as file:
                head = file.read(4096)
            table = _read_parquet(path, wanted) if head[:4] == b"PAR1" else _read_csv(path, head, wanted)
        except OSError as error:
            if isinstance(error, EnvironmentFault):
                raise
            raise EnvironmentFault(f"{path} cannot be read: {error.strerror or error}.") from error
    if not table.numbers and not table.refused:
        raise DataError(f"{table.name} has a header and no rows.")
    return table


def _read_frame(frame: Any, wanted: Sequence[str]) -> Table:
    found = [str(name) for name in getattr(frame, "columns", frame)]
    _check(found, wanted, "The table")
    own = dict(zip(found, getattr(frame, "columns", frame), strict=True))
    columns = {name: list(frame[own[name]]) for name in wanted}
    lengths = {len(values) for values in columns.values()}
    if len(lengths) > 1:
        raise DataError(f"The columns of the table differ in length: {sorted(lengths)}.")
    return Table("The table", Path(), columns, list(range(2, 2 + lengths.pop())))


def _read_parquet(path: Path, wanted: Sequence[str]) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise EnvironmentFault(
            f'{path.name} is a Parquet file, which needs a package: pip install "regraft[parquet]"'
        ) from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _check(file.schema_arrow.names, wanted, path.name)
            columns = file.read(columns=list(wanted)).to_pydict()
    except pyarrow.ArrowException as error:
        raise DataError(f"{path.name} is a damaged Parquet file: {error}.") from error
    rows = len(next(iter(columns.values()), []))
    return Table(path.name, path.parent, columns, list(range(2, 2 + rows)))


def _read_csv(path: Path, head: bytes, wanted: Sequence[str]) -> Table:
    encoding = next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8")
    if encoding != "utf-16" and (b"\0" in head or not head.strip()):
        what = "an empty file" if not head.strip() else "binary content"
        raise DataError(f"Expected a table in CSV (UTF-8 or UTF-16) or Parquet. Received: {path} ({what}).")
    # Universal newlines: csv itself knows no line ends of one carriage return.
    try:
        with path.open(encoding=encoding) as file:
            header = file.readline()
            delimiter = max(DELIMITERS, key=lambda each: _fit(header, each, wanted))
            reader = csv.reader(chain([header], file), delimiter=delimiter, strict=True)
            return _rows(path, reader, wanted, delimiter)
    except UnicodeError as error:
        raise DataError(f"{path} is neither UTF-8 nor UTF-16 text. Save it as CSV UTF-8.") from error


def _fit(header: str, delimiter: str, wanted: Sequence[str]) -> tuple[int, int]:
    """How well a header reads with a delimiter: columns that are wanted in it, and columns."""
    found = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    return len(set(found) & set(wanted)), len(found)


def _rows(path: Path, reader: Any, wanted: Sequence[str], delimiter: str) -> Table:
    table = Table(path.name, path.parent, {name: [] for name in wanted}, [], decimal_comma=delimiter == ";")
    number = 1
    try:
        header = [name.strip() for name in next(reader)]
        _check(header, wanted, path.name)
        places = [(table.columns[name], header.index(name)) for name in wanted]
        for number, row in enumerate(reader, 2):
            if len(row) == len(header):
                if any(row):
                    table.numbers.append(number)
                    for values, place in places:
                        values.append(row[place])
            elif any(row):
                table.refused[number] = f"{len(row)} cells in it, and {len(header)} in the header"
    except csv.Error as error:
        raise DataError(
            f"{path.name} cannot be read beyond row {number}: {error}. Is a quotation mark never closed?"
        ) from error
    return table


def _check(found: Sequence[str], wanted: Iterable[str], name: str) -> None:
    """Every wanted column is there, once."""
    times = Counter(found)
    for column in wanted:
        if times[column] > 1:
            raise DataError(f"{name} has {times[column]} columns called {column}. Rename all but one.")
        if not times[column]:
            hint = nearest(column, found)
            if len(found) == 1 and not hint:
                kinds = " or ".join(DELIMITERS.values())
                hint = f" The header reads as a single column: expected {kinds} between columns."
            raise UsageError(
                f"{name} has no column {column}. It has: {', '.join(found[:30])}"
                f"{', ...' if len(found) > 30 else ''}.{hint}"
            )


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
    begins_formula = text.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    return f"'{text}" if begins_formula and not is_number(text) else text
