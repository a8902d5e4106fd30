"""What comes over the network: whole, or not at all."""

from __future__ import annotations

import http.client
import queue
import threading
import urllib.request
from typing import IO

from regraft.console import Reporter

__all__ = ["FAULTS", "receive", "unreachable"]

REACH_SECONDS = 6.0  # how long a server has to begin its answer
STALL_SECONDS = 8.0  # how long it may fall silent
BLOCK = 10**6  # bytes

FAULTS = (OSError, ValueError, http.client.HTTPException)  # what goes wrong on the way


def unreachable(url: str) -> str | None:
    """Why `url` cannot be had, or None. A thread, since looking a name up knows no timeout."""
    answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=REACH_SECONDS):
                answers.put(None)
        except FAULTS as fault:
            answers.put(str(fault) or type(fault).__name__)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return answers.get(timeout=REACH_SECONDS)
    except queue.Empty:
        return f"no answer within {REACH_SECONDS:g} seconds"


def receive(url: str, file: IO[bytes], *, reporter: Reporter) -> None:
    """Write what lies at `url` to a file; `reporter` shows how far it is.

    Raises:
        OSError, ValueError, http.client.HTTPException: it cannot be had, or not all of it.
    """
    with urllib.request.urlopen(url, timeout=STALL_SECONDS) as response:
        size = response.headers.get("Content-Length")
        blocks = None if size is None else -(-int(size) // BLOCK)
        with reporter.track("Downloading", blocks, unit="MB") as advance:
            while block := response.read(BLOCK):
                file.write(block)
                advance(1)
    if size is not None and file.tell() != int(size):
        raise OSError(f"the connection broke off after {file.tell():,} of {int(size):,} bytes")
