"""Ctrl-C and SIGTERM: what they stop and when, and the stack that a thread's signal handlers use.

When OpenVINO first uses the processor, it gives the calling thread a signal stack that holds the processor's
registers and little else. Python's handler of Ctrl-C overflows it: the process ends with a segmentation
fault, and the trained weights are lost.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from regraft.system.console import Reporter

__all__ = ["get_exit_code", "interrupt_on_sigterm", "restore_signal_stack", "stop_after_step"]

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_last = [signal.SIGINT]  # the last one received; global, since signals belong to the process


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2) on Linux."""

    _fields_ = (("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def restore_signal_stack() -> Iterator[None]:
    """Give this thread back, after the block, the signal stack that it had before.

    Example:
        >>> with restore_signal_stack():
        ...     pass  # a library may set another one here
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


def get_exit_code() -> int:
    """Return the exit code of a process that was asked to stop: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + _last[0]


@contextmanager
def interrupt_on_sigterm() -> Iterator[None]:
    """Raise KeyboardInterrupt in the block on SIGTERM, as on Ctrl-C: half-written files are removed."""
    before = signal.signal(signal.SIGTERM, _stop_at_once)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextmanager
def stop_after_step(reporter: Reporter) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets; the second one raises KeyboardInterrupt."""
    event = threading.Event()

    def stop_gently(number: int, frame: object) -> None:
        _last[0] = signal.Signals(number)
        event.set()
        for signal_number in _STOPPING:
            signal.signal(signal_number, _stop_at_once)
        with suppress(RuntimeError):  # the signal came in the middle of printing
            reporter.info(
                "Stopping after this step, keeping the best model so far. A second signal stops at once."
            )

    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread
        return
    before = {signal_number: signal.signal(signal_number, stop_gently) for signal_number in _STOPPING}
    try:
        yield event
    finally:
        for signal_number, handler in before.items():
            signal.signal(signal_number, handler or signal.SIG_DFL)  # None for a handler that is not Python's


def _stop_at_once(number: int, frame: object) -> None:
    _last[0] = signal.Signals(number)
    raise KeyboardInterrupt
