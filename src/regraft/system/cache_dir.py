"""Where the store lies, and whether it can be written: found out before work begins."""

from __future__ import annotations

import atexit
import io
import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Literal

from regraft.errors import EnvironmentFault
from regraft.system.atomic import new_file, new_folder, sweep
from regraft.system.console import Reporter, amount

__all__ = ["InMemory", "Spare", "default_root", "writable_root"]

TRIED = 2**18  # bytes that a place has to take to count as one
_temporary: dict[tuple[Path, str], Path] = {}  # by the place that cannot be written, and why


def default_root() -> Path:
    """$REGRAFT_HOME, else regraft/ in the user's cache folder, else (no home) in the temporary folder."""
    if chosen := os.environ.get("REGRAFT_HOME"):
        return Path(chosen)
    cached = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cached) if cached else Path.home() / ".cache") / "regraft"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "regraft"


def writable_root(named: str | os.PathLike[str] | None = None, *, reporter: Reporter) -> Path:
    """The folder of a store that takes what is written to it; a little is written, to try.

    Args:
        named: by the user; None for `default_root()`. Where that is nobody's choice and cannot be written,
            it is a temporary folder of this process instead, and the reporter is told once.

    Raises:
        EnvironmentFault: a place that somebody chose cannot be written, or no place at all.
    """
    root = default_root() if named is None else Path(named)
    try:
        _try(root)
    except OSError as error:
        why = error.strerror or str(error)
        if named is not None or os.environ.get("REGRAFT_HOME"):
            raise EnvironmentFault(
                f"The store {root} cannot be written: {why}. Free some space there, make it writable, or "
                "choose another place with --store or REGRAFT_HOME."
            ) from error
        if (root, why) not in _temporary:
            folder = _temporary[root, why] = _make_temporary(root, why)
            reporter.warn(
                f"The store {root} cannot be written ({why}): what is computed is kept in {folder} until "
                "this process ends. Choose a place to keep it with --store or REGRAFT_HOME."
            )
        return _temporary[root, why]
    return root


def _try(root: Path) -> None:
    root.mkdir(parents=True, exist_ok=True)
    sweep(root, ".trying-")
    with new_file(root, ".trying-") as path, path.open("wb") as file:
        file.write(bytes(TRIED))
        file.flush()
        os.fsync(file.fileno())


def _make_temporary(root: Path, why: str) -> Path:
    """A folder that is gone when the process ends, or when the next one needs one."""
    parent, kept = Path(tempfile.gettempdir()), ExitStack()
    try:
        folder = kept.enter_context(new_folder(parent, "regraft-store-"))
    except OSError as error:
        raise EnvironmentFault(
            f"The store can be written neither to {root} ({why}) nor to {parent} "
            f"({error.strerror or error}). Choose another place with --store or REGRAFT_HOME."
        ) from error
    atexit.register(kept.close)
    return folder


ROOM = 256 * 2**20  # bytes: the pooled features of some 75,000 images; of feature maps, few


class InMemory:
    """A file that lies in memory; it is opened as a path is."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, mode: Literal["rb"], buffering: int = -1) -> io.BytesIO:
        """The file from its beginning; it is not copied."""
        return io.BytesIO(self._content)


class Spare:
    """The memory that a store may use in place of its disk."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._used = 0
        self._said = False

    def keep(self, write: Callable[[IO[bytes]], None], folder: Path, refused: OSError) -> InMemory:
        """Keep a file that could not be written, and say so the first time.

        Args:
            write: writes the file.
            folder: where it was to be.
            refused: why it is not.

        Raises:
            EnvironmentFault: there is no room for it here either.
        """
        file, why = io.BytesIO(), refused.strerror or str(refused)
        write(file)
        size = file.tell()
        cannot = f"The feature store {folder} cannot take {size:,} bytes: {why}."
        mend = "Free some space, or choose another place with --store or REGRAFT_HOME."
        if self._used + size > ROOM:
            raise EnvironmentFault(f"{cannot} {mend}") from refused
        if not self._said:
            self._said = True
            self._reporter.warn(
                f"{cannot} The run goes on: up to {amount(ROOM)} are kept in memory, and lost when it ends. "
                f"{mend}"
            )
        self._used += size
        return InMemory(file.getvalue())
