"""Files of the store that a disk does not take, kept in memory: the run goes on, the next computes anew."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import IO, Literal

from regraft.console import Reporter, amount
from regraft.errors import EnvironmentFault

__all__ = ["InMemory", "Spare"]

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
