"""Copy a table with some rows changed or left out. Every other row and column stays as it is.

A cell keeps its way of writing: 0 and 1, false and true, lists of labels, labels between separators.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from regraft.data.cells import FLAGS, convert_cell, get_items, list_items
from regraft.data.table_files import (
    DELIMITERS,
    allow_large_cells,
    choose_encoding,
    find_header,
    is_blank,
    score_delimiter,
)
from regraft.errors import UsageError

__all__ = ["Change", "TargetColumns", "copy_table"]

Change = Callable[[dict[str, Any]], dict[str, Any]]  # from the cells of some columns to their new values
FLAG_PAIRS = (("0", "1"), ("false", "true"), ("no", "yes"))


@dataclass(frozen=True)
class TargetColumns:
    """The target columns of a table with labels.

    Attributes:
        names: of the columns.
        separator: text between the labels of a cell; "" where there is none.
        task: "multiclass", "binary" or "multilabel".
        outputs: names of the classes or labels.
    """

    names: tuple[str, ...]
    separator: str
    task: str
    outputs: tuple[str, ...]

    def make_change(self, labels: Sequence[str]) -> Change:
        """Return the change that gives a row its class, or adds and takes away labels.

        Args:
            labels: the class, last of several; or each label to add if the row lacks it, and else to take
                away.

        Example:
            >>> columns = TargetColumns(("tags",), "|", "multilabel", ("cat", "dog"))
            >>> columns.make_change(["cat", "dog"])({"tags": "cat|indoors"})
            {'tags': 'indoors|dog'}
        """

        def change(cells: dict[str, Any]) -> dict[str, Any]:
            if len(self.names) > 1:
                return self._change_flags(cells, labels)
            value = cells[self.names[0]]
            if self.task != "multilabel":
                return {self.names[0]: _write_like(value, labels[-1])}
            for label in labels:
                value = _toggle_label(value, label, self.separator)
            return {self.names[0]: value}

        return change

    def _change_flags(self, cells: dict[str, Any], labels: Sequence[str]) -> dict[str, Any]:
        if self.task == "multilabel":
            return cells | {name: _write_flag(cells[name], not _is_set(cells[name])) for name in labels}
        return {name: _write_flag(value, name == labels[-1]) for name, value in cells.items()}


def copy_table(source: Path, out: Path, names: Sequence[str], changes: Mapping[int, Change | None]) -> int:
    """Copy a CSV or Parquet file with some rows changed.

    Args:
        source, out: the file to read, and the one to write.
        names: of the columns that changes are for.
        changes: by the number of a row, as in `read_table`: the change, or None to leave the row out.

    Returns:
        The number of rows written.

    Raises:
        OSError: `out` cannot be written.
    """
    with source.open("rb") as file:
        head = file.read(4096)
    if head[:4] == b"PAR1":
        return _copy_parquet(source, out, names, changes)
    with allow_large_cells(), source.open(encoding=choose_encoding(head)) as lines:
        number, header, delimiter = find_header(lines)
        delimiter = delimiter or max(DELIMITERS, key=lambda mark: score_delimiter(header, mark, names))
        records = list(_read_records(chain([header], lines), delimiter))
        line_end = lines.newlines if isinstance(lines.newlines, str) else "\n"
        before = _read_before(source, choose_encoding(head), header)
    columns = [name.strip() for name in records[0][1]]
    count = 0
    with out.open("w", encoding=choose_encoding(head), newline=line_end) as written:
        writer = csv.writer(written, delimiter=delimiter, lineterminator="\n")
        written.write(before + records[0][0])
        for row, (text, cells) in enumerate(records[1:], number + 1):
            change = changes.get(row, _keep)
            if change is None:
                continue
            count += not is_blank(cells)
            if change is _keep or len(cells) < len(columns):
                written.write(text)
                continue
            writer.writerow(_change_cells(cells, columns, names, change))
    return count


def _keep(cells: dict[str, Any]) -> dict[str, Any]:
    return cells


def _read_before(source: Path, encoding: str, header: str) -> str:
    """Return what stands before the header: blank rows, and a line that names the delimiter."""
    before = []
    with source.open(encoding=encoding) as lines:
        for line in lines:
            if line == header:
                break
            before.append(line)
    return "".join(before)


def _read_records(lines: Iterable[str], delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the text and the cells of each record; its text may be several lines."""
    taken: list[str] = []

    def take() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    for cells in csv.reader(take(), delimiter=delimiter, skipinitialspace=True, strict=True):
        yield "".join(taken), cells
        taken.clear()


def _change_cells(cells: list[str], columns: list[str], names: Sequence[str], change: Change) -> list[str]:
    indices = {name: columns.index(name) for name in names}
    changed = list(cells)
    for name, value in change({name: cells[index] for name, index in indices.items()}).items():
        changed[indices[name]] = value
    return changed


def _copy_parquet(source: Path, out: Path, names: Sequence[str], changes: Mapping[int, Change | None]) -> int:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(source)
    cells = table.select(list(names)).to_pylist()
    rows = [row for row in range(len(table)) if changes.get(row + 2, _keep) is not None]
    for row in rows:
        change = changes.get(row + 2, _keep)
        if change is not None:
            cells[row] = change(cells[row])
    for name in names:
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        try:
            values = pyarrow.array([row[name] for row in cells], field.type)
        except (pyarrow.ArrowException, TypeError) as error:
            raise UsageError(f"Column {name} of {source} cannot hold the new label: {error}.") from error
        table = table.set_column(index, field, values)
    pyarrow.parquet.write_table(table.take(rows), out)
    return len(rows)


def _is_set(value: Any) -> bool:
    return bool(FLAGS.get((convert_cell(value) or "").lower(), 0))


def _write_flag(value: Any, is_set: bool) -> Any:
    """Return a flag as the cell wrote its own.

    >>> [_write_flag(value, True) for value in ("0", "False", "NO", 0.0, False, "")]
    ['1', 'True', 'YES', 1.0, True, '1']
    """
    if value is None or not isinstance(value, str):
        return type(value)(is_set) if value is not None else int(is_set)
    pair = next((pair for pair in FLAG_PAIRS if value.strip().lower() in pair), FLAG_PAIRS[0])
    text = pair[is_set]
    return text.upper() if value.isupper() else text.capitalize() if value[:1].isupper() else text


def _write_like(value: Any, label: str) -> Any:
    """Return a class as a value of the cell's type.

    >>> _write_like(3, "7"), _write_like(True, "False"), _write_like("cat", "dog"), _write_like(None, "dog")
    (7, False, 'dog', 'dog')
    """
    if isinstance(value, bool):
        return bool(FLAGS[label.lower()])
    return label if value is None or isinstance(value, str) else type(value)(label)


def _toggle_label(value: Any, label: str, separator: str) -> Any:
    """Return a cell of labels with the label added, or without it where it was among them.

    >>> _toggle_label("['cat']", "dog", ""), _toggle_label(["cat", "dog"], "dog", "")
    ("['cat', 'dog']", ['cat'])
    """
    if separator:
        texts = [text for text in str(value or "").split(separator) if text.strip()]
        return separator.join(_toggle(texts, label))
    labels = (list_items([value]) or [[]])[0] or []
    toggled = _toggle([str(text) for text in labels], label)
    if get_items(value) is not None or value is None:
        return toggled
    return json.dumps(toggled, ensure_ascii=False) if value.strip().startswith('["') else str(toggled)


def _toggle(labels: list[str], label: str) -> list[str]:
    others = [text for text in labels if convert_cell(text) != label]
    return others if len(others) < len(labels) else [*labels, label]
