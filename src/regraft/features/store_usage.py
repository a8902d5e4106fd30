"""What the store holds, how large it is, when each entry was used last; and clearing it.

Only what regraft computes and can compute again is listed and cleared. Downloaded networks and the user's
decisions to trust one, which lie in the same folder, are left alone, and so is whatever else lies there.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from regraft.errors import EnvironmentFault, describe_os_error
from regraft.system.files import try_lock

__all__ = ["KINDS", "StoredEntry", "clear_entries", "list_entries"]

KINDS = {  # folders of the store -> what they hold
    r"features-\d+": "features and pixels",
    r"heads-\d+": "heads solved on features",
    "engines": "converted networks",
    r"phases-\d+": "results of fine-tuning",
    "selftests": "tests that were passed",
    "hints": "hints that save time",
}
_ENTRY = re.compile(r"[0-9a-f]{8,}(\.npz)?")  # digests; nothing else is an entry
_CLEARING = ".clearing-"
_DAY = 86_400.0


@dataclass(frozen=True)
class StoredEntry:
    """One entry of a store.

    Attributes:
        kind: what it is, of `KINDS`.
        path: its folder or file.
        size: its bytes on disk.
        last_used: when it was used or written last, in seconds since 1970.
        description: the first line of its key, "" where it has none.
    """

    kind: str
    path: Path
    size: int
    last_used: float
    description: str

    @property
    def days(self) -> float:
        """Days since its last use."""
        return max(0.0, (time.time() - self.last_used) / _DAY)


def list_entries(root: Path) -> list[StoredEntry]:
    """Return the entries of a store, those that were used last first; none if there is no such folder.

    Example:
        sum(entry.size for entry in list_entries(get_default_root()))
    """
    entries = [
        _measure(path, kind)
        for folder in _list_folder(root)
        for pattern, kind in KINDS.items()
        if re.fullmatch(pattern, folder.name) and folder.is_dir() and not folder.is_symlink()
        for path in _list_folder(folder)
        if _ENTRY.fullmatch(path.name) and not path.is_symlink()
    ]
    return sorted(entries, key=lambda entry: -entry.last_used)


def clear_entries(root: Path, *, older_than: float = 0.0) -> tuple[list[StoredEntry], list[StoredEntry]]:
    """Delete the entries of a store that were not used for some days; return those and the ones that remain.

    Args:
        root: the folder of the store.
        older_than: days since the last use; 0 for every entry.

    Raises:
        EnvironmentFault: a running process uses the store, or an entry cannot be deleted.

    Example:
        deleted, remaining = clear_entries(get_default_root(), older_than=30)
    """
    if not root.is_dir():
        return [], []
    lock = try_lock(root)
    if lock is None:
        raise EnvironmentFault(
            f"The store {root} is in use by a running process, so nothing is cleared. Wait until it ends."
        )
    try:
        for leftover in root.glob(f"{_CLEARING}*"):
            _delete(leftover)
        entries = list_entries(root)
        deleted = [entry for entry in entries if entry.days >= older_than]
        for entry in deleted:
            _remove(entry.path, root)
    finally:
        os.close(lock)
    return deleted, [entry for entry in entries if entry.days < older_than]


def _remove(path: Path, root: Path) -> None:
    """Move an entry aside in one step and delete it there, so that nobody ever sees half of one."""
    aside = root / f"{_CLEARING}{uuid.uuid4().hex}"
    try:
        path.rename(aside)
        _delete(aside)
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be deleted: {describe_os_error(error)}.") from error


def _delete(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _measure(path: Path, kind: str) -> StoredEntry:
    size, last_used = 0, 0.0
    for file in (path, *path.rglob("*")):
        with suppress(OSError):  # another process may have deleted it
            status = file.stat()
            size += 0 if stat.S_ISDIR(status.st_mode) else status.st_size
            last_used = max(last_used, status.st_mtime)
    return StoredEntry(kind, path, size, last_used, _describe(path / "key.txt"))


def _describe(key: Path) -> str:
    try:
        lines: Sequence[str] = key.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return ""
    return ", ".join(
        line for line in lines if line.startswith(("pixels", "facts", "prefix", "size", "engine"))
    )


def _list_folder(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        yield from sorted(folder.iterdir())
