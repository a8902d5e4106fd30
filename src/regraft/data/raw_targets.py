"""Read the raw values of a target as any source has them: texts, numbers, missing values, lists.

Words for a missing value are read as such, and named. Numbers are written in one way before they are
compared, so 1, +1 and 1e0 are one class. A decimal comma is read where every cell of the column is such a
number; in a table with semicolons, where most are. What the cells then mean is decided in `data.targets`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from regraft.data.cells import (
    Cell,
    convert_cell,
    do_most_fit,
    get_items,
    is_flag,
    is_missing_word,
    is_number,
    list_items,
    read_decimal_commas,
    unify_numbers,
)
from regraft.data.targets import Targets, name_column, read_label_lists, read_targets
from regraft.errors import UsageError

__all__ = ["read_raw_targets"]


def read_raw_targets(
    values: Sequence[Sequence[Any]],
    columns: Sequence[str],
    *,
    task: str = "auto",
    separator: str = "",
    names: Sequence[str] = (),
    has_decimal_commas: bool = False,
) -> Targets:
    """Read the values of each column; those of a single one may be lists of labels, or of as many numbers.

    Args:
        values: of each column, one for each sample.
        columns, task, names: as for `read_targets`.
        separator: text between the labels of a cell; "" where each cell is one value.
        has_decimal_commas: whether the source usually writes numbers as 0,5.

    Raises:
        UsageError, DataError: as for `read_targets`.

    Example:
        >>> read_raw_targets([[{"cat", "indoors"}, {"dog"}]], ["tags"]).outputs
        ('cat', 'dog', 'indoors')
        >>> read_raw_targets([[[0.5, 2.5], [1.5, 7.5]]], ["size"]).task
        'regression'
        >>> read_raw_targets([["0,5", "1,5"]], ["size"]).values
        [(0.5,), (1.5,)]
    """
    if len(columns) > 1:
        _require_single_values(values, columns)
    elif (lists := list_items(values[0])) is not None:
        are_sets = any(isinstance(value, set | frozenset) for value in values[0])
        if are_sets or _are_label_lists(lists, task, names):
            return _read_labels([cells or () for cells in lists], columns[0], task, names)
        values, columns, names = _divide_into_columns(lists, columns[0], names)
    elif separator:
        texts = (convert_cell(value) or "" for value in values[0])
        return _read_labels([text.split(separator) for text in texts], columns[0], task, names)
    cells_of_columns = [[convert_cell(value) for value in column] for column in values]
    words = _take_missing_words(cells_of_columns, columns, names)
    if task in ("auto", "regression") and not names:
        cells_of_columns = [read_decimal_commas(cells, has_decimal_commas) for cells in cells_of_columns]
    cells_of_columns = [unify_numbers(cells, names) for cells in cells_of_columns]
    rows = list(zip(*cells_of_columns, strict=True))
    targets = read_targets(rows, columns, task=task, names=names)
    _explain_missing_words(targets, words)
    return targets


def _require_single_values(values: Sequence[Sequence[Any]], columns: Sequence[str]) -> None:
    for name, column in zip(columns, values, strict=True):
        if any(get_items(value) is not None for value in column):
            raise UsageError(
                f"Several target columns: expected one value in each cell. Received: lists in column {name}. "
                "A column of lists is a target by itself."
            )


def _divide_into_columns(
    lists: Sequence[Sequence[Cell] | None], column: str, names: Sequence[str]
) -> tuple[list[list[Cell]], Sequence[str], Sequence[str]]:
    """Return the cells of each column that lists of one length make, their names, and those of classes."""
    width = max(len(cells) for cells in lists if cells is not None)
    if width > 1 and names and len(names) != width:
        raise UsageError(f"Expected {width} names, one for each target. Received: {len(names)}.")
    rows = [cells if cells is not None else [None] * width for cells in lists]
    cells_of_columns = [list(cells) for cells in zip(*rows, strict=True)]
    if width == 1:
        return cells_of_columns, [column], names
    return cells_of_columns, names or [str(number) for number in range(width)], ()


def _are_label_lists(lists: Sequence[Sequence[Cell] | None], task: str, names: Sequence[str]) -> bool:
    """Tell whether lists hold labels; otherwise each place in them is a column of its own."""
    rows = [cells for cells in lists if cells is not None]
    widths = {len(cells) for cells in rows}
    present = [cell for cells in rows for cell in cells if cell is not None]
    if len(widths) != 1:
        return True
    if widths == {1}:
        return False
    if not do_most_fit(present, is_number) and not do_most_fit(present, is_flag):
        return True
    if any(len(set(cells)) < len(cells) for cells in rows):
        return False
    if names:
        classes = {*names, *map(str, range(len(names)))}
        return len(names) not in widths and do_most_fit(present, classes.__contains__)
    return task == "multilabel" and not all(map(is_flag, present))


def _read_labels(lists: Sequence[Sequence[Cell]], column: str, task: str, names: Sequence[str]) -> Targets:
    texts = [[cell for label in labels if (cell := convert_cell(label)) is not None] for labels in lists]
    words = Counter(label for labels in texts for label in labels if is_missing_word(label, names))
    labels_of_rows = [[label for label in labels if label not in words] for labels in texts]
    targets = read_label_lists(labels_of_rows, column, task=task, names=names)
    targets.notes = _note_missing_words(words, column, "label")
    return targets


def _take_missing_words(
    cells_of_columns: Sequence[list[Cell]], columns: Sequence[str], names: Sequence[str]
) -> dict[int, tuple[str, str]]:
    """Replace words for a missing value by None; return the first column and word of each such row."""
    words: dict[int, tuple[str, str]] = {}
    for column, cells in zip(columns, cells_of_columns, strict=True):
        for row, cell in enumerate(cells):
            if cell is not None and is_missing_word(cell, names):
                words.setdefault(row, (column, cell))
                cells[row] = None
    return words


def _explain_missing_words(targets: Targets, words: Mapping[int, tuple[str, str]]) -> None:
    """Say in refusals, and for classes in notes, which words were read as missing values."""
    for row, (column, word) in words.items():
        if targets.refused.get(row, ("",))[0] == "missing_label":
            detail = f"{name_column(column)} holds {word}, which is read as a missing value"
            detail += "" if targets.task == "regression" else "; a class needs another name"
            targets.refused[row] = "missing_label", detail
    if targets.task in ("multiclass", "binary"):
        for column in {column for column, _ in words.values()}:
            counts = Counter(word for name, word in words.values() if name == column)
            targets.notes += _note_missing_words(counts, column, "class")


def _note_missing_words(counts: Mapping[str, int], column: str, kind: str) -> tuple[str, ...]:
    """Return a note for each word that was read as a missing value, with the way to keep it."""
    return tuple(
        f"{name_column(column)} holds {word} {count:,} time{'s' if count > 1 else ''}, which is read as a "
        f"missing value. If it is a {kind}, give it another name, such as no_{kind}."
        for word, count in sorted(counts.items())
    )
