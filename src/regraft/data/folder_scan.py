"""What lies in a folder: its files and subfolders without junk, and which files are images.

One rule holds for every command: a file is an image by its content, whatever its name. A file with the
extension of an image, or with none, that is no image is refused by name; any other is ignored and counted.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from regraft.data.images.decode import EXTENSIONS
from regraft.data.images.rejections import Rejection
from regraft.data.samples import sniff_file
from regraft.errors import describe_os_error
from regraft.system.console import format_names

__all__ = [
    "FolderScan",
    "describe_ignored",
    "has_other_extension",
    "is_ignored",
    "list_class_names",
    "looks_like_image",
]

LINK_NOTE = "The folder {} is a symbolic link and was not followed."
MAX_SHOWN = 300  # characters of a path in a note
_JUNK = {"thumbs.db", "desktop.ini", "__macosx"}


@dataclass
class FolderScan:
    """The record of a scan: `notes`, sentences about what was left out, and the number of `junk` files."""

    notes: list[str] = field(default_factory=list)
    junk: int = 0

    def describe(self) -> list[str]:
        """Return the notes, with one about the junk."""
        s = "s" * (self.junk != 1)
        were = "were" if s else "was"
        sentence = f"{self.junk:,} hidden or system file{s} or folder{s}, such as .DS_Store, {were} left out."
        return [*self.notes, *([sentence] if self.junk else [])]

    def iter_files(self, folder: Path) -> Iterator[Path]:
        """Yield every file below a folder except junk, sorted. Links to folders are not followed."""

        def note_unreadable(error: OSError) -> None:
            path = os.fspath(error.filename)
            shown = (
                path if len(path) < MAX_SHOWN else f"{path[: MAX_SHOWN // 2]} ... {path[-MAX_SHOWN // 2 :]}"
            )
            self.notes.append(f"The folder {shown} cannot be read: {describe_os_error(error)}.")

        for parent, folders, files in os.walk(folder, onerror=note_unreadable):
            folders[:] = sorted(name for name in folders if not self._skip_junk(name))
            self.notes += [
                LINK_NOTE.format(name) for name in folders if _is_true(Path(parent, name).is_symlink)
            ]
            yield from (Path(parent, name) for name in sorted(files) if not self._skip_junk(name))

    def list_entries(self, folder: Path) -> tuple[list[Path], list[Path]]:
        """Return the subfolders and the files that lie directly in a folder, sorted and without junk."""
        subfolders: list[Path] = []
        files: list[Path] = []
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            if self._skip_junk(entry.name):
                continue
            is_folder = _is_true(entry.is_dir)
            if entry.is_symlink() and not _is_true(Path(entry.path).exists):
                self.notes.append(f"The link {entry.name} leads nowhere and was left out.")
            elif is_folder and entry.is_symlink():
                self.notes.append(LINK_NOTE.format(entry.name))
            else:
                (subfolders if is_folder else files).append(Path(entry.path))
        return subfolders, files

    def _skip_junk(self, name: str) -> bool:
        """Tell whether a name is junk, and count it if so."""
        self.junk += (is_junk := _is_junk(name))
        return is_junk


def list_class_names(folder: Path) -> set[str]:
    """Return the names of the subfolders if no image lies beside them, so that each may be a class."""
    names, others = set(), []
    try:
        for entry in os.scandir(folder):
            if _is_junk(entry.name):
                continue
            if entry.is_dir(follow_symlinks=False):
                names.add(entry.name)
            elif Path(entry.name).suffix.lower() in EXTENSIONS:
                return set()
            else:
                others.append(Path(entry.path))
    except OSError:  # named when the files are listed
        return set()
    return set() if any(map(looks_like_image, others)) else names


def looks_like_image(file: Path) -> bool:
    """Tell whether a file has the extension of an image, or begins like one."""
    return file.suffix.lower() in EXTENSIONS or sniff_file(file) is None


def has_other_extension(file: Path) -> bool:
    """Tell whether the name says that a file is something else than an image: notes.txt."""
    return bool(file.suffix) and file.suffix.lower() not in EXTENSIONS


def is_ignored(file: Path, rejection: Rejection | None) -> bool:
    """Tell whether a file was never meant as an image: a text called notes.txt, not one called a.jpg."""
    return has_other_extension(file) and rejection is not None and rejection.code in ("not_an_image", "empty")


def describe_ignored(files: Iterable[Path]) -> list[str]:
    """Return a note that counts ignored files by their extensions; no note if there are none."""
    counts = Counter(file.suffix.lower() for file in files)
    kinds = format_names(f"{n:,} {kind}" for kind, n in sorted(counts.items()))
    return [f"Ignored files, not images that regraft reads: {kinds}."] if counts else []


def _is_junk(name: str) -> bool:
    return name.startswith(".") or name.lower() in _JUNK


def _is_true(check: Callable[[], bool]) -> bool:
    """Return the result of a check; False for circular links and for names that are too long."""
    try:
        return check()
    except OSError:
        return False
