"""Values that belong to one process: a fork and a pickle leave them behind.

A process forked from another inherits its objects, but none of the threads that run them, so that a compiled
network would never answer there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

__all__ = ["ProcessCache"]

T = TypeVar("T")


class ProcessCache:
    """Values by key, each made once in a process, by one thread at a time.

    Example:
        >>> cache = ProcessCache()
        >>> cache.get("answer", lambda: 42), "answer" in cache
        (42, True)
    """

    def __init__(self) -> None:
        self._process = os.getpid()
        self._lock = threading.RLock()  # making one value may need another
        self._values: dict[Hashable, Any] = {}

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the value of a key; make it if this process has none yet."""
        self._leave_parent()
        with self._lock:
            if key not in self._values:
                self._values[key] = make()
            value: T = self._values[key]
            return value

    def __contains__(self, key: Hashable) -> bool:
        self._leave_parent()
        return key in self._values

    def __reduce__(self) -> tuple[type[ProcessCache], tuple[()]]:
        return ProcessCache, ()

    def _leave_parent(self) -> None:
        """Start afresh in a forked process, where a lock may be held by a thread that is not there."""
        if self._process != os.getpid():
            self.__init__()  # type: ignore[misc]
