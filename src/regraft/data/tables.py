"""The rows of a table -> samples: paths kept inside the folder, files looked at, bad rows refused.

The details of refused rows begin with the number of the row.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from regraft.data.folders import PART_NAMES
from regraft.data.images.rejections import CONTRADICTED, Refusal
from regraft.data.samples import (
    Listing,
    Photo,
    Refused,
    Sample,
    Target,
    contradictions,
    expect_most,
    look_at_all,
    same_files,
)
from regraft.data.table_files import Table, as_cell, read_table
from regraft.data.targets import Targets, read_targets
from regraft.errors import DataError, UsageError
from regraft.system.console import Reporter

__all__ = ["Columns", "list_rows"]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://|data:")
_DECIMAL_COMMA = re.compile(r"\s*([+-]?\d+),(\d+)\s*")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table mean what; see `Catalog.from_table`."""

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
    def all(self) -> list[str]:
        """Every column, each once."""
        named = (*self.image, *self.target, self.group, self.split)
        return list(dict.fromkeys(filter(None, named)))


class _Row(NamedTuple):
    number: int
    paths: tuple[str, ...]
    target: Target
    part: str
    group: str


def list_rows(
    source: Any, columns: Columns, *, root: str | os.PathLike[str] | None, task: str, reporter: Reporter
) -> Listing:
    """The samples of a table. Arguments and errors are those of `Catalog.from_table`."""
    table = read_table(source, columns.all)
    root = table.folder if root is None else Path(root)
    if not root.is_dir():
        raise UsageError(f"Expected the folder that paths are relative to. Received: {root}.")
    targets = _targets(table, columns, task)
    refused = {n: _refused(n, "", Refusal("malformed_row", why)) for n, why in table.refused.items()}
    rows = _usable(table, columns, targets, root, refused)
    notes: list[str] = []
    rows = _without_conflicts(rows, notes, refused)
    numbered = _samples(rows, root, refused, reporter)
    linked = same_files(root, list(numbered.values()))
    if linked:
        what = "rows name links to files that" if len(linked) > 1 else "row names a link to a file that"
        notes.append(f"{len(linked):,} {what} an earlier row names; each image counts once.")
    numbers = list(numbered)
    if targets.task in ("multiclass", "binary"):
        against = contradictions(list(numbered.values()), targets.outputs)
        for at, why in against.items():
            image = numbered.pop(numbers[at]).path
            refused[numbers[at]] = _refused(numbers[at], image, Refusal(CONTRADICTED, why))
    for at in linked:
        numbered.pop(numbers[at], None)
    samples = list(numbered.values())
    in_order = tuple(refused[number] for number in sorted(refused))
    total = len(table.numbers) + len(table.refused)
    expect_most(in_order, total, f"rows of {table.name} (paths are taken from {root})")
    _check_groups(samples, columns, notes)
    return Listing(root, targets.outputs, tuple(samples), in_order, tuple(notes), targets.task, targets.why)


def _refused(number: int, image: str, verdict: Refusal) -> Refused:
    return Refused(image or f"row {number}", verdict.code, f"row {number}: {verdict.detail}")


def _targets(table: Table, columns: Columns, task: str) -> Targets:
    cells = [[as_cell(value) for value in table.columns[name]] for name in columns.target]
    if table.decimal_comma and columns.separator != ",":
        cells = [[cell and _DECIMAL_COMMA.sub(r"\1.\2", cell) for cell in column] for column in cells]
    rows = list(zip(*cells, strict=True))
    return read_targets(rows, columns.target, task=task, separator=columns.separator)


def _usable(
    table: Table, columns: Columns, targets: Targets, root: Path, refused: dict[int, Refused]
) -> list[_Row]:
    """The rows whose cells can all be used; the others join `refused`."""
    resolve = _resolver(os.path.realpath(root))
    paths = list(zip(*(table.columns[name] for name in columns.image), strict=True))
    parts = table.columns[columns.split] if columns.split else [""] * len(paths)
    groups = table.columns[columns.group] if columns.group else [""] * len(paths)
    rows = []
    for place, number in enumerate(table.numbers):
        named = [_text(value) for value in paths[place]]
        try:
            images = tuple(resolve(text) for text in named)
            if place in targets.refused:
                raise Refusal(*targets.refused[place])
            part = _part(parts[place]) if columns.split else ""
        except Refusal as verdict:
            refused[number] = _refused(number, named[0], verdict)
        else:
            target = targets.values[place]
            if target is not None:
                rows.append(_Row(number, images, target, part, as_cell(groups[place]) or ""))
    return rows


def _text(value: Any) -> str:
    return "" if as_cell(value) is None else str(value).strip()


def _resolver(base: str) -> Callable[[str], str]:
    """Paths as a table writes them -> relative to `base`, one spelling a file, none that leads out of it."""
    real: Callable[[str], str] = cache(os.path.realpath)  # of folders, of which many files share one
    inside = base.rstrip(os.sep) + os.sep

    def resolve(text: str) -> str:
        if not text:
            raise Refusal("missing_path", "the cell of the image is empty")
        if _URL.match(text):
            raise Refusal("url_refused", f"nothing is fetched: download {text[:80]} and name the file")
        if "\0" in text:
            raise Refusal("missing_file", "no file has such a name")
        if "\\" in text and not os.path.lexists(inside + text):  # written on Windows
            text = text.replace("\\", "/")
        folder, name = os.path.split(text if text.startswith(os.sep) else inside + text)
        path = real(folder).rstrip(os.sep) + os.sep + name
        may_lead_elsewhere = name in ("", ".", "..") or os.path.islink(path)  # noqa: PTH114 - any name will do
        leads_to = real(path) if may_lead_elsewhere else path
        if not path.startswith(inside) or not leads_to.startswith(inside):
            raise Refusal("outside_folder", f"{text} leads out of the folder {base}")
        return path[len(inside) :]

    return resolve


def _part(value: Any) -> str:
    part = PART_NAMES.get((as_cell(value) or "").lower())
    if part is None:
        raise Refusal(
            "unknown_part", f"expected train, validation or test, received {as_cell(value) or 'nothing'}"
        )
    return part


def _without_conflicts(rows: list[_Row], notes: list[str], refused: dict[int, Refused]) -> list[_Row]:
    """One row an image: repetitions are left out and counted, contradictions are refused, all of them."""
    same: dict[tuple[str, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        same[row.paths].append(row)
    kept, repeated = [], 0
    for paths, found in same.items():
        differ = (
            what for what in ("target", "part", "group") if len({getattr(row, what) for row in found}) > 1
        )
        if (fault := next(differ, None)) is None:
            kept.append(found[0])
            repeated += len(found) - 1
            continue
        numbers = ", ".join(str(row.number) for row in found)
        verdict = Refusal("conflicting_rows", f"rows {numbers} name this image with different {fault}s")
        refused |= {row.number: _refused(row.number, paths[0], verdict) for row in found}
    if repeated:
        notes.append(
            f"{repeated:,} row{'s repeat' if repeated > 1 else ' repeats'} an earlier one; left out."
        )
    return kept


def _samples(
    rows: list[_Row], root: Path, refused: dict[int, Refused], reporter: Reporter
) -> dict[int, Sample]:
    """The samples by the numbers of their rows."""
    paths = list(dict.fromkeys(path for row in rows for path in row.paths))
    files = [root / path for path in paths]
    verdicts = dict(zip(paths, look_at_all(files, reporter=reporter), strict=True))
    samples = {}
    for row in rows:
        photos = []
        for path in row.paths:
            verdict = verdicts[path]
            if isinstance(verdict, Refusal):
                refused[row.number] = _refused(row.number, path, _missing(root / path) or verdict)
                break
            photos.append(Photo(path, verdict))
        else:
            first, *more = photos
            samples[row.number] = Sample(
                first.path, row.target, first.digest, row.part, row.group, tuple(more)
            )
    return samples


def _missing(path: Path) -> Refusal | None:
    """The verdict on a file that is not there: `look` only tells that it cannot be read."""
    there = os.path.exists(path)  # noqa: PTH110 - any name will do
    return None if there else Refusal("missing_file", "there is no such file")


def _check_groups(samples: Sequence[Sample], columns: Columns, notes: list[str]) -> None:
    """A split the user made has something to train on and tears no group apart; there are groups."""
    if columns.split and not any(sample.part == "train" for sample in samples):
        raise DataError(f"Column {columns.split} leaves no row to train on.")
    if not columns.group:
        return
    parts: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        parts[sample.group].add(sample.part)
    without = sum(not sample.group for sample in samples)
    if without:
        notes.append(
            f"{without:,} row{'s have' if without > 1 else ' has'} no {columns.group}; each stands alone."
        )
        del parts[""]
    if len(parts) < 2:
        raise DataError(
            f"Column {columns.group} holds one group ({next(iter(parts), 'none')}): groups are kept whole, "
            "so at least two are needed. Name another column, or leave the group column out."
        )
    torn = sorted(group for group, found in parts.items() if len(found) > 1)
    if torn:
        more = f" and {len(torn) - 5} more" if len(torn) > 5 else ""
        raise DataError(
            f"Groups {', '.join(torn[:5])}{more} of column {columns.group} lie in more than one part of "
            f"column {columns.split}: what is tested would have been trained on. Give each group one part."
        )
