"""The folder of the store, checked to be writable before work begins; and memory where its disk is full."""

from __future__ import annotations

import atexit
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal

from regraft.errors import EnvironmentFault, describe_os_error
from regraft.system.console import Reporter, format_bytes
from regraft.system.files import make_temporary_file, make_temporary_folder, remove_stale

__all__ = ["MemoryFallback", "MemoryFile", "find_writable_root", "get_default_root"]

TEST_SIZE = 2**18  # bytes that are written to a folder to check it
MEMORY_LIMIT = 256 * 2**20  # bytes: the pooled features of some 75,000 images, or a few feature maps
_temporary: dict[tuple[Path, str], Path] = {}  # by the folder that cannot be written and the reason


def get_default_root() -> Path:
    """Return $REGRAFT_HOME, else regraft/ in the user's cache folder, else in the temporary folder."""
    if folder := os.environ.get("REGRAFT_HOME"):
        return Path(folder)
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "regraft"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "regraft"


def find_writable_root(named: str | os.PathLike[str] | None = None, *, reporter: Reporter) -> Path:
    """Return the folder of the store, after writing a little to it to check that it is writable.

    Args:
        named: the user's choice; None for `get_default_root()`. If that is not set by REGRAFT_HOME and cannot
            be written, a temporary folder of this process replaces it, with one warning to the reporter.

    Raises:
        EnvironmentFault: the user's folder cannot be written, or no folder at all.
    """
    root = get_default_root() if named is None else Path(named)
    try:
        _check_writable(root)
    except OSError as error:
        reason = describe_os_error(error)
        if named is not None or os.environ.get("REGRAFT_HOME"):
            raise EnvironmentFault(
                f"The store {root} cannot be written: {reason}. Free some space there, make it writable, or "
                "choose another folder with --store or REGRAFT_HOME."
            ) from error
        if (root, reason) not in _temporary:
            folder = _temporary[root, reason] = _make_temporary(root, reason)
            reporter.warn(
                f"The store {root} cannot be written ({reason}): features are kept in {folder} until this "
                "process ends. Choose a permanent folder with --store or REGRAFT_HOME."
            )
        return _temporary[root, reason]
    return root


def _check_writable(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    remove_stale(root, ".trying-")
    with make_temporary_file(root, ".trying-") as path, path.open("wb") as file:
        file.write(bytes(TEST_SIZE))
        file.flush()
        os.fsync(file.fileno())


def _make_temporary(root: Path, reason: str) -> Path:
    """Make a folder that is removed when the process ends or, if it is killed, by the next process."""
    parent, stack = Path(tempfile.gettempdir()), ExitStack()
    try:
        folder = stack.enter_context(make_temporary_folder(parent, "regraft-store-"))
    except OSError as error:
        raise EnvironmentFault(
            f"The store can be written neither to {root} ({reason}) nor to {parent} "
            f"({describe_os_error(error)}). Choose another folder with --store or REGRAFT_HOME."
        ) from error
    atexit.register(stack.close)
    return folder


class MemoryFile:
    """A file in memory, which is opened as a path is."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: Literal["rb"], buffering: int = -1) -> io.BytesIO:
        """Return the file at its beginning; its content is not copied."""
        return io.BytesIO(self._content)


class MemoryFallback:
    """Memory that a store uses when its disk cannot be written.

    Attributes:
        limit: how many bytes it keeps.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.limit = MEMORY_LIMIT
        self._reporter = reporter
        self._used = 0
        self._warned = False

    def keep(self, write: Callable[[IO[bytes]], None], folder: Path, error: OSError) -> MemoryFile:
        """Keep a file in memory that could not be written to disk; warn the first time.

        Args:
            write: a function that writes the content to a file.
            folder: the folder that could not be written.
            error: the reason.

        Raises:
            EnvironmentFault: the memory limit is reached.
        """
        file = io.BytesIO()
        write(file)
        size = file.tell()
        problem = f"The feature store {folder} cannot take {size:,} bytes: {describe_os_error(error)}."
        remedy = "Free some space, or choose another folder with --store or REGRAFT_HOME."
        if self._used + size > self.limit:
            raise EnvironmentFault(f"{problem} {remedy}") from error
        if not self._warned:
            self._warned = True
            self._reporter.warn(
                f"{problem} The run goes on: up to {format_bytes(self.limit)} are kept in memory, and lost "
                f"when it ends. {remedy}"
            )
        self._used += size
        return MemoryFile(file.getvalue())
