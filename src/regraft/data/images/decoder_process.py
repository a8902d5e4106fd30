"""One guarded process that decodes: both ends of the conversation.

A decoder is C code reading a stranger's bytes. It runs in a child: one that hangs, dies or asks for too much
memory costs one file.
A child is a plain `python -m` of this module spoken to over pipes, not `multiprocessing`, so that a
user's script needs no `if __name__ == "__main__"` guard and nothing is forked from a process that holds a
deep-learning runtime.

The child says `ready`. Then, one file at a time: a JSON line `[path, size, digest]` in; a JSON line
`{"facts": [...], "bytes": n}` and n bytes of pixels out, or `{"code": ..., "detail": ...}`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from PIL import AvifImagePlugin, Image

from regraft.data.images.decode import Decoded, Facts, decode, digest
from regraft.data.images.headers import MAX_PIXELS, allowance
from regraft.data.images.rejections import Refusal
from regraft.errors import EnvironmentFault
from regraft.system.imports import child_environment

__all__ = ["Child"]

MODULE = "regraft.data.images.decoder_process"
TIMEOUT = 30.0  # seconds for one file
MEMORY = 480 * 2**20  # bytes of data for one process, Python and all: 64 million pixels need most of it
_READY = b"ready\n"


class Child:
    """A process that decodes one file at a time, replaced when it hangs or dies.

    Raises:
        UsageError: how many pixels a picture may have is set to no number.
        EnvironmentFault: from `decode`, where no such process can be started.
    """

    def __init__(self) -> None:
        allowance()  # here, where somebody hears of a mistake, and not in the process
        self._process: _Process | None = None

    def decode(self, path: Path, expected: str, size: int) -> Decoded | Refusal:
        """The picture in a file whose content has the digest `expected`, or why it is not used."""
        process = self._process = self._process or _Process()
        begun = time.monotonic()
        try:
            return process.ask(path, expected, size)
        except (OSError, EOFError, ValueError):
            self.end()
        if time.monotonic() - begun >= TIMEOUT:
            return Refusal("decode_timeout", f"no result within {TIMEOUT:.0f} s")
        return Refusal("decoder_died", "the decoder's process ended on this file")

    def interrupt(self) -> None:
        """From another thread: whatever the process is doing, it ends now."""
        if (process := self._process) is not None:
            process.kill()

    def end(self) -> None:
        """End the process; the next `decode` starts another."""
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """A child that has said it is ready.

    A thread kills it when one answer takes longer than TIMEOUT: then what waits for the answer ends. The
    thread lives as long as the child, for one a file would take longer than the pipe does.
    """

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                # -P: a folder of images may hold a json.py
                [sys.executable, "-P", "-m", MODULE],
                # Nothing is multiplied there, and threads count as memory.
                env={**child_environment(), "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff prints what it thinks of a file; verdicts are ours
            )
        except OSError as error:
            raise EnvironmentFault(
                f"No process for decoding can be started: {error.strerror or error}."
            ) from error
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._asked: float | None = None  # when what it works on was asked
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        with self._in_time():
            ready = self._replies.readline() == _READY
        if not ready:
            self.end()
            raise EnvironmentFault(f"The decoding process ({sys.executable} -m {MODULE}) does not start.")

    def ask(self, path: Path, expected: str, size: int) -> Decoded | Refusal:
        """Its answer.

        Raises:
            OSError, EOFError, ValueError: it ended in the middle.
        """
        with self._in_time():
            self._requests.write(json.dumps([os.fspath(path), size, expected]).encode() + b"\n")
            self._requests.flush()
            line = self._replies.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            head: dict[str, Any] = json.loads(line)
            if "code" in head:
                return Refusal(head["code"], head["detail"])
            body = self._replies.read(head["bytes"])
        if len(body) != head["bytes"]:
            raise EOFError
        pixels = np.frombuffer(body, np.uint8).reshape(size, size, 3)
        return Decoded(pixels, Facts.from_json(head["facts"]))

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._over.set()
        self._process.kill()
        self._process.communicate()
        self._watcher.join()

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        self._asked = time.monotonic()
        try:
            yield
        finally:
            self._asked = None

    def _watch(self) -> None:
        while not self._over.wait(TIMEOUT / 30):
            asked = self._asked
            if asked is not None and time.monotonic() - asked >= TIMEOUT:
                self._process.kill()
                return


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
    replies.write(_READY)
    replies.flush()
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


def _limit() -> None:
    """More than MEMORY, or than larger pictures need, is not given. Windows has no such limit."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, int(MAX_PIXELS * allowance()))
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        memory = int(MEMORY * max(1.0, allowance()))
        limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


if __name__ == "__main__":
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)  # both are the parent's to handle; without it the pipe closes
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a C library prints does not end up between the answers
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is a process a processor
    _limit()
    _work(sys.stdin.buffer, answers)
