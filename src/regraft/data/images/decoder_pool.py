"""Decoding ahead of whoever wants the pixels: many files, in order, by guarded child processes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from regraft.data.images.decode import Decoded
from regraft.data.images.decoder_process import Child
from regraft.data.images.rejections import Refusal
from regraft.errors import EnvironmentFault

__all__ = ["DecodeAhead", "Job"]

BUFFER_BYTES = 128 * 2**20  # decoded pixels that may wait for their consumer


class Job(NamedTuple):
    """One file to decode; `digest` is what its content was when it was listed."""

    path: Path
    digest: str


class DecodeAhead:
    """Decoded images in the order of `jobs`; the work begins at once and runs ahead of the iteration.

    Args:
        jobs: the files.
        size: side of the decoded squares in pixels.
        workers: child processes; None for one a processor.

    Iterating yields `Decoded` or `Refusal`, one for each job, and raises nothing for a bad file; it raises
    `EnvironmentFault` where no child can be started. `close()` ends the children at any time, and leaving a
    `with` block does it too.
    """

    def __init__(self, jobs: Sequence[Job], size: int, *, workers: int | None = None) -> None:
        self.jobs = list(jobs)
        self.size = size
        self._ahead = max(64, BUFFER_BYTES // (size * size * 3))
        self._next_job = 0
        self._consumed = 0
        self._results: dict[int, Decoded | Refusal | EnvironmentFault] = {}
        self._changed = threading.Condition()
        self._closed = False
        count = min(workers or os.cpu_count() or 1, max(1, len(self.jobs)))
        self._children = [Child() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._serve, args=(child,), daemon=True) for child in self._children
        ]
        for thread in self._threads if self.jobs else []:
            thread.start()

    def __enter__(self) -> DecodeAhead:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[Decoded | Refusal]:
        while self._consumed < len(self.jobs):
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._consumed in self._results)
                if self._closed:
                    raise ValueError("The decoding was closed before all of it was read.")
                result = self._results.pop(self._consumed)
                self._consumed += 1
                self._changed.notify_all()
            if isinstance(result, EnvironmentFault):
                raise result
            yield result

    def peek(self, number: int) -> Decoded | Refusal:
        """Wait for the result of a job near the front, which iterating yields all the same.

        Raises:
            IndexError: it is further away than decoding runs ahead.
            EnvironmentFault: no child can be started.
        """
        if not self._consumed <= number < min(self._consumed + self._ahead, len(self.jobs)):
            raise IndexError(f"job {number} is out of reach")
        with self._changed:
            self._changed.wait_for(lambda: self._closed or number in self._results)
            result = self._results[number]
        if isinstance(result, EnvironmentFault):
            raise result
        return result

    @property
    def reach(self) -> int:
        """How many jobs are decoded ahead of the iteration, at most."""
        return self._ahead

    def close(self) -> None:
        """Stop decoding and end the child processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for child in self._children:
            child.interrupt()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _take(self) -> int | None:
        """The next job's number, once there is room for its result; None when there is nothing to do."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed
                    or self._next_job >= len(self.jobs)
                    or self._next_job - self._consumed < self._ahead
                )
            )
            if self._closed or self._next_job >= len(self.jobs):
                return None
            self._next_job += 1
            return self._next_job - 1

    def _serve(self, child: Child) -> None:
        while (number := self._take()) is not None:
            try:
                result: Decoded | Refusal | EnvironmentFault = child.decode(*self.jobs[number], self.size)
            except EnvironmentFault as fault:
                result = fault
            with self._changed:
                self._results[number] = result
                self._changed.notify_all()
        child.end()
