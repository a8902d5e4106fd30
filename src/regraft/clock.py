"""Seconds a stage of a run, in the order in which they ran."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

__all__ = ["Clock"]


@dataclass
class Clock:
    """Times the blocks that it is called for.

    Example:
        >>> clock = Clock()
        >>> with clock("list"):
        ...     pass
        >>> list(clock.seconds)
        ['list']
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - begun
