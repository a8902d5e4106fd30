"""List the class folders of a folder on disk and their images.

Notes tell what was left out: hidden and system files, links to folders, empty folders and stray images.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from regraft.data.images.decode import EXTENSIONS
from regraft.data.images.rejections import CONFLICTING_COPIES, Rejection
from regraft.data.samples import (
    Listing,
    RejectedFile,
    Sample,
    find_contradictions,
    find_same_files,
    inspect_files,
)
from regraft.errors import DataError, UsageError, describe_os_error, wrap_os_errors
from regraft.system.console import Reporter

__all__ = ["LAYOUT", "PART_NAMES", "list_folder", "list_images"]

LAYOUT = """Expected one folder a class, the images inside:
    photos/cat/1.jpg  photos/cat/2.jpg  photos/dog/1.jpg
or the same inside train/, validation/ and test/."""

PART_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "val": "validation", "valid": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
LINK_NOTE = "The folder {} is a symbolic link and was not followed."
MAX_SHOWN = 300  # characters of a path in a note
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}


class _ClassFolder(NamedTuple):
    """A class in a part ("" where the data are not split): its name and the files below its folder."""

    part: str
    name: str
    files: tuple[Path, ...]


@dataclass
class _FolderScan:
    """The record of a scan: `notes`, sentences about what was left out, and the number of `junk` files."""

    notes: list[str] = field(default_factory=list)
    junk: int = 0

    def skip_junk(self, name: str) -> bool:
        """Tell whether a name is junk, and count it if so."""
        self.junk += (is_junk := _is_junk(name))
        return is_junk

    def describe(self) -> list[str]:
        """Return the notes, with one about the junk."""
        s = "s" * (self.junk != 1)
        were = "were" if s else "was"
        sentence = f"{self.junk:,} hidden or system file{s} or folder{s}, such as .DS_Store, {were} left out."
        return [*self.notes, *([sentence] if self.junk else [])]


def _find_class_folders(root: Path, scan: _FolderScan) -> list[_ClassFolder]:
    """Return the class folders of `root`, or of its train, validation (val, valid) and test folders.

    Raises:
        UsageError: `root` is not a folder.
        DataError: it has no class folders, or it is unclear which folders are classes.
        EnvironmentFault: it cannot be read.
    """
    with wrap_os_errors(f"The folder {root} cannot be read"):
        if not root.is_dir():
            description = "a file" if root.is_file() else "there is nothing by that name"
            raise UsageError(f"Expected a folder of images. Received: {root} ({description}).")
        parts = _find_parts(root)
        class_folders = [
            _ClassFolder(part, folder.name, tuple(_iter_files(folder, scan)))
            for part, part_folder in parts
            for folder in _find_subfolders(part_folder, scan)
        ]
        stray = sum(_count_images(folder) for folder in {root, *(folder for _, folder in parts)})
    outside = f"{stray} image{'s lie' if stray != 1 else ' lies'} outside any class folder"
    if not class_folders:
        raise DataError(f"No class folders in {root}{f': {outside}' if stray else ''}. {LAYOUT}")
    if stray:
        scan.notes.append(f"{outside}, and {'was' if stray == 1 else 'were'} left out.")
    return class_folders


def list_images(path: Path) -> Iterator[Path]:
    """Yield every file below a folder that may be an image, sorted and without junk; yield a file itself."""
    if path.is_dir():
        yield from (file for file in _iter_files(path, _FolderScan()) if file.suffix.lower() in EXTENSIONS)
    else:
        yield path


def list_folder(root: Path, *, reporter: Reporter) -> Listing:
    """List the images of class folders, each with its class. Errors are those of `Catalog.from_folder`."""
    scan = _FolderScan()
    class_folders = _find_class_folders(root, scan)
    notes = scan.describe()
    classes = tuple(sorted({folder.name for folder in class_folders if folder.files}))
    empty = sorted({folder.name for folder in class_folders} - set(classes))
    notes += [f"The class folder {name} is empty and was left out." for name in empty]
    notes += _describe_confusable_names(classes)
    numbers = {name: number for number, name in enumerate(classes)}
    jobs = [(folder, file) for folder in class_folders for file in folder.files]
    results = inspect_files([file for _, file in jobs], reporter=reporter)
    samples, refused, ignored = [], [], Counter[str]()
    for (folder, file), result in zip(jobs, results, strict=True):
        name = "/".join(file.parts[len(root.parts) :])  # `relative_to` takes ten times as long
        if isinstance(result, str):
            samples.append(Sample(name, numbers[folder.name], result, folder.part))
        elif _is_unrelated_file(file, result):
            ignored[file.suffix.lower()] += 1
        else:
            refused.append(RejectedFile(name, result.code, result.detail))
    notes += [f"{n} {kind} file{'s' * (n > 1)} ignored: not images." for kind, n in sorted(ignored.items())]
    samples.sort(key=lambda sample: sample.path)
    repeated, contradictory = find_same_files(root, samples), find_contradictions(samples, classes)
    if n := len(repeated):
        links = "files are links to images that are" if n > 1 else "file is a link to an image that is"
        notes.append(f"{n:,} {links} listed already; each image counts once.")
    refused += [
        RejectedFile(samples[n].path, CONFLICTING_COPIES, detail) for n, detail in contradictory.items()
    ]
    refused.sort(key=lambda item: item.image)
    unused = repeated | contradictory.keys()
    used = tuple(sample for number, sample in enumerate(samples) if number not in unused)
    return Listing(root, classes, used, tuple(refused), tuple(notes), "multiclass", "")


def _describe_confusable_names(classes: tuple[str, ...]) -> list[str]:
    """Return notes on class names that look alike: they differ in code points or capitals only."""
    alike: dict[str, list[str]] = defaultdict(list)
    for name in classes:
        alike[unicodedata.normalize("NFC", name).casefold()].append(name)
    return [
        f"The class folders {' and '.join(ascii(name) for name in names)} have names that look alike, and "
        "count as different classes."
        for names in alike.values()
        if len(names) > 1
    ]


def _is_unrelated_file(file: Path, rejection: Rejection) -> bool:
    """Tell whether a file was never meant as an image: notes.txt, but not a text called photo.jpg."""
    has_other_extension = bool(file.suffix) and file.suffix.lower() not in EXTENSIONS
    return has_other_extension and rejection.code in ("not_an_image", "empty")


def _iter_files(folder: Path, scan: _FolderScan) -> Iterator[Path]:
    """Yield every file below a folder except junk, sorted. Links to folders are noted and not followed."""

    def note_unreadable(error: OSError) -> None:
        path = os.fspath(error.filename)
        shown = path if len(path) < MAX_SHOWN else f"{path[: MAX_SHOWN // 2]} ... {path[-MAX_SHOWN // 2 :]}"
        scan.notes.append(f"The folder {shown} cannot be read: {describe_os_error(error)}.")

    for parent, folders, files in os.walk(folder, onerror=note_unreadable):
        folders[:] = sorted(name for name in folders if not scan.skip_junk(name))
        scan.notes += [LINK_NOTE.format(name) for name in folders if _is_true(Path(parent, name).is_symlink)]
        yield from (Path(parent, name) for name in sorted(files) if not scan.skip_junk(name))


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _find_parts(root: Path) -> list[tuple[str, Path]]:
    """Return the folders of parts where every subfolder is one; otherwise the root itself as part ""."""
    names = sorted(
        entry.name for entry in os.scandir(root) if _is_true(entry.is_dir) and not _is_junk(entry.name)
    )
    parts = [(PART_NAMES[name.lower()], root / name) for name in names if name.lower() in PART_NAMES]
    others = [name for name in names if name.lower() not in PART_NAMES]
    if "train" not in dict(parts):
        return [("", root)]
    if others:
        has_classes = any(
            _find_subfolders(folder, _FolderScan()) for part, folder in parts if part == "train"
        )
        if len(parts) > 1 and has_classes:
            raise DataError(f"Is {others[0]!r} a class? It lies beside train/ in {root}. {LAYOUT}")
        return [("", root)]
    repeated = [part for part, n in Counter(part for part, _ in parts).items() if n > 1]
    if repeated:
        raise DataError(f"Two folders of {root} both mean {repeated[0]!r}: {', '.join(names)}. Keep one.")
    return parts


def _find_subfolders(folder: Path, scan: _FolderScan) -> list[Path]:
    subfolders = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if scan.skip_junk(entry.name):
            continue
        if entry.is_symlink() and not _is_true(Path(entry.path).exists):
            scan.notes.append(f"The link {entry.name} leads nowhere and was left out.")
        elif _is_true(entry.is_dir) and entry.is_symlink():
            scan.notes.append(LINK_NOTE.format(entry.name))
        elif _is_true(entry.is_dir):
            subfolders.append(Path(entry.path))
    return subfolders


def _is_true(check: Callable[[], bool]) -> bool:
    """Return the result of a check; False for circular links and for names that are too long."""
    try:
        return check()
    except OSError:
        return False


def _count_images(folder: Path) -> int:
    """Count the images that lie directly in a folder, outside any class folder."""
    return sum(
        not _is_junk(entry.name) and Path(entry.name).suffix.lower() in EXTENSIONS and _is_true(entry.is_file)
        for entry in os.scandir(folder)
    )
