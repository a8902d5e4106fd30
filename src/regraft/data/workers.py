"""Decoding in guarded child processes, ahead of whoever wants the pixels.

A decoder is C code reading a stranger's bytes. It runs in a child: one that hangs or dies costs one file.
The children are plain `python -m regraft.data.workers` processes spoken to over pipes, not
`multiprocessing`, so that a user's script needs no `if __name__ == "__main__"` guard and nothing is forked
from a process that holds a deep-learning runtime.

The conversation, one file at a time: a JSON line `[path, size, digest]` in; a JSON line
`{"facts": [...], "bytes": n}` and n bytes of pixels out, or `{"code": ..., "detail": ...}`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from regraft.data.catalog import Catalog
from regraft.data.decode import Decoded, Facts, Refusal, decode, digest

__all__ = ["DecodeAhead", "Job", "jobs_for"]

TIMEOUT = 30.0  # seconds for one file
BUFFER_BYTES = 512 * 2**20  # decoded pixels that may wait for their consumer


class Job(NamedTuple):
    """One file to decode; `digest` is what its content was when it was listed."""

    path: Path
    digest: str


def jobs_for(catalog: Catalog, digests: Sequence[str]) -> list[Job]:
    """The files to decode for some contents, one for each."""
    where = {sample.digest: catalog.root / sample.path for sample in catalog.samples}
    return [Job(where[digest], digest) for digest in digests]


class DecodeAhead:
    """Decoded images in the order of `jobs`; the work begins at once and runs ahead of the iteration.

    Args:
        jobs: the files.
        size: side of the decoded squares in pixels.
        workers: child processes; None for one a processor.

    Iterating yields `Decoded` or `Refusal`, one for each job, and raises nothing for a bad file.
    `close()` ends the children at any time; leaving a `with` block does it too.
    """

    def __init__(self, jobs: Sequence[Job], size: int, *, workers: int | None = None) -> None:
        self.jobs = list(jobs)
        self.size = size
        self._ahead = max(64, BUFFER_BYTES // (size * size * 3))
        self._next_job = 0
        self._consumed = 0
        self._results: dict[int, Decoded | Refusal] = {}
        self._changed = threading.Condition()
        self._closed = False
        count = min(workers or os.cpu_count() or 1, max(1, len(self.jobs)))
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(count)]
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
                self._changed.wait_for(lambda: self._consumed in self._results)
                result = self._results.pop(self._consumed)
                self._consumed += 1
                self._changed.notify_all()
            yield result

    def close(self) -> None:
        """Stop decoding and end the child processes."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _take(self) -> int | None:
        """The next job's number, once there is room for its result; None when there is nothing to do."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._closed
                or self._next_job >= len(self.jobs)
                or self._next_job - self._consumed < self._ahead
            )
            if self._closed or self._next_job >= len(self.jobs):
                return None
            self._next_job += 1
            return self._next_job - 1

    def _serve(self) -> None:
        child = _Child()
        while (number := self._take()) is not None:
            result = child.decode(self.jobs[number], self.size)
            with self._changed:
                self._results[number] = result
                self._changed.notify_all()
        child.kill()


class _Child:
    """One worker process, replaced when it hangs or dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def decode(self, job: Job, size: int) -> Decoded | Refusal:
        process = self._process = self._process or _start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - for the type checker
        try:
            process.stdin.write(json.dumps([os.fspath(job.path), size, job.digest]).encode() + b"\n")
            process.stdin.flush()
            if not select.select([process.stdout], [], [], TIMEOUT)[0]:
                raise TimeoutError
            return _receive(process.stdout, size)
        except TimeoutError:
            self.kill()
            return Refusal("decode_timeout", f"no result within {TIMEOUT:.0f} s")
        except (OSError, EOFError):
            self.kill()
            return Refusal("decoder_died", "the decoder's process ended on this file")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "regraft.data.workers"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # libtiff prints what it thinks of a file; verdicts are ours
    )


def _receive(stream: IO[bytes], size: int) -> Decoded | Refusal:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    head: dict[str, Any] = json.loads(line)
    if "code" in head:
        return Refusal(head["code"], head["detail"])
    body = stream.read(head["bytes"])
    if len(body) != head["bytes"]:
        raise EOFError
    pixels = np.frombuffer(body, np.uint8).reshape(size, size, 3)
    return Decoded(pixels, Facts.from_json(head["facts"]))


def _decode_file(path: str, size: int, expected: str) -> Decoded:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Refusal("unreadable", error.strerror or str(error)) from error
    if digest(data) != expected:
        raise Refusal("changed", "the file changed while the run was reading it")
    return decode(data, size, name=path)


def _work(requests: IO[bytes], replies: IO[bytes]) -> None:
    """The child's whole life: answer requests until the pipe closes."""
    for line in requests:
        try:
            decoded = _decode_file(*json.loads(line))
        except Refusal as refusal:
            replies.write(json.dumps({"code": refusal.code, "detail": refusal.detail}).encode() + b"\n")
        else:
            body = decoded.pixels.tobytes()
            head = {"facts": decoded.facts.as_json(), "bytes": len(body)}
            replies.write(json.dumps(head).encode() + b"\n" + body)
        replies.flush()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _work(sys.stdin.buffer, sys.stdout.buffer)
