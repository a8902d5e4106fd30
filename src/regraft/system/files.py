"""Files and folders: atomic writes and their locks, digests, and checks of outputs.

An atomic write goes to a temporary file or folder next to its target, which is then renamed into place.

A lock tells the temporaries of a live process from those that a dead one left: the kernel releases a process'
locks however it ended. A process ID would not do: IDs are reused, and in containers several processes have
the same one.
"""

from __future__ import annotations

import ctypes
import glob
import hashlib
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from regraft.errors import UsageError, wrap_os_errors

__all__ = [
    "hash_file",
    "make_temporary_file",
    "make_temporary_folder",
    "remove_stale",
    "replace_atomically",
    "require_absent",
    "share_lock",
    "try_lock",
]


if sys.platform != "win32":
    import fcntl

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100


@contextmanager
def make_temporary_file(folder: Path, prefix: str) -> Iterator[Path]:
    """Yield an empty file whose name begins with `prefix`, locked so that `remove_stale` leaves it alone.

    The block renames the file to its target; a file that is still there afterwards is deleted.

    Raises:
        OSError: nothing can be written to the folder.
    """

    def make() -> Path:
        path = folder / f"{prefix}{uuid.uuid4().hex}"
        path.touch(exist_ok=False)
        return path

    with _make_and_lock(make) as path:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def make_temporary_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """Yield an empty folder as `make_temporary_file` yields a file; remove stale ones of this prefix first.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with make_temporary_folder(Path(parent), ".run.") as temporary:
        ...         remove_stale(Path(parent), ".run.")
        ...         print(temporary.is_dir())
        ...     print(temporary.is_dir())
        True
        False
    """

    remove_stale(folder, prefix)

    def make() -> Path:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        path.chmod(0o755)
        return path

    with _make_and_lock(make) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def try_lock(path: Path) -> int | None:
    """Lock a file or folder until the returned descriptor is closed or the process ends.

    Returns:
        None if the path does not exist (any more) or another process has locked it.

    Raises:
        OSError: it cannot be opened.
    """
    if sys.platform == "win32":  # no such locks there, and no descriptor of a folder
        return os.open(os.devnull, os.O_RDONLY)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        with suppress(_NoLocksError):  # `remove_stale` removes nothing there either
            _lock(descriptor)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def share_lock(path: Path) -> int | None:
    """Lock a file or folder together with others, so that `try_lock` fails; wait while one has it alone.

    Returns:
        The descriptor that holds the lock until it is closed; None if the path does not exist, or if the
        system or file system has no locks.
    """
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def remove_stale(folder: Path, prefix: str) -> None:
    """Remove the files and folders of this prefix that no process is writing any more."""
    for path in folder.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                _lock(descriptor)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def replace_atomically(new: Path, target: Path) -> None:
    """Move a folder to its target, so that nobody ever sees no folder there or half of one.

    A folder that was there before ends up where the new one was.

    Raises:
        OSError: it cannot be moved; then both folders are where they were.
    """
    for path in new.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    if not target.exists():
        new.rename(target)
    elif not _exchange(new, target):  # for a moment there is no folder at the target
        old = target.with_name(f"{target.name}.before-{uuid.uuid4().hex[:8]}")
        target.rename(old)
        new.rename(target)
        old.rename(new)


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two paths in one step; return False where the system or file system cannot."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return rename is not None and not rename(
        _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE
    )


@contextmanager
def _make_and_lock(make: Callable[[], Path]) -> Iterator[Path]:
    """Yield what `make` makes, locked; make it again if it was removed before it was locked."""
    while True:
        path = make()
        descriptor = try_lock(path)
        if descriptor is not None:
            break
    try:
        yield path
    finally:
        os.close(descriptor)


class _NoLocksError(OSError):
    """The system or the file system has no locks."""


def _lock(descriptor: int) -> None:
    """Lock, or raise BlockingIOError if somebody else holds the lock."""
    if sys.platform == "win32":
        raise _NoLocksError
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise _NoLocksError from error


def hash_file(path: Path, algorithm: str = "sha256") -> str:
    """Return the digest of a file in hex.

    Raises:
        EnvironmentFault: it cannot be read.
    """
    with wrap_os_errors(f"{path} cannot be read"), path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def require_absent(path: Path, *, overwrite: bool, kind: str = "folder") -> None:
    """Raise UsageError if the output `path` exists and must not be replaced; `kind` names it: file or folder.

    >>> require_absent(Path("."), overwrite=False)
    Traceback (most recent call last):
    regraft.errors.UsageError: . exists already. Choose another folder, or replace it with --overwrite.
    """
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already. Choose another {kind}, or replace it with --overwrite.")
