"""A guarded process that decodes files: the parent's side and the child's side.

Decoders are C code that reads bytes of unknown origin. They run in a child process, so that one that hangs,
dies or asks for too much memory costs a single file. The child runs this module by `python -m` and is spoken
to over pipes. With `multiprocessing` a user's script would need an `if __name__ == "__main__"` guard, or a
process that holds a deep-learning runtime would be forked.

The child first writes `ready`. Then, for each file, it reads a JSON line `[path, size, digest, depth]`, or
`[null, size, n, depth]` and the n bytes of a file that is on no disk. It writes either a JSON line
`{"facts": [...], "bytes": n}` and n bytes of pixels, or `{"code": ..., "detail": ...}`.
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

from regraft.data.images.decode import DecodedImage, ImageFacts, decode, digest
from regraft.data.images.headers import MAX_PIXELS, read_limit_factor
from regraft.data.images.rejections import Rejection
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.errors import EnvironmentFault, describe_os_error
from regraft.system.imports import make_child_environment

__all__ = ["DecoderProcess"]

MODULE = "regraft.data.images.decoder_process"
TIMEOUT = 30.0  # seconds for one file
MEMORY = 480 * 2**20  # bytes of data for one process with Python: 64 million pixels need most of it
_READY = b"ready\n"


class DecoderProcess:
    """A process that decodes one file at a time, replaced when it hangs or dies.

    Args:
        timeout: seconds for one file.

    Raises:
        UsageError: the limit on pixels in the environment is not a number.
        EnvironmentFault: from `decode`, where no such process can be started.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        read_limit_factor()  # a mistake in it is reported here, and not lost in the child
        self.timeout = timeout
        self._process: _Process | None = None

    def decode(
        self, path: Path, expected: str, size: int, depth: int = FULL_DEPTH
    ) -> DecodedImage | Rejection:
        """Return the image of a file with the digest `expected`, or the reason why it is not used.

        `size` and `depth` are those of `decode.decode`.
        """
        return self._ask([os.fspath(path), size, expected, depth])

    def decode_bytes(self, data: bytes, size: int, depth: int = FULL_DEPTH) -> DecodedImage | Rejection:
        """Return the image that the bytes of a file hold, or the reason why it is not used; see `decode`."""
        return self._ask([None, size, len(data), depth], data)

    def start(self) -> None:
        """Start the process now, so that the first image does not wait for it.

        Raises:
            EnvironmentFault: it cannot be started.
        """
        self._process = self._process or _Process()

    def _ask(self, request: list[Any], data: bytes = b"") -> DecodedImage | Rejection:
        process = self._process = self._process or _Process()
        begun = time.monotonic()
        try:
            return process.ask(request, data, timeout=self.timeout)
        except (OSError, EOFError, ValueError):
            self.end()
        if time.monotonic() - begun >= self.timeout:
            return Rejection("decode_timeout", f"no result within {self.timeout:.0f} s")
        return Rejection("decoder_died", "the decoder's process ended on this file")

    def interrupt(self) -> None:
        """Kill the process at once; another thread may call this."""
        if (process := self._process) is not None:
            process.kill()

    def end(self) -> None:
        """End the process; the next `decode` starts another."""
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """A child process that is ready.

    A thread kills it when one reply takes too long, which ends the waiting for the reply. The
    thread lives as long as the child: starting one for each file would take longer than sending the pixels.
    """

    def __init__(self) -> None:
        try:
            self._process = subprocess.Popen(
                # -P: the current folder may hold a json.py
                [sys.executable, "-P", "-m", MODULE],
                # The child multiplies no matrices, and threads would count as memory.
                env={**make_child_environment(), "OPENBLAS_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libtiff prints messages about files
            )
        except OSError as error:
            raise EnvironmentFault(f"Cannot start a decoder process: {describe_os_error(error)}.") from error
        self._requests = cast("IO[bytes]", self._process.stdin)
        self._replies = cast("IO[bytes]", self._process.stdout)
        self._deadline: float | None = None  # None while it is idle
        self._ended = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        with self._time_limit(TIMEOUT):
            is_ready = self._replies.readline() == _READY
        if not is_ready:
            self.end()
            raise EnvironmentFault(f"The decoding process ({sys.executable} -m {MODULE}) does not start.")

    def ask(self, request: list[Any], data: bytes, *, timeout: float) -> DecodedImage | Rejection:
        """Send a request, and the bytes of a file with it, and return the reply.

        Raises:
            OSError, EOFError, ValueError: the process ended before it had replied.
        """
        with self._time_limit(timeout):
            self._requests.write(json.dumps(request).encode() + b"\n" + data)
            self._requests.flush()
            line = self._replies.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            head: dict[str, Any] = json.loads(line)
            if "code" in head:
                return Rejection(head["code"], head["detail"])
            body = self._replies.read(head["bytes"])
        if len(body) != head["bytes"]:
            raise EOFError
        size = request[1]
        pixels = np.frombuffer(body, np.uint8).reshape(size, size, 3)
        return DecodedImage(pixels, ImageFacts.from_json(head["facts"]))

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._ended.set()
        self._process.kill()
        self._process.communicate()
        self._watcher.join()

    @contextmanager
    def _time_limit(self, seconds: float) -> Iterator[None]:
        self._deadline = time.monotonic() + seconds
        try:
            yield
        finally:
            self._deadline = None

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            deadline = self._deadline
            if deadline is not None and time.monotonic() >= deadline:
                self._process.kill()
                return


def _decode_file(path: str, size: int, expected: str, depth: int = FULL_DEPTH) -> DecodedImage:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise Rejection("unreadable", describe_os_error(error)) from error
    if digest(data) != expected:
        raise Rejection("changed", "the file changed while the run was reading it")
    return decode(data, size, name=path, depth=depth)


def _serve(requests: IO[bytes], replies: IO[bytes]) -> None:
    """Answer requests until the pipe closes."""
    replies.write(_READY)
    replies.flush()
    for line in requests:
        path, size, expected, depth = json.loads(line)
        try:
            if path is None:
                decoded = decode(requests.read(expected), size, depth=depth)
            else:
                decoded = _decode_file(path, size, expected, depth)
        except Rejection as rejection:
            replies.write(json.dumps({"code": rejection.code, "detail": rejection.detail}).encode() + b"\n")
        else:
            body = decoded.pixels.tobytes()
            head = {"facts": decoded.facts.as_json(), "bytes": len(body)}
            replies.write(json.dumps(head).encode() + b"\n" + body)
        replies.flush()


def _limit_memory() -> None:
    """Limit the process to MEMORY, or more where larger images are allowed. Windows has no such limit."""
    factor = read_limit_factor()
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, int(MAX_PIXELS * factor))
    if sys.platform != "win32":
        import resource

        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        memory = int(MEMORY * max(1.0, factor))
        limit = memory if most == resource.RLIM_INFINITY else min(memory, most)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, most))


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent handles both; when it ends, the pipe closes
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # so that text printed by a C library cannot get between the replies
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # there is one process for each processor
    _limit_memory()
    _serve(sys.stdin.buffer, replies)
