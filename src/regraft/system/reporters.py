"""Reporters for programs and scripts: JSON lines on standard output, or warnings alone."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from regraft.system.console import SILENT, Advance, Reporter

__all__ = ["JsonReporter", "QuietReporter"]

INTERVAL = 1.0  # seconds between two events of one progress bar


class QuietReporter(Reporter):
    """Show warnings and errors alone."""

    def info(self, text: str) -> None:
        """Show nothing."""

    def track(
        self, title: str, total: int | None, *, unit: str = "images"
    ) -> AbstractContextManager[Advance]:
        """Return a context that shows no progress."""
        return SILENT.track(title, total, unit=unit)


class JsonReporter(Reporter):
    """Write every message, stage and progress as a JSON object, one a line, to standard output.

    Each has the key `event`: "message", "warning", "stage", "progress", and what the caller emits. Errors
    that end the program go to standard error as always.
    """

    def info(self, text: str) -> None:
        """Write a message."""
        self.emit("message", text=text)

    def warn(self, text: str) -> None:
        """Write a warning."""
        self.emit("warning", text=text)

    def start_stage(self, name: str) -> None:
        """Write that a stage of a run has begun."""
        self.emit("stage", name=name, state="started")

    def end_stage(self, name: str, seconds: float) -> None:
        """Write that a stage of a run has ended."""
        self.emit("stage", name=name, state="done", seconds=round(seconds, 3))

    @contextmanager
    def track(self, title: str, total: int | None, *, unit: str = "images") -> Iterator[Advance]:
        """Write the progress of some work at its start, each second, and at its end."""
        done, last = 0, time.monotonic()

        def write() -> None:
            self.emit("progress", title=title, done=done, total=total, unit=unit)

        def advance(units: int) -> None:
            nonlocal done, last
            done += units
            if time.monotonic() - last >= INTERVAL:
                last = time.monotonic()
                write()

        write()
        yield advance
        write()

    def emit(self, event: str, **values: Any) -> None:
        """Write an event; every character outside ASCII becomes an escape sequence.

        >>> JsonReporter().emit("message", text="größe")
        {"event": "message", "text": "gr\\u00f6\\u00dfe"}
        """
        print(json.dumps({"event": event, **values}), flush=True)
