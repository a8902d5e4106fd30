"""The journal of an unfinished run: its decisions and checkpoints, kept beside the run folder for `--resume`.

    .OUT.progress/run.json       the run's inputs, what it decided by the clock, what it delivered
    .OUT.progress/NAME.npz       the last checkpoint of a phase: head, phase-1, phase-1-deeper, phase-2, ...

Decisions and checkpoints are looked up by name. A lock gives the folder to one process at a time, and the
folder is deleted when the run is done. Everything else follows from recipe and data: the order and the
augmentation of images from (seed, epoch, step), and so does all that is not trained by gradient.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from regraft.errors import EnvironmentFault, UsageError, describe_os_error, wrap_os_errors
from regraft.system.console import Reporter, SilentReporter
from regraft.system.files import make_temporary_file, remove_stale, try_lock
from regraft.training.checkpoint import PhaseCheckpoint

__all__ = ["RunJournal"]

NAMED = 3  # differences that a message names


class RunJournal:
    """The decisions and checkpoints of a run. `RunJournal.open` makes one; `RunJournal()` records nothing.

    Attributes:
        finished: set once the run folder is complete: then the journal is deleted.
    """

    def __init__(
        self, folder: Path | None = None, *, resume: bool = False, reporter: Reporter | None = None
    ) -> None:
        self._folder, self._resume, self._reporter = folder, resume, reporter or SilentReporter()
        self._state: dict[str, Any] = {"facts": {}, "decisions": {}, "delivered": ""}
        self.finished = False
        if resume:
            self._read()

    @classmethod
    @contextmanager
    def open(cls, out: Path, *, resume: bool, reporter: Reporter) -> Iterator[RunJournal]:
        """Lock and yield the journal of the run that is to become `out`.

        Args:
            out: path of the run folder.
            resume: continue the journal that is there; otherwise `begin` empties it.

        Raises:
            EnvironmentFault: another process makes this run, or nothing can be written beside `out`.
        """
        folder = out.parent / f".{out.name}.progress"
        with wrap_os_errors(f"Nothing can be written to {out.parent}"):
            folder.mkdir(parents=True, exist_ok=True)
            lock = try_lock(folder)
        if lock is None:
            raise EnvironmentFault(
                f"{out} is in use by process {_read_owner(folder)}, which makes this very run."
            )
        try:
            journal = cls(folder, resume=resume, reporter=reporter)
            try:
                yield journal
            finally:
                if journal.finished or not any(folder.glob("*.npz")):
                    shutil.rmtree(folder, ignore_errors=True)
                else:
                    reporter.info(
                        f"Progress saved to {folder}. Run the same command with --resume to continue."
                    )
        finally:
            os.close(lock)

    def begin(self) -> None:
        """Report whether the run continues an earlier one; delete what is there if it does not."""
        if self._folder is None:
            return
        remove_stale(self._folder, ".writing-")
        files = sorted(self._folder.iterdir())
        checkpoints = sum(path.suffix == ".npz" for path in files)
        if self._resume:
            resumed = f"Resuming an earlier run. Phases with a checkpoint: {checkpoints}."
            fresh = "There is no checkpoint to resume: the run starts from the beginning and uses the store."
            self._reporter.info(resumed if checkpoints else fresh)
        else:
            if checkpoints:
                discarded = f"Discarding the unfinished run in {self._folder}."
                self._reporter.warn(f"{discarded} Use --resume to continue one instead.")
            for path in files:
                path.unlink()
        self._state["process"] = os.getpid()
        self._write()

    def check_inputs(self, **facts: Any) -> None:
        """Record what a run depends on; if it is resumed, compare that with what is recorded.

        Raises:
            UsageError: the earlier run had other inputs.
        """
        recorded = self._state["facts"]
        received = dict(_flatten("", json.loads(json.dumps(facts))))
        changed = [name for name, value in received.items() if name in recorded and recorded[name] != value]
        if changed:
            before, now = (
                ", ".join(f"{name} {_shorten(values[name])}" for name in changed[:NAMED])
                for values in (recorded, received)
            )
            rest = f" and {len(changed) - NAMED} more" if len(changed) > NAMED else ""
            raise UsageError(
                f"--resume continues an earlier run. Expected {before}{rest}. Received {now}{rest}. "
                "Give the same command as then, or start again without --resume."
            )
        recorded |= received
        self._write()

    def decide(self, name: str, choose: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return the recorded decision of this name; if there is none, choose and record it.

        A resumed run takes the earlier decision, whatever clock and disk would choose now.

        Args:
            name: such as "phase 1: plan".
            choose: returns the decision, as JSON.
        """
        if name not in self._state["decisions"]:
            self._state["decisions"][name] = choose()
            self._write()
        decision: dict[str, Any] = self._state["decisions"][name]
        return decision

    def open_checkpoint(self, name: str) -> PhaseCheckpoint:
        """Return the checkpoint of a phase, such as "phase 1, deeper"."""
        file = re.sub(r"\W+", "-", name) + ".npz"
        path = None if self._folder is None else self._folder / file
        return PhaseCheckpoint(path, resume=self._resume, reporter=self._reporter)

    def can_replace(self, out: Path) -> bool:
        """Tell whether `out` is what this very run delivered before it was stopped."""
        return bool(self._state["delivered"]) and self._state["delivered"] == _digest_manifest(out)

    def record_delivery(self, folder: Path) -> None:
        """Record that a finished run folder is about to be moved into place."""
        self._state["delivered"] = _digest_manifest(folder)
        self._write()

    def _read(self) -> None:
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
                f"{path} is damaged ({error}). Start again: the same command without --resume."
            ) from error

    def _write(self) -> None:
        if self._folder is None:
            return
        try:
            with make_temporary_file(self._folder, ".writing-run-") as temporary:
                temporary.write_text(json.dumps(self._state, indent=2), "utf-8")
                temporary.replace(self._folder / "run.json")
        except OSError as error:
            self._reporter.warn(
                f"The progress of this run cannot be saved to {self._folder} ({describe_os_error(error)}): "
                "if it is killed, it starts again from the beginning."
            )
            self._folder = None


def _flatten(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield dotted names and the values that are not tables.

    >>> dict(_flatten("", {"seed": 0, "phases": [{"epochs": 2}]}))
    {'seed': 0, 'phases.1.epochs': 2}
    """
    table = value
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        table = {str(number): item for number, item in enumerate(value, 1)}
    if not isinstance(table, dict):
        yield name, value
        return
    for key, item in table.items():
        yield from _flatten(f"{name}.{key}" if name else key, item)


def _read_owner(folder: Path) -> str:
    try:
        return str(json.loads((folder / "run.json").read_text("utf-8"))["process"])
    except (OSError, ValueError, KeyError):
        return "of an unknown number"


def _digest_manifest(run: Path) -> str:
    """Return the digest of a run folder's manifest, which holds the digests of its files."""
    try:
        return hashlib.sha256((run / "manifest.json").read_bytes()).hexdigest()
    except OSError:
        return ""


def _shorten(value: Any, most: int = 60) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= most else f"{text[:most]}..."
