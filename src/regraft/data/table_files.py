"""Read columns of a CSV file, a Parquet file or a data frame.

The reader copes with all that spreadsheets and other programs do to a CSV file: byte order mark, UTF-16,
semicolons or tabs, a first line `sep=;`, line ends of any system, line breaks in quotes, blanks before
quotes, blank rows, commas at the end of rows, cells of any size. Rows are numbered as in a spreadsheet: the
header is row 1, unless blank rows come before it.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from regraft.errors import DataError, EnvironmentFault, UsageError, suggest_nearest, wrap_os_errors

__all__ = [
    "DELIMITERS",
    "Table",
    "allow_large_cells",
    "choose_encoding",
    "find_header",
    "is_blank",
    "is_table",
    "read_table",
    "score_delimiter",
]  # fmt: skip

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet")

_DELIMITER_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)  # Excel's, before the header
_MOST_CHARACTERS = 2**31 - 1  # in a cell: as many as csv can be asked for on every system
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def is_table(path: Path) -> bool:
    """Tell whether a path means a table: by its suffix, and because it is no folder."""
    return path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir()


@dataclass
class Table:
    """Some columns of a table.

    Attributes:
        name: of the file, for messages.
        folder: where the file lies; its paths are relative to it.
        columns: the values of each column, as read, one for each row.
        numbers: the numbers of these rows.
        refused: the faults of rows that do not fit the header, by the number of the row.
        decimal_comma: whether numbers are usually written as 0,5.
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
    encoding = choose_encoding(head)
    if encoding != "utf-16" and (b"\0" in head or not head.strip()):
        content = "an empty file" if not head.strip() else "binary content"
        raise DataError(
            f"Expected a table in CSV (UTF-8 or UTF-16) or Parquet. Received: {path} ({content})."
        )
    # Open with universal newlines, since csv does not take a single carriage return for a line end.
    try:
        with path.open(encoding=encoding) as file, allow_large_cells():
            number, header, delimiter = find_header(file)
            delimiter = delimiter or max(DELIMITERS, key=lambda mark: score_delimiter(header, mark, names))
            reader = csv.reader(
                chain([header], file), delimiter=delimiter, skipinitialspace=True, strict=True
            )
            return _read_rows(path, reader, names, delimiter=delimiter, first=number)
    except UnicodeError as error:
        raise DataError(f"{path} is neither UTF-8 nor UTF-16 text. Save it as CSV UTF-8.") from error


def choose_encoding(head: bytes) -> str:
    """Return the encoding of a text by its byte order mark; UTF-8 if it has none."""
    return next((name for mark, name in BYTE_ORDER_MARKS if head.startswith(mark)), "utf-8")


@contextmanager
def allow_large_cells() -> Iterator[None]:
    """Let csv read cells of any size, such as outlines of objects or encoded images."""
    limit = csv.field_size_limit(_MOST_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def find_header(lines: Iterable[str]) -> tuple[int, str, str]:
    """Return the header's row number and text, and its delimiter where a line names it, otherwise ""."""
    number, delimiter = 1, ""
    for line in lines:
        if match := _DELIMITER_LINE.fullmatch(line.rstrip("\n")):
            delimiter = match[1]  # spreadsheets do not count this line
        elif line.strip(" \n" + "".join(DELIMITERS)):
            return number, line, delimiter
        else:
            number += 1
    return number, "", delimiter


def score_delimiter(header: str, delimiter: str, names: Sequence[str]) -> tuple[int, int]:
    """Return how many of the names, and how many columns, a header has when read with a delimiter."""
    reader = csv.reader([header], delimiter=delimiter, skipinitialspace=True)
    columns = [name.strip() for name in next(reader, [])]
    return len(set(columns) & set(names)), len(columns)


def _read_rows(path: Path, reader: Any, names: Sequence[str], *, delimiter: str, first: int) -> Table:
    """Read the rows from the header on, which is the row `first`."""
    table = Table(path.name, path.parent, {name: [] for name in names}, [], decimal_comma=delimiter == ";")
    number = first
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_columns(header, names, path.name)
        indices = [(table.columns[name], header.index(name)) for name in names]
        width = max((index for index, name in enumerate(header, 1) if name), default=0)
        for number, row in enumerate(reader, first + 1):
            if is_blank(row):
                continue
            if len(row) >= width and is_blank(row[len(header) :]):
                table.numbers.append(number)
                for values, index in indices:
                    values.append(row[index])
            else:
                table.refused[number] = f"{len(row)} cells in it, and {len(header)} in the header"
    except csv.Error as error:
        raise DataError(
            f"{path.name} cannot be read beyond row {number}: {error}. Is a quotation mark never closed?"
        ) from error
    return table


def is_blank(cells: Sequence[str]) -> bool:
    """Tell whether no cell holds anything but blanks."""
    return not any(map(str.strip, cells))


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
