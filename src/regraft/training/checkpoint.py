"""The checkpoint of a phase: one file of arrays and JSON, replaced atomically. It holds no pickle."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault, describe_os_error
from regraft.system.console import Reporter, SilentReporter
from regraft.system.files import make_temporary_file

__all__ = [
    "Arrays",
    "PhaseCheckpoint",
    "pack_checkpoint",
    "read_checkpoint",
    "unpack_checkpoint",
    "write_checkpoint",
]

MIN_INTERVAL = 15.0  # seconds between two checkpoints, at least
WRITE_TIMES = 20  # the interval is also at least this many times what the last one took to write

Arrays = dict[str, list[NDArray[Any]]]


def write_checkpoint(path: Path, state: dict[str, Any], arrays: Mapping[str, Sequence[NDArray[Any]]]) -> None:
    """Write a checkpoint over an earlier one; a reader sees the old file or the new one, never a part.

    Args:
        path: its file.
        state: anything that JSON holds, NaN included.
        arrays: numbers of any type, in named lists.

    Raises:
        OSError: it cannot be written; the earlier one stays as it was.
    """
    with make_temporary_file(path.parent, f".writing-{path.name}-") as temporary:
        with temporary.open("wb") as file:
            pack_checkpoint(file, state, arrays)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def pack_checkpoint(
    file: IO[bytes], state: dict[str, Any], arrays: Mapping[str, Sequence[NDArray[Any]]]
) -> None:
    """Write a checkpoint into an open file; see `write_checkpoint`."""
    members = {
        f"{name}/{number}": _to_builtin_type(value)
        for name, row in arrays.items()
        for number, value in enumerate(row)
    }
    head = {
        "said": state,
        "types": {name: [str(value.dtype) for value in row] for name, row in arrays.items()},
    }
    np.savez(file, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **cast("Any", members))


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """Return the state and arrays of a checkpoint, or None if there is no file.

    Raises:
        EnvironmentFault: the file is damaged or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(Path(folder) / "now.npz", {"epoch": 3}, {"best": [np.eye(2)]})
        ...     state, arrays = read_checkpoint(Path(folder) / "now.npz")
        >>> state, arrays["best"][0].tolist()
        ({'epoch': 3}, [[1.0, 0.0], [0.0, 1.0]])
    """
    try:
        with path.open("rb") as file:
            return unpack_checkpoint(file, path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _describe_damage(path, error) from error


def unpack_checkpoint(file: IO[bytes], path: Path) -> tuple[dict[str, Any], Arrays]:
    """Return the state and arrays of a checkpoint in an open file; `path` is named in an error.

    Raises:
        EnvironmentFault: the file is damaged.
    """
    try:
        with np.load(file, allow_pickle=False) as members:
            head = json.loads(members["head"].tobytes())
            return head["said"], {
                name: [
                    _from_builtin_type(members[f"{name}/{number}"], kind) for number, kind in enumerate(kinds)
                ]
                for name, kinds in head["types"].items()
            }
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise _describe_damage(path, error) from error


def _describe_damage(path: Path, error: Exception) -> EnvironmentFault:
    return EnvironmentFault(
        f"The checkpoint {path} is damaged ({error}). Start again: the same command without --resume."
    )


def _to_builtin_type(value: NDArray[Any]) -> NDArray[Any]:
    """Return types that are not NumPy's own, such as bfloat16, as bytes: a file would lose them."""
    value = np.asarray(value, order="C")
    return value if value.dtype.isbuiltin == 1 else value.view(np.dtype(("V", value.dtype.itemsize)))


def _from_builtin_type(value: NDArray[Any], kind: str) -> NDArray[Any]:
    if str(value.dtype) == kind:
        return value
    import ml_dtypes

    return value.view(getattr(ml_dtypes, kind))


class PhaseCheckpoint:
    """The checkpoint of one phase, and when to write it. Without a path nothing is saved.

    Args:
        path: its file.
        resume: whether to read the file that is already there; otherwise it does not count.
        reporter: receives a warning if the disk refuses a checkpoint.
        clock: returns seconds that only grow.
    """

    def __init__(
        self,
        path: Path | None = None,
        *,
        resume: bool = False,
        reporter: Reporter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path, self._reporter, self._clock = path, reporter or SilentReporter(), clock
        self._previous = read_checkpoint(path) if path is not None and resume else None
        self._next = clock() + MIN_INTERVAL

    @property
    def has_begun(self) -> bool:
        """Whether an earlier process left a checkpoint that nobody has taken."""
        return self._previous is not None

    @property
    def is_done(self) -> bool:
        """Whether an earlier process finished the phase."""
        return self._previous is not None and bool(self._previous[0]["done"])

    def adopt(self, previous: tuple[dict[str, Any], Arrays]) -> None:
        """Take state and arrays that another run saved as if an earlier process of this run had."""
        self.save(*previous)
        self._previous = previous

    def take_previous(self) -> tuple[dict[str, Any], Arrays] | None:
        """Return the last checkpoint of an earlier process, once: it may be as large as the model."""
        previous, self._previous = self._previous, None
        return previous

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint: writing them takes a twentieth of the time at most."""
        return self._path is not None and self._clock() >= self._next

    def save(self, state: dict[str, Any], arrays: Mapping[str, Sequence[NDArray[Any]]]) -> None:
        """Write a checkpoint. If the disk refuses it, warn once, and train on without."""
        if self._path is None:
            return
        begun = self._clock()
        try:
            write_checkpoint(self._path, state, arrays)
        except OSError as error:
            self._reporter.warn(
                f"No checkpoint can be written to {self._path.parent} ({describe_os_error(error)}): if this "
                "run is killed, --resume goes back to the last one."
            )
            self._path = None
        now = self._clock()
        self._next = now + max(MIN_INTERVAL, WRITE_TIMES * (now - begun))
