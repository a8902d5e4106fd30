"""A checkpoint: one file of arrays and JSON, written beside and moved into place. No pickle.

A run under way: what it decided and how far it came, in a folder beside its place, for `--resume`.

    .OUT.progress/run.json       what the run was begun with, what it decided by the clock, what it delivered
    .OUT.progress/NAME.npz       the last checkpoint of a phase: head, phase-1, phase-1-deeper, phase-2, ...

Decisions and checkpoints have names, and are found by them.

The folder belongs to one process at a time, by a lock. It goes when the run is done. Whatever a run needs
besides is a function of its recipe and its data: the order and the augmentation of images of (seed, epoch,
step), and everything that is not trained by gradient.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault, UsageError
from regraft.system.atomic import hold, new_file, sweep
from regraft.system.console import Reporter, SilentReporter

__all__ = ["Arrays", "Bookmark", "Progress", "read_checkpoint", "write_checkpoint"]


Arrays = dict[str, list[NDArray[Any]]]


def write_checkpoint(path: Path, said: dict[str, Any], arrays: dict[str, Sequence[NDArray[Any]]]) -> None:
    """Write a checkpoint in the place of an earlier one: whoever reads finds the one or the other, whole.

    Args:
        path: its file.
        said: anything that JSON holds, NaN included.
        arrays: numbers of any type, in named lists.

    Raises:
        OSError: it cannot be written; the earlier one is as it was.
    """
    members = {
        f"{name}/{place}": _plain(value) for name, row in arrays.items() for place, value in enumerate(row)
    }
    head = {
        "said": said,
        "types": {name: [str(value.dtype) for value in row] for name, row in arrays.items()},
    }
    with new_file(path.parent, f".writing-{path.name}-") as beside:
        with beside.open("wb") as file:
            np.savez(file, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **cast("Any", members))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)


def read_checkpoint(path: Path) -> tuple[dict[str, Any], Arrays] | None:
    """What was written last, or None where nothing was.

    Raises:
        EnvironmentFault: the file is damaged or cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_checkpoint(Path(folder) / "now.npz", {"epoch": 3}, {"best": [np.eye(2)]})
        ...     said, arrays = read_checkpoint(Path(folder) / "now.npz")
        >>> said, arrays["best"][0].tolist()
        ({'epoch': 3}, [[1.0, 0.0], [0.0, 1.0]])
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            head = json.loads(file["head"].tobytes())
            return head["said"], {
                name: [_typed(file[f"{name}/{place}"], kind) for place, kind in enumerate(kinds)]
                for name, kinds in head["types"].items()
            }
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise EnvironmentFault(
            f"The checkpoint {path} is damaged ({error}). Begin anew: the same command without --resume."
        ) from error


def _plain(value: NDArray[Any]) -> NDArray[Any]:
    """Types that NumPy has not by itself, such as bfloat16, as bytes: it would give them back as nothing."""
    value = np.asarray(value, order="C")
    return value if value.dtype.isbuiltin == 1 else value.view(np.dtype(("V", value.dtype.itemsize)))


def _typed(value: NDArray[Any], kind: str) -> NDArray[Any]:
    if str(value.dtype) == kind:
        return value
    import ml_dtypes

    return value.view(getattr(ml_dtypes, kind))


EVERY = 15.0  # seconds between two checkpoints, at least
WORTH = 20  # times what the last one took to write, at least
NAMED = 3  # differences that are named


class Bookmark:
    """Where a phase stands, on disk.

    Args:
        path: of its checkpoint; None to keep nothing.
        known: whether a checkpoint that is there already counts.
    """

    def __init__(
        self, path: Path | None = None, *, known: bool = False, reporter: Reporter | None = None
    ) -> None:
        self._path, self._reporter = path, reporter or SilentReporter()
        self._found = read_checkpoint(path) if path is not None and known else None
        self._next = time.monotonic() + EVERY

    @property
    def done(self) -> bool:
        """Whether the phase was finished by a process before this one."""
        return self._found is not None and bool(self._found[0]["done"])

    def take(self) -> tuple[dict[str, Any], Arrays] | None:
        """What a process before this one kept last; once, for it may be as large as the model."""
        found, self._found = self._found, None
        return found

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint: writing them takes a twentieth of the time at most."""
        return self._path is not None and time.monotonic() >= self._next

    def keep(self, said: dict[str, Any], arrays: dict[str, Sequence[NDArray[Any]]]) -> None:
        """Write a checkpoint. Where the disk does not take it, training goes on without, and that is said."""
        if self._path is None:
            return
        begun = time.monotonic()
        try:
            write_checkpoint(self._path, said, arrays)
        except OSError as error:
            self._reporter.warn(
                f"No checkpoint can be written to {self._path.parent} ({error.strerror or error}): should "
                "this run be killed, --resume goes back to the last one."
            )
            self._path = None
        now = time.monotonic()
        self._next = now + max(EVERY, WORTH * (now - begun))


class Progress:
    """What is kept of a run under way; `Progress.of` makes one, `Progress()` keeps nothing.

    Attributes:
        finished: set by whoever has put the run in its place: then nothing is kept.
    """

    def __init__(
        self, folder: Path | None = None, *, resume: bool = False, reporter: Reporter | None = None
    ) -> None:
        self._folder, self._resume, self._reporter = folder, resume, reporter or SilentReporter()
        self._state: dict[str, Any] = {"facts": {}, "decisions": {}, "delivered": ""}
        self.finished = False
        if resume:
            self._recall()

    @classmethod
    @contextmanager
    def of(cls, out: Path, *, resume: bool, reporter: Reporter) -> Iterator[Progress]:
        """Hold the progress of the run that is to become `out`.

        Args:
            out: a run folder's place.
            resume: go on with what is there; otherwise `begin` removes it.

        Raises:
            EnvironmentFault: another process makes this run, or nothing can be written beside `out`.
        """
        folder = out.parent / f".{out.name}.progress"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock = hold(folder)
        except OSError as error:
            raise EnvironmentFault(
                f"Nothing can be written to {out.parent}: {error.strerror or error}."
            ) from error
        if lock is None:
            raise EnvironmentFault(f"{out} is in use by process {_owner(folder)}, which makes this very run.")
        try:
            progress = cls(folder, resume=resume, reporter=reporter)
            try:
                yield progress
            finally:
                if progress.finished or not any(folder.glob("*.npz")):
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    reporter.info(
                        f"How far it came is in {folder}: the same command with --resume goes on from there."
                    )
        finally:
            os.close(lock)

    def begin(self) -> None:
        """Go on with what is there, or remove it; says which."""
        if self._folder is None:
            return
        sweep(self._folder, ".writing-")
        there = sorted(self._folder.iterdir())
        trained = sum(path.suffix == ".npz" for path in there)
        if self._resume:
            self._reporter.info(
                f"Resuming the run that was begun before. Phases with a checkpoint: {trained}."
                if trained
                else "Nothing was trained before: the run begins, with what the store has already."
            )
        else:
            if trained:
                self._reporter.warn(
                    f"An unfinished run was in {self._folder}; begun anew now. --resume would go on."
                )
            for path in there:
                path.unlink()
        self._state["process"] = os.getpid()
        self._write()

    def expect(self, **facts: Any) -> None:
        """Note what a run depends on; where one is resumed, compare.

        Raises:
            UsageError: this is not the run that was begun.
        """
        known = self._state["facts"]
        plain = dict(_flat("", json.loads(json.dumps(facts))))
        wrong = [name for name, value in plain.items() if name in known and known[name] != value]
        if wrong:
            expected, received = (
                ", ".join(f"{name} {_brief(of[name])}" for name in wrong[:NAMED]) for of in (known, plain)
            )
            more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise UsageError(
                f"--resume goes on with the run that was begun. Expected {expected}{more}. Received "
                f"{received}{more}. Give the same command as then, or begin anew without --resume."
            )
        known |= plain
        self._write()

    def decide(self, name: str, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the decision of this name, and note it: what the clock, or the disk, chose once holds.

        Args:
            name: "phase 1: plan".
            choose: called where no process before this one has decided; what it returns fits into JSON.
        """
        if name not in self._state["decisions"]:
            self._state["decisions"][name] = choose()
            self._write()
        decision: dict[str, Any] = self._state["decisions"][name]
        return decision

    def bookmark(self, name: str) -> Bookmark:
        """Return the bookmark of a phase: "phase 1, deeper"."""
        file = re.sub(r"\W+", "-", name) + ".npz"
        path = None if self._folder is None else self._folder / file
        return Bookmark(path, known=self._resume, reporter=self._reporter)

    def may_replace(self, out: Path) -> bool:
        """Whether what is at `out` is what this very run left there when it was stopped."""
        return bool(self._state["delivered"]) and self._state["delivered"] == _digest(out)

    def deliver(self, folder: Path) -> None:
        """A finished run folder is about to take its place."""
        self._state["delivered"] = _digest(folder)
        self._write()

    def _recall(self) -> None:
        if self._folder is None:
            return
        path = self._folder / "run.json"
        try:
            state = json.loads(path.read_text("utf-8"))
            tables = [state.get(name, {}) for name in ("facts", "decisions")]
            if not all(isinstance(table, dict) for table in tables):
                raise ValueError("facts and decisions have no names")
            self._state |= state
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError) as error:
            raise EnvironmentFault(
                f"{path} is damaged ({error}). Begin anew: the same command without --resume."
            ) from error

    def _write(self) -> None:
        if self._folder is None:
            return
        try:
            with new_file(self._folder, ".writing-run-") as beside:
                beside.write_text(json.dumps(self._state, indent=2), "utf-8")
                beside.replace(self._folder / "run.json")
        except OSError as error:
            self._reporter.warn(
                f"The progress of this run cannot be kept in {self._folder} ({error.strerror or error}): "
                "should it be killed, it begins anew."
            )
            self._folder = None


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Names with dots, and values that are no tables.

    >>> dict(_flat("", {"seed": 0, "phases": [{"epochs": 2}]}))
    {'seed': 0, 'phases.1.epochs': 2}
    """
    parts = value
    if isinstance(value, list) and any(isinstance(each, dict) for each in value):
        parts = {str(number): each for number, each in enumerate(value, 1)}
    if not isinstance(parts, dict):
        yield name, value
        return
    for key, each in parts.items():
        yield from _flat(f"{name}.{key}" if name else key, each)


def _owner(folder: Path) -> str:
    try:
        return str(json.loads((folder / "run.json").read_text("utf-8"))["process"])
    except (OSError, ValueError, KeyError):
        return "of an unknown number"


def _digest(run: Path) -> str:
    """Of a run folder's manifest, which has the digests of its files."""
    try:
        return hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def _brief(value: Any, most: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."
