"""List the samples of a table: resolve paths, inspect files, refuse bad rows.

The details of a refused row begin with the number of the row.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from regraft.data.cells import normalise_cell, read_decimal_commas, read_weight, write_number
from regraft.data.images.rejections import CONFLICTING_COPIES, Rejection
from regraft.data.parts import read_parts
from regraft.data.path_hints import describe_where_files_lie
from regraft.data.raw_targets import read_raw_targets
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
from regraft.data.table_files import Table, read_table
from regraft.data.targets import Targets, name_column
from regraft.errors import DataError, UsageError
from regraft.system.console import Reporter, format_names

__all__ = ["Columns", "list_rows", "resolve_image_paths", "to_names"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")


@dataclass(frozen=True)
class Columns:
    """The roles of a table's columns; see `Catalog.from_table`."""

    image: tuple[str, ...]
    target: tuple[str, ...]
    group: str = ""
    split: str = ""
    separator: str = ""
    slice: tuple[str, ...] = ()
    weight: str = ""

    def __post_init__(self) -> None:
        if not all(self.image) or not all(self.target) or not self.image or not self.target:
            raise UsageError("Expected an image column and a target column. Received none.")
        if self.separator and len(self.target) > 1:
            raise UsageError(
                f"Expected one target column where a separator ({self.separator!r}) stands between labels. "
                f"Received: {', '.join(self.target)}."
            )
        for name in self.slice:
            if name in (*self.image, *self.target):
                role = "target" if name in self.target else "image column"
                raise UsageError(
                    "slice: expected columns that divide the images, such as their origin. "
                    f"Received: {name}, the {role}."
                )

    @property
    def all_names(self) -> list[str]:
        """Return the name of every column, once."""
        names = (*self.image, *self.target, self.group, self.split, *self.slice, self.weight)
        return list(dict.fromkeys(filter(None, names)))


def to_names(columns: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of one column or several."""
    return (columns,) if isinstance(columns, str) else tuple(columns)


class _Row(NamedTuple):
    """A row with usable paths: `position` is its place in the columns, `number` that in the file.

    `cells` are those of the columns that divide the images.
    """

    position: int
    number: int
    paths: tuple[str, ...]
    part: str
    group: str
    cells: tuple[str, ...]
    weight: float = 1.0
    target: Target | None = None


def list_rows(
    source: Any, columns: Columns, *, root: str | os.PathLike[str] | None, task: str, reporter: Reporter
) -> Listing:
    """List the samples of a table. Arguments and errors are those of `Catalog.from_table`."""
    table = read_table(source, columns.all_names)
    root = table.folder if root is None else Path(root)
    if not root.is_dir():
        raise UsageError(f"Expected the folder that paths are relative to. Received: {root}.")
    refused = {n: _reject_row(n, "", Rejection("malformed_row", text)) for n, text in table.refused.items()}
    total = len(table.numbers) + len(table.refused)

    def require_majority(hint: str = "") -> tuple[RejectedFile, ...]:
        all_refused = tuple(refused[number] for number in sorted(refused))
        where = f"rows of {table.name} (paths are taken from {root})"
        require_majority_usable(all_refused, total, where, hint)
        return all_refused

    rows = _find_usable_rows(table, columns, root, refused)
    rows, digests = _inspect_images(rows, root, refused, reporter)
    missing = [item.image for item in refused.values() if item.code == "missing_file"]
    hint = describe_where_files_lie(root, missing)
    require_majority(hint)
    # A row that is refused has no say in what the task is.
    targets = _read_targets(table, columns, [row.position for row in rows], task)
    notes = [*targets.notes, *filter(None, [hint])]
    rows = _drop_repeated_rows(_add_targets(rows, targets, refused), notes, refused)
    classes = targets.outputs if targets.task in ("multiclass", "binary") else ()
    samples = tuple(_make_sample(row, digests) for row in rows)
    samples = _drop_repeated_images(rows, samples, root=root, classes=classes, notes=notes, refused=refused)
    all_refused = require_majority()
    _check_parts_and_groups(samples, columns, notes)
    if columns.weight and samples:
        notes.append(_describe_weights(samples, columns.weight))
    return Listing(root, targets.outputs, samples, all_refused, tuple(notes), targets.task, targets.why)


def resolve_image_paths(source: str | Path, column: str, *, root: str | os.PathLike[str]) -> dict[int, str]:
    """Return the path of the image that each row of a table names, relative to `root`, by the row's number.

    Rows with a path that cannot be used are left out. Errors are those of `read_table`.
    """
    table, resolve = read_table(source, [column]), _make_resolver(os.path.realpath(root))
    paths = {}
    for number, value in zip(table.numbers, table.columns[column], strict=True):
        with suppress(Rejection):
            paths[number] = resolve(_to_text(value))
    return paths


def _reject_row(number: int, image: str, rejection: Rejection) -> RejectedFile:
    return RejectedFile(image or f"row {number}", rejection.code, f"row {number}: {rejection.detail}")


def _find_usable_rows(
    table: Table, columns: Columns, root: Path, refused: dict[int, RejectedFile]
) -> list[_Row]:
    """Return the rows with usable paths and parts; the others join `refused`."""
    resolve = _make_resolver(os.path.realpath(root))
    paths = list(zip(*(table.columns[name] for name in columns.image), strict=True))
    parts = _read_parts(table, columns.split) if columns.split else [""] * len(paths)
    groups = table.columns[columns.group] if columns.group else [""] * len(paths)
    weights = _read_weights(table, columns.weight)
    rows = []
    for position, number in enumerate(table.numbers):
        texts = [_to_text(value) for value in paths[position]]
        try:
            images = tuple(resolve(text) for text in texts)
            if columns.split and not parts[position]:
                raise Rejection("unknown_part", f"the cell of column {columns.split} is empty")
            weight = weights[position]
            if isinstance(weight, Rejection):
                raise weight
        except Rejection as rejection:
            refused[number] = _reject_row(number, texts[0], rejection)
        else:
            group = normalise_cell(groups[position]) or ""
            cells = tuple(normalise_cell(table.columns[name][position]) or "" for name in columns.slice)
            rows.append(_Row(position, number, images, parts[position], group, cells, weight))
    return rows


def _inspect_images(
    rows: list[_Row], root: Path, refused: dict[int, RejectedFile], reporter: Reporter
) -> tuple[list[_Row], dict[str, str]]:
    """Return the rows whose files may all be images, and the digests of files by path."""
    paths = list(dict.fromkeys(path for row in rows for path in row.paths))
    results = dict(zip(paths, inspect_files([root / path for path in paths], reporter=reporter), strict=True))
    usable = []
    for row in rows:
        for path in row.paths:
            result = results[path]
            if isinstance(result, Rejection):
                if not os.path.exists(root / path):  # noqa: PTH110 - any name will do
                    result = Rejection("missing_file", "there is no such file")
                refused[row.number] = _reject_row(row.number, path, result)
                break
        else:
            usable.append(row)
    return usable, {path: result for path, result in results.items() if isinstance(result, str)}


def _read_targets(table: Table, columns: Columns, positions: Sequence[int], task: str) -> Targets:
    return read_raw_targets(
        [[table.columns[name][position] for position in positions] for name in columns.target],
        columns.target,
        task=task,
        separator=columns.separator,
        has_decimal_commas=table.decimal_comma,
    )


def _add_targets(rows: list[_Row], targets: Targets, refused: dict[int, RejectedFile]) -> list[_Row]:
    """Return the rows with their targets; those without one join `refused`."""
    for index, fault in targets.refused.items():
        row = rows[index]
        refused[row.number] = _reject_row(row.number, row.paths[0], Rejection(*fault))
    pairs = zip(rows, targets.values, strict=True)
    return [row._replace(target=target) for row, target in pairs if target is not None]


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


def _read_weights(table: Table, column: str) -> list[float | Rejection]:
    """Return the weight of each row, or why it has none; 1 for all where no column is named."""
    if not column:
        return [1.0] * len(table.numbers)
    cells = [normalise_cell(value) for value in table.columns[column]]
    weights = map(read_weight, read_decimal_commas(cells, table.decimal_comma))
    return [
        Rejection("bad_weight", f"{name_column(column)} {weight}") if isinstance(weight, str) else weight
        for weight in weights
    ]


def _drop_repeated_rows(rows: list[_Row], notes: list[str], refused: dict[int, RejectedFile]) -> list[_Row]:
    """Return one row for each image: drop repetitions and refuse contradictions."""
    rows_by_image: dict[tuple[str, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        rows_by_image[row.paths].append(row)
    unique, repeated = [], 0
    for paths, same in rows_by_image.items():
        columns = ("target", "part", "group", "weight")
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


def _make_sample(row: _Row, digests: dict[str, str]) -> Sample:
    first, *others = (ImageFile(path, digests[path]) for path in row.paths)
    target = cast("Target", row.target)
    return Sample(first.path, target, first.digest, row.part, row.group, tuple(others), row.cells, row.weight)


def _drop_repeated_images(
    rows: list[_Row],
    samples: tuple[Sample, ...],
    *,
    root: Path,
    classes: Sequence[str],
    notes: list[str],
    refused: dict[int, RejectedFile],
) -> tuple[Sample, ...]:
    """Return one sample for each image: drop links to the same file and refuse contradictory copies."""
    repeated, contradictory = find_same_files(root, samples), dict[int, str]()
    if n := len(repeated):
        links = "rows name links to files that" if n > 1 else "row names a link to a file that"
        notes.append(f"{n:,} {links} an earlier row names; each image counts once.")
    if classes:
        contradictory = find_contradictions(samples, classes)
    for index, detail in contradictory.items():
        number = rows[index].number
        refused[number] = _reject_row(number, samples[index].path, Rejection(CONFLICTING_COPIES, detail))
    left_out = repeated | contradictory.keys()
    return tuple(sample for index, sample in enumerate(samples) if index not in left_out)


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
        raise DataError(
            f"Groups {format_names(divided, most=5)} of column {columns.group} lie in more than one part of "
            f"column {columns.split}: the model would be tested on what it was trained on. "
            "Give each group one part."
        )


def _describe_weights(samples: Sequence[Sample], column: str) -> str:
    weights = [sample.weight for sample in samples]
    least, most = write_number(min(weights)), write_number(max(weights))
    return f"Weights of images in training: {column}, {least} to {most}. In scores all images count alike."
