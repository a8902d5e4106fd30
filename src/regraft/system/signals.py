"""Ctrl-C and SIGTERM: what they end and when; the stack on which a thread takes them.

When OpenVINO first uses the processor it gives the calling thread a stack for signals that holds the
processor's registers and next to nothing else. Python's own handler of Ctrl-C does not fit beside them: the
process ends with a segmentation fault, and all that was trained is lost.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from regraft.system.console import Reporter

__all__ = ["exit_code", "finish_step", "own_signal_stack", "terminable"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_last = [signal.SIGINT]  # the last that came; signals belong to a process, and so does this


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def own_signal_stack() -> Iterator[None]:
    """After the block this thread takes signals where it did before: on its usual stack, mostly.

    Example:
        >>> with own_signal_stack():
        ...     pass  # what a library does here is undone
    """
    if sys.platform != "linux":
        yield
        return
    change = ctypes.CDLL(None).sigaltstack
    before = _Stack()
    change(None, ctypes.byref(before))
    try:
        yield
    finally:
        change(ctypes.byref(before), None)


def exit_code() -> int:
    """What a process that was asked to stop ends with: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _last[0]


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, by KeyboardInterrupt: whatever is half written is removed."""
    before = signal.signal(signal.SIGTERM, _at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def finish_step(reporter: Reporter) -> Iterator[threading.Event]:
    """The first Ctrl-C or SIGTERM sets the event and lets the step finish; the second one stops at once."""
    event = threading.Event()

    def first(number: int, frame: object) -> None:
        _last[0] = signal.Signals(number)
        event.set()
        for each in _STOPPING:
            signal.signal(each, _at_once)
        with suppress(RuntimeError):  # somebody is in the middle of printing
            reporter.info("Stopping after this step, keeping the best model so far. Once more stops at once.")

    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread
        return
    before = {each: signal.signal(each, first) for each in _STOPPING}
    try:
        yield event
    finally:
        for each, handler in before.items():
            signal.signal(each, handler or signal.SIG_DFL)  # None for one that is not Python's


def _at_once(number: int, frame: object) -> None:
    _last[0] = signal.Signals(number)
    raise KeyboardInterrupt
