"""A server in a process of its own, and raw requests to it."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CODE = """
import json, sys
from pathlib import Path
from regraft.server.run_server import run_server
from regraft.server.settings import Limits, ServerSettings
names, options, limits = map(json.loads, sys.argv[1:])
settings = ServerSettings(port=0, limits=Limits(**limits), **options)
run_server({name: Path(path) for name, path in names.items()}, settings)
if {"keras", "tensorflow", "jax", "torch", "sklearn", "pandas"} & set(sys.modules):
    sys.exit("a backend was imported")
"""
READY = re.compile(r"Serving .* at http://127\.0\.0\.1:(\d+)\.")


class ServerProcess:
    """A running server.

    Attributes:
        port: where it listens.
        process: the process.
    """

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process, self.port, self._log = process, port, log

    @property
    def log(self) -> str:
        """What it printed."""
        return self._log.read_text("utf-8")

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Return status, content and headers of an answer on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            content = response.read()
            names = {name.lower(): value for name, value in response.getheaders()}
            is_json = names.get("content-type") == "application/json"
            return response.status, json.loads(content) if is_json else content, names
        finally:
            connection.close()

    def predict(self, image: bytes, path: str = "/predict") -> tuple[int, Any, dict[str, str]]:
        return self.ask("POST", path, image, {"Content-Type": "application/octet-stream"})

    def refuse(self, *request: Any) -> tuple[int, str]:
        """Return status and code of a request that is refused; every refusal has the same shape."""
        status, content, _ = self.ask(*request)
        assert set(content) == {"error"}, content
        assert set(content["error"]) == {"code", "message", "request_id"}
        assert "Traceback" not in json.dumps(content)
        assert "/home" not in json.dumps(content)
        return status, content["error"]["code"]

    def send(self, *pieces: bytes, pause: float = 0.0) -> bytes:
        """Send bytes as they are, and return everything that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            received = b""
            while data := connection.recv(65536):
                received += data
        return received

    def count_open(self) -> int:
        """How many files and sockets the process has open."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def count_threads(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def measure_memory(self) -> int:
        """Bytes of memory that the process has, without its decoders."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@contextmanager
def serve(
    runs: dict[str, Path], folder: Path, *, wait: bool = True, **options: Any
) -> Iterator[ServerProcess]:
    """Serve runs until the end of the block; `limits` are those of `Limits`."""
    limits = options.pop("limits", {})
    names = json.dumps({name: str(path) for name, path in runs.items()})
    log = folder / f"server-{time.monotonic_ns()}.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, "-c", CODE, names, json.dumps(options), json.dumps(limits)],
            stderr=stream, stdout=stream, text=True,
        )  # fmt: skip
    try:
        port = _wait_for_port(process, log) if wait else 0
        yield ServerProcess(process, port, log)
    finally:
        process.kill()
        process.wait()


def _wait_for_port(process: subprocess.Popen[str], log: Path) -> int:
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if match := READY.search(log.read_text("utf-8")):
            return int(match[1])
        time.sleep(0.02)
    raise AssertionError(f"the server does not start: {log.read_text('utf-8')}")
