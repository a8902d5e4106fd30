"""The stack on which a thread takes its signals, kept from a library that changes it.

When OpenVINO first uses the processor it gives the calling thread a stack for signals that holds the
processor's registers and next to nothing else. Python's own handler of Ctrl-C does not fit beside them: the
process ends with a segmentation fault, and all that was trained is lost.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["own_signal_stack"]


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
