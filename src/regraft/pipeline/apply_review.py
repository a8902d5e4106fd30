"""Apply a review of labels to a data set: write a corrected table, or a corrected folder of links.

A review is a CSV file with the columns image, decision and label; the page of `regraft check` writes one.
Decisions are keep, relabel (to `label`; for multilabel, `label` is added if the image lacks it and taken
away if it has it) and drop, which outweighs others. Images without a row stay as they are. The originals are
never changed: a folder gets a folder of symbolic links, hard links where those are impossible, and copies
last; a table gets a copy.
"""

from __future__ import annotations

import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path, PurePosixPath

from regraft.data.catalog import Catalog
from regraft.data.cells import escape_formula
from regraft.data.table_edits import Change, TargetColumns, copy_table
from regraft.data.table_files import is_table, read_table
from regraft.data.tables import resolve_image_paths
from regraft.errors import DataError, UsageError, suggest_nearest, wrap_os_errors
from regraft.pipeline.outputs import require_inputs_outside
from regraft.recipe import Recipe
from regraft.report.render import make_visible
from regraft.system.console import TERMINAL, Reporter
from regraft.system.files import make_temporary_file, make_temporary_folder

__all__ = ["AppliedReview", "apply_review"]

DECISIONS = ("keep", "relabel", "drop")
COLUMNS = ("image", "decision", "label")
MAX_FAULTS = 5  # named in a message


@dataclass(frozen=True)
class AppliedReview:
    """What a review changed.

    Attributes:
        path: the corrected folder or table, an absolute path.
        kept, relabelled, dropped: how many images the review kept, relabelled and dropped.
        images: how many images the corrected data have: files of a folder, rows of a table.
    """

    path: Path
    kept: int
    relabelled: int
    dropped: int
    images: int


@dataclass(frozen=True)
class _Decision:
    """A row of a review: its number, the image as the data name it, the decision and its label."""

    row: int
    image: str
    action: str
    label: str = ""


def apply_review(
    data: str | PathLike[str],
    review: str | PathLike[str],
    out: str | PathLike[str],
    recipe: Recipe | None = None,
    *,
    reporter: Reporter = TERMINAL,
) -> AppliedReview:
    """Write corrected data, as `regraft check --apply` does.

    Args:
        data: the folder or table that was checked.
        review: a CSV file with the columns image, decision and label.
        out: the folder, or for a table the table, to create.
        recipe: the columns of a table; everything else is ignored.
        reporter: is told what was written.

    Raises:
        UsageError: `out` exists, is an input, or lies within the data; the data are a catalog, or a column is
            missing.
        DataError: rows of the review name unknown images, classes or decisions, or contradict each other.
        EnvironmentFault: something cannot be read or written; `out` is then not there.

    Example:
        >>> import tempfile; from PIL import Image
        >>> root = Path(tempfile.mkdtemp())
        >>> for number, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        ...     (root / "photos" / name).parent.mkdir(exist_ok=True, parents=True)
        ...     Image.new("RGB", (8, 8), (70 * number, 9, 7)).save(root / "photos" / name)
        >>> _ = (root / "review.csv").write_text("image,decision,label\\ncat/2.png,relabel,dog\\n")
        >>> result = apply_review(root / "photos", root / "review.csv", root / "corrected")
        >>> result.relabelled, sorted(path.name for path in (root / "corrected" / "dog").iterdir())
        (1, ['1.png', '2.png'])
    """
    recipe, out = recipe or Recipe(), Path(out)
    _check_output(data, out, recipe)
    is_of_table = is_table(Path(data))
    catalog = Catalog.open(data, recipe if is_of_table else replace(recipe, task="auto"))
    if catalog.task == "regression":
        raise UsageError("Expected data with labels to apply a review to. Received: regression targets.")
    decisions = _read_review(Path(review), catalog)
    write = _write_table if is_of_table else _write_folder
    with wrap_os_errors(f"{out} cannot be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        images = write(catalog, decisions, Path(data), out, recipe)
    counts = Counter(decision.action for decision in decisions)
    result = AppliedReview(out.absolute(), counts["keep"], counts["relabel"], counts["drop"], images)
    reporter.info(
        f"{result.relabelled:,} relabelled, {result.dropped:,} dropped, {result.kept:,} kept: "
        f"{result.images:,} images in {out}."
    )
    return result


def _check_output(data: str | PathLike[str], out: Path, recipe: Recipe) -> None:
    if os.path.lexists(out):
        raise UsageError(f"{out} exists already. Choose another name for the corrected data.")
    require_inputs_outside(out, data, recipe, store=None)
    folder = Path(os.path.realpath(data))
    if folder.is_dir() and Path(os.path.realpath(out)).is_relative_to(folder):
        raise UsageError(
            f"Expected a place outside the data, whose folders are classes. Received: {out}, in {data}."
        )
    if is_table(Path(data)) and out.suffix.lower() != Path(data).suffix.lower():
        raise UsageError(
            f"Expected a table like {data} to write: {out.with_suffix(Path(data).suffix)}. Received: {out}."
        )


# --- the review


def _read_review(path: Path, catalog: Catalog) -> list[_Decision]:
    """Return the decisions of a review, each image or label once.

    Raises:
        DataError: see `apply_review`.
    """
    table = read_table(path, COLUMNS)
    names = _list_names(catalog)
    labels = _make_aliases(catalog.outputs)
    decisions: dict[tuple[str, str], _Decision] = {}
    faults = [f"row {row}: {fault}" for row, fault in table.refused.items()]
    rows = zip(table.numbers, *(table.columns[name] for name in COLUMNS), strict=True)
    for number, *cells in rows:
        image, action, label = (str(cell or "").strip() for cell in cells)
        action = action.lower()
        if image not in names:
            faults.append(f"row {number}: no image {image!r} in the data.{suggest_nearest(image, names)}")
        elif action not in DECISIONS:
            hint = suggest_nearest(action, DECISIONS)
            faults.append(f"row {number}: expected {', '.join(DECISIONS)}. Received: {action!r}.{hint}")
        elif action == "relabel" and label not in labels:
            hint = suggest_nearest(label, labels)
            faults.append(f"row {number}: no class or label {label!r} in the data.{hint}")
        else:
            name = labels[label] if action == "relabel" else ""
            decision = _Decision(number, names[image], action, name)
            key = (decision.image, action + name if catalog.task == "multilabel" else "")
            earlier = decisions.setdefault(key, decision)
            if (earlier.action, earlier.label) != (action, name):
                faults.append(f"row {number}: {image!r} has another decision in row {earlier.row}.")
    if faults:
        others = f"\n    and {len(faults) - MAX_FAULTS:,} more" if len(faults) > MAX_FAULTS else ""
        shown = "".join(f"\n    {fault}" for fault in faults[:MAX_FAULTS])
        raise DataError(f"{path} does not fit the data, so nothing was written:{shown}{others}")
    return list(decisions.values())


def _list_names(catalog: Catalog) -> dict[str, str]:
    """Return the names of images, as reviews may write them, with the names that the data have."""
    refused = [item.image for item in catalog.refused if (catalog.root / item.image).is_file()]
    return _make_aliases([*(sample.path for sample in catalog.samples), *refused])


def _make_aliases(names: Iterable[str]) -> dict[str, str]:
    """Return names by all ways in which a page and a spreadsheet write them; of two alike, the exact one."""
    exact = {name: name for name in names}
    written: dict[str, str] = {}
    for name in exact:
        visible = str(make_visible(name))
        for alias in (name.strip(), visible, visible.strip(), escape_formula(visible)):
            written.setdefault(alias, name)
    return written | exact


# --- a folder of links


def _write_folder(catalog: Catalog, decisions: list[_Decision], data: Path, out: Path, recipe: Recipe) -> int:
    """Fill a folder with links, and return how many."""
    targets = _place_images(catalog, {decision.image: decision for decision in decisions})
    with make_temporary_folder(out.parent, f".{out.name}.writing-") as folder:
        for name, target in targets.items():
            path = folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(catalog.root / name, path)
        folder.rename(out)
    return len(targets)


def _place_images(catalog: Catalog, decisions: Mapping[str, _Decision]) -> dict[str, str]:
    """Return the path of each image in the corrected folder, by its path in the original."""
    parts = {sample.path: bool(sample.part) for sample in catalog.samples}
    has_parts = any(parts.values())
    classes = set(catalog.outputs)
    names = [*parts, *(name for name in _list_names(catalog).values() if name not in parts)]
    targets: dict[str, str] = {}
    relabelled = []
    for name in dict.fromkeys(names):
        decision = decisions.get(name)
        if decision is not None and decision.action == "relabel":
            relabelled.append(decision)
        elif decision is None or decision.action == "keep":
            targets[name] = name
    taken = {target.casefold() for target in targets.values()}  # on systems where case does not count, too
    for decision in relabelled:
        path = PurePosixPath(decision.image)
        start = _find_class_folder(path, classes, has_parts=has_parts)
        moved = PurePosixPath(*path.parts[:start], decision.label, *path.parts[start + 1 :])
        target = _make_unique(moved, path.parts[start], taken)
        taken.add(target.casefold())
        targets[decision.image] = target
    return targets


def _find_class_folder(path: PurePosixPath, classes: set[str], *, has_parts: bool) -> int:
    """Return which component of a path is its class: the first that is one, below the folder of the part."""
    names = [unicodedata.normalize("NFC", name) for name in path.parts[:-1]]
    return next(index for index, name in enumerate(names) if name in classes and index >= has_parts)


def _make_unique(path: PurePosixPath, origin: str, taken: set[str]) -> str:
    """Return the path, or one with the class that the image came from in its name where it is taken."""
    candidate, number = path, 1
    while str(candidate).casefold() in taken:
        suffix = "" if number == 1 else f"-{number}"
        candidate = path.with_name(f"{path.stem}-from-{origin}{suffix}{path.suffix}")
        number += 1
    return str(candidate)


def _link(source: Path, path: Path) -> None:
    """Make a symbolic link, or a hard link, or a copy."""
    for make_link in (os.symlink, os.link):
        with suppress(OSError, NotImplementedError):
            make_link(source, path)
            return
    shutil.copy2(source, path)


# --- a table


def _write_table(catalog: Catalog, decisions: list[_Decision], data: Path, out: Path, recipe: Recipe) -> int:
    """Write a copy of a table with its targets changed, and return how many rows it has."""
    by_image: dict[str, list[_Decision]] = {}
    for decision in decisions:
        by_image.setdefault(decision.image, []).append(decision)
    columns = TargetColumns(tuple(recipe.target), recipe.separator, catalog.task, catalog.outputs)
    paths = resolve_image_paths(data, recipe.image[0], root=catalog.root)
    changes: dict[int, Change | None] = {}
    for row, path in paths.items():
        chosen = by_image.get(path, [])
        if any(decision.action == "drop" for decision in chosen):
            changes[row] = None
        elif labels := [decision.label for decision in chosen if decision.action == "relabel"]:
            changes[row] = columns.make_change(labels)
    with make_temporary_file(out.parent, f".{out.name}.writing-") as file:
        count = copy_table(data, file, recipe.target, changes)
        file.rename(out)
    return count
