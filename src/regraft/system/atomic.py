"""What is written beside its place and moved there whole, told from what dead processes left: by a lock.

The kernel takes a process' locks back whatever ended it. A process' number would say less: numbers are given
again, and in containers several processes have the same one.
"""

from __future__ import annotations

import ctypes
import glob
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":
    import fcntl

__all__ = ["hold", "new_file", "new_folder", "sweep", "take_place"]

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


@contextmanager
def new_file(folder: Path, prefix: str) -> Iterator[Path]:
    """An empty file whose name begins with `prefix`; `sweep` leaves it alone while the block runs.

    The block moves it to its place; what is left of it afterwards is removed.

    Raises:
        OSError: nothing can be written there.
    """

    def make() -> Path:
        path = folder / f"{prefix}{uuid.uuid4().hex}"
        path.touch(exist_ok=False)
        return path

    with _held(make) as path:
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


@contextmanager
def new_folder(folder: Path, prefix: str) -> Iterator[Path]:
    """An empty folder, as `new_file` is an empty file; what dead processes left of this prefix goes first.

    Example:
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with new_folder(Path(parent), ".run.") as beside:
        ...         sweep(Path(parent), ".run.")
        ...         print(beside.is_dir())
        ...     print(beside.is_dir())
        True
        False
    """

    sweep(folder, prefix)

    def make() -> Path:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=folder))
        path.chmod(0o755)
        return path

    with _held(make) as path:
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


def hold(path: Path) -> int | None:
    """Lock a file or folder until the descriptor that comes back is closed, or the process ends.

    Returns:
        None where it is not there (any more), or where somebody holds it.

    Raises:
        OSError: it cannot be opened.
    """
    if sys.platform == "win32":  # no locks, and no descriptor of a folder
        return os.open(os.devnull, os.O_RDONLY)
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        with suppress(_NoLocksError):  # then `sweep` removes nothing there either
            _lock(descriptor)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def sweep(folder: Path, prefix: str) -> None:
    """Remove the files and folders of this prefix that no process is writing any more."""
    for path in folder.glob(f"{glob.escape(prefix)}*"):
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY)
            try:
                _lock(descriptor)
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            finally:
                os.close(descriptor)


def take_place(beside: Path, place: Path) -> None:
    """Move a folder to its place. One that is there ends where the new one was: nobody finds none, or half.

    Raises:
        OSError: it cannot be moved; then both are where they were.
    """
    for path in beside.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
    if not place.exists():
        beside.rename(place)
    elif not _exchanged(beside, place):  # then there is a moment without any
        old = place.with_name(f"{place.name}.before-{uuid.uuid4().hex[:8]}")
        place.rename(old)
        beside.rename(place)
        old.rename(beside)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the two have changed their names, at once; not every system and file system can."""
    exchange = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    return exchange is not None and not exchange(
        _HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE
    )


@contextmanager
def _held(make: Callable[[], Path]) -> Iterator[Path]:
    """What `make` makes, locked; made once more where a sweep came between making and locking."""
    while True:
        path = make()
        descriptor = hold(path)
        if descriptor is not None:
            break
    try:
        yield path
    finally:
        os.close(descriptor)


class _NoLocksError(OSError):
    """A file system, or a system, without locks."""


def _lock(descriptor: int) -> None:
    """Lock, or raise BlockingIOError where somebody else has."""
    if sys.platform == "win32":
        raise _NoLocksError
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        raise _NoLocksError from error
