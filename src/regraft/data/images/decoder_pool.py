"""Decode many files in order, in guarded processes that run ahead of the reader."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from regraft.data.images.decode import DecodedImage
from regraft.data.images.decoder_process import DecoderProcess
from regraft.data.images.rejections import Rejection
from regraft.data.images.sample_range import FULL_DEPTH

__all__ = ["DecodingPool", "Job"]

BUFFER_BYTES = 128 * 2**20


class Job(NamedTuple):
    """A file to decode, and the digest that its content had when it was listed."""

    path: Path
    digest: str


class _Failure(NamedTuple):
    """The error that ended the decoding of a file, to be raised in the reader's thread."""

    error: Exception


class DecodingPool:
    """A pool of processes that decodes `jobs` in their order. It starts at once and runs ahead of the reader.

    Iterating yields a `DecodedImage` or a `Rejection` for each job. A bad file raises nothing; an
    `EnvironmentFault` is raised where no process can be started, and any other error as it is. `close()`, or
    the end of a `with` block, ends the processes.

    Args:
        jobs: the files.
        size: side of the decoded squares in pixels.
        workers: number of processes; None for one per processor.
        buffer_bytes: how many bytes of pixels may wait for the reader; 64 images may at any size.
        depth: how many bits of 16-bit samples are used.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        size: int,
        *,
        workers: int | None = None,
        buffer_bytes: int = BUFFER_BYTES,
        depth: int = FULL_DEPTH,
    ) -> None:
        self.jobs = list(jobs)
        self.size = size
        self.depth = depth
        self.reach = max(64, buffer_bytes // (size * size * 3))  # jobs decoded ahead of the reader, at most
        self._next_job = 0
        self._read_count = 0
        self._results: dict[int, DecodedImage | Rejection | _Failure] = {}
        self._changed = threading.Condition()
        self._is_closed = False
        count = min(workers or os.cpu_count() or 1, max(1, len(self.jobs)))
        self._processes = [DecoderProcess() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._run, args=(process,), daemon=True) for process in self._processes
        ]
        for thread in self._threads if self.jobs else []:
            thread.start()

    def __enter__(self) -> DecodingPool:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.jobs)

    def __iter__(self) -> Iterator[DecodedImage | Rejection]:
        while self._read_count < len(self.jobs):
            with self._changed:
                self._changed.wait_for(lambda: self._is_closed or self._read_count in self._results)
                if self._is_closed:
                    raise ValueError("The decoding was closed before all of it was read.")
                result = self._results.pop(self._read_count)
                self._read_count += 1
                self._changed.notify_all()
            if isinstance(result, _Failure):
                raise result.error
            yield result

    def peek(self, number: int) -> DecodedImage | Rejection:
        """Wait for the result of one of the next `reach` jobs and return it; iterating still yields it later.

        Raises:
            IndexError: the job is further away.
            EnvironmentFault: no process can be started.
        """
        if not self._read_count <= number < min(self._read_count + self.reach, len(self.jobs)):
            raise IndexError(f"job {number} is out of reach")
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or number in self._results)
            result = self._results[number]
        if isinstance(result, _Failure):
            raise result.error
        return result

    def close(self) -> None:
        """Stop decoding and end the processes."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for process in self._processes:
            process.interrupt()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _take_job(self) -> int | None:
        """Return the number of the next job, once there is room for its result; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_over or self._next_job - self._read_count < self.reach)
            if self._is_over:
                return None
            self._next_job += 1
            return self._next_job - 1

    @property
    def _is_over(self) -> bool:
        return self._is_closed or self._next_job >= len(self.jobs)

    def _run(self, process: DecoderProcess) -> None:
        while (number := self._take_job()) is not None:
            result: DecodedImage | Rejection | _Failure
            try:
                result = process.decode(*self.jobs[number], self.size, self.depth)
            except Exception as error:  # the reader waits for a result, and would wait for ever
                result = _Failure(error)
            with self._changed:
                self._results[number] = result
                self._changed.notify_all()
        process.end()
