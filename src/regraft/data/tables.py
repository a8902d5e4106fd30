"""List the samples of a table: resolve paths, inspect files, refuse bad rows.

The details of a refused row begin with the number of the row.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from regraft.data.images.rejections import CONFLICTING_COPIES, Rejection
from regraft.data.parts import read_parts
from regraft.data.path_hints import describe_where_files_lie
from regraft.data.samples import (
    ImageFile,
    Listing,
    RejectedFile,
    Sample,
    Target,
    find_contradictions,
    find_same_files,
    inspect_files,
    require_majority_usable,
)
from regraft.data.table_files import Table, normalise_cell, read_table
from regraft.data.targets import Targets, read_targets
from regraft.errors import DataError, UsageError
from regraft.system.console import Reporter, format_names

__all__ = ["Columns", "list_rows"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_DECIMAL_COMMA = re.compile(r"\s*([+-]?\d+),(\d+)\s*")


@dataclass(frozen=True)
class Columns:
    """The roles of a table's columns; see `Catalog.from_table`."""

    image: tuple[str, ...]
    target: tuple[str, ...]
    group: str = ""
    split: str = ""
    separator: str = ""

    def __post_init__(self) -> None:
        if not all(self.image) or not all(self.target) or not self.image or not self.target:
            raise UsageError("Expected an image column and a target column. Received none.")
        if self.separator and len(self.target) > 1:
            raise UsageError(
                f"Expected one target column where a separator ({self.separator!r}) stands between labels. "
                f"Received: {', '.join(self.target)}."
            )

    @property
    def all_names(self) -> list[str]:
        """Return the name of every column, once."""
        names = (*self.image, *self.target, self.group, self.split)
        return list(dict.fromkeys(filter(None, names)))


class _Row(NamedTuple):
    number: int
    paths: tuple[str, ...]
    target: Target
    part: str
    group: str


def list_rows(
    source: Any, columns: Columns, *, root: str | os.PathLike[str] | None, task: str, reporter: Reporter
) -> Listing:
    """List the samples of a table. Arguments and errors are those of `Catalog.from_table`."""
    table = read_table(source, columns.all_names)
    root = table.folder if root is None else Path(root)
    if not root.is_dir():
        raise UsageError(f"Expected the folder that paths are relative to. Received: {root}.")
    targets = _read_targets(table, columns, task)
    refused = {n: _reject_row(n, "", Rejection("malformed_row", text)) for n, text in table.refused.items()}
    rows = _find_usable_rows(table, columns, targets, root, refused)
    notes: list[str] = []
    rows = _drop_repeated_rows(rows, notes, refused)
    samples = _make_samples(rows, root, refused, reporter)
    numbers = list(samples)
    repeated, contradictory = find_same_files(root, list(samples.values())), dict[int, str]()
    if n := len(repeated):
        links = "rows name links to files that" if n > 1 else "row names a link to a file that"
        notes.append(f"{n:,} {links} an earlier row names; each image counts once.")
    if targets.task in ("multiclass", "binary"):
        contradictory = find_contradictions(list(samples.values()), targets.outputs)
    for index, detail in contradictory.items():
        number = numbers[index]
        refused[number] = _reject_row(number, samples[number].path, Rejection(CONFLICTING_COPIES, detail))
    for index in repeated | contradictory.keys():
        del samples[numbers[index]]
    used = tuple(samples.values())
    all_refused = tuple(refused[number] for number in sorted(refused))
    total = len(table.numbers) + len(table.refused)
    missing = [item.image for item in all_refused if item.code == "missing_file"]
    hint = describe_where_files_lie(root, missing)
    where = f"rows of {table.name} (paths are taken from {root})"
    require_majority_usable(all_refused, total, where, hint)
    notes += [hint] if hint else []
    _check_parts_and_groups(used, columns, notes)
    return Listing(root, targets.outputs, used, all_refused, tuple(notes), targets.task, targets.why)


def _reject_row(number: int, image: str, rejection: Rejection) -> RejectedFile:
    return RejectedFile(image or f"row {number}", rejection.code, f"row {number}: {rejection.detail}")


def _read_targets(table: Table, columns: Columns, task: str) -> Targets:
    cells = [[normalise_cell(value) for value in table.columns[name]] for name in columns.target]
    if table.decimal_comma and columns.separator != ",":
        cells = [[cell and _DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in column] for column in cells]
    rows = list(zip(*cells, strict=True))
    return read_targets(rows, columns.target, task=task, separator=columns.separator)


def _find_usable_rows(
    table: Table, columns: Columns, targets: Targets, root: Path, refused: dict[int, RejectedFile]
) -> list[_Row]:
    """Return the rows whose cells can all be used; the others join `refused`."""
    resolve = _make_resolver(os.path.realpath(root))
    paths = list(zip(*(table.columns[name] for name in columns.image), strict=True))
    parts = _read_parts(table, columns.split) if columns.split else [""] * len(paths)
    groups = table.columns[columns.group] if columns.group else [""] * len(paths)
    rows = []
    for index, number in enumerate(table.numbers):
        texts = [_to_text(value) for value in paths[index]]
        try:
            images = tuple(resolve(text) for text in texts)
            if index in targets.refused:
                raise Rejection(*targets.refused[index])
            if columns.split and not parts[index]:
                raise Rejection("unknown_part", f"the cell of column {columns.split} is empty")
        except Rejection as rejection:
            refused[number] = _reject_row(number, texts[0], rejection)
        else:
            target = targets.values[index]
            if target is not None:
                rows.append(_Row(number, images, target, parts[index], normalise_cell(groups[index]) or ""))
    return rows


def _to_text(value: Any) -> str:
    return "" if normalise_cell(value) is None else str(value).strip()


def _make_resolver(base: str) -> Callable[[str], str]:
    """Return a function that makes paths relative to `base`, in one spelling, and rejects bad ones."""
    resolve_folder: Callable[[str], str] = cache(os.path.realpath)  # many files share a folder
    prefix = base.rstrip(os.sep) + os.sep

    def resolve(text: str) -> str:
        if not text:
            raise Rejection("missing_path", "the cell of the image is empty")
        if _URL.match(text):
            raise Rejection("url_refused", f"nothing is fetched: download {text[:80]} and name the file")
        if "\0" in text:
            raise Rejection("missing_file", "no file has such a name")
        if "\\" in text and not os.path.lexists(prefix + text):  # written on Windows
            text = text.replace("\\", "/")
        if not text.isascii() and not os.path.lexists(prefix + text):  # written on a Mac, or for one
            forms = (unicodedata.normalize(form, text) for form in ("NFC", "NFD"))
            text = next((form for form in forms if os.path.lexists(prefix + form)), text)
        folder, name = os.path.split(text if text.startswith(os.sep) else prefix + text)
        path = resolve_folder(folder).rstrip(os.sep) + os.sep + name
        may_lead_elsewhere = name in ("", ".", "..") or os.path.islink(path)  # noqa: PTH114 - any name will do
        real_path = resolve_folder(path) if may_lead_elsewhere else path
        if not path.startswith(prefix) or not real_path.startswith(prefix):
            raise Rejection("outside_folder", f"{text} leads out of the folder {base}")
        return path[len(prefix) :]

    return resolve


def _read_parts(table: Table, column: str) -> list[str]:
    """Return the part of each row, "" where the cell is empty.

    Raises:
        DataError: a cell names no part.
    """
    cells = [normalise_cell(value) or "" for value in table.columns[column]]
    parts = read_parts(filter(None, cells))
    first_rows: dict[str, int] = {}
    for cell, number in zip(cells, table.numbers, strict=True):
        if cell and cell not in parts:
            first_rows.setdefault(cell, number)
    if first_rows:
        words = format_names(f"{word!r} (row {number})" for word, number in first_rows.items())
        raise DataError(
            f"Column {column}: expected train, validation or test in each row. Received also {words}. "
            "Replace these words, empty the cells to leave their rows out, or name another split column."
        )
    return [parts.get(cell, "") for cell in cells]


def _drop_repeated_rows(rows: list[_Row], notes: list[str], refused: dict[int, RejectedFile]) -> list[_Row]:
    """Return one row for each image: drop repetitions and refuse contradictions."""
    rows_by_image: dict[tuple[str, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        rows_by_image[row.paths].append(row)
    unique, repeated = [], 0
    for paths, same in rows_by_image.items():
        columns = ("target", "part", "group")
        different = next((name for name in columns if len({getattr(row, name) for row in same}) > 1), None)
        if different is None:
            unique.append(same[0])
            repeated += len(same) - 1
            continue
        numbers = ", ".join(str(row.number) for row in same)
        detail = f"rows {numbers} name this image with different {different}s"
        rejection = Rejection("conflicting_rows", detail)
        refused |= {row.number: _reject_row(row.number, paths[0], rejection) for row in same}
    if repeated:
        repeat = "s repeat" if repeated > 1 else " repeats"
        notes.append(f"{repeated:,} row{repeat} an earlier one; left out.")
    return unique


def _make_samples(
    rows: list[_Row], root: Path, refused: dict[int, RejectedFile], reporter: Reporter
) -> dict[int, Sample]:
    """Return the samples by the numbers of their rows."""
    paths = list(dict.fromkeys(path for row in rows for path in row.paths))
    results = inspect_files([root / path for path in paths], reporter=reporter)
    results_by_path = dict(zip(paths, results, strict=True))
    samples = {}
    for row in rows:
        images = []
        for path in row.paths:
            result = results_by_path[path]
            if isinstance(result, Rejection):
                if not os.path.exists(root / path):  # noqa: PTH110 - any name will do
                    result = Rejection("missing_file", "there is no such file")
                refused[row.number] = _reject_row(row.number, path, result)
                break
            images.append(ImageFile(path, result))
        else:
            first, *others = images
            source = first.path, row.target, first.digest, row.part, row.group
            samples[row.number] = Sample(*source, tuple(others))
    return samples


def _check_parts_and_groups(samples: Sequence[Sample], columns: Columns, notes: list[str]) -> None:
    """Check that there is something to train on, and several groups, each of them in one part."""
    if columns.split and not any(sample.part == "train" for sample in samples):
        raise DataError(f"Column {columns.split} leaves no row to train on.")
    if not columns.group:
        return
    parts: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        parts[sample.group].add(sample.part)
    without = sum(not sample.group for sample in samples)
    if without:
        have = "s have" if without > 1 else " has"
        notes.append(f"{without:,} row{have} no {columns.group}; each is a group by itself.")
        del parts[""]
    if len(parts) < 2:
        raise DataError(
            f"Column {columns.group} holds one group ({next(iter(parts), 'none')}): a group stays in one "
            "part, so at least two are needed. Name another column, or leave the group column out."
        )
    divided = sorted(group for group, group_parts in parts.items() if len(group_parts) > 1)
    if divided:
        others = f" and {len(divided) - 5} more" if len(divided) > 5 else ""
        raise DataError(
            f"Groups {', '.join(divided[:5])}{others} of column {columns.group} lie in more than one part of "
            f"column {columns.split}: the model would be tested on what it was trained on. "
            "Give each group one part."
        )
