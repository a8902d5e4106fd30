"""Where a data set comes from, as a recipe names it: paths and columns, or that only Python has it."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["IN_MEMORY_PREFIX", "Source", "is_in_memory"]

IN_MEMORY_PREFIX = "python:"  # before the name of something that was passed in from Python


@dataclass(frozen=True)
class Source:
    """The fields of a `Recipe` that name a data set.

    Attributes:
        data: the path of a folder or table; or `python:` and the kind of data, which then only Python has.
        image, target, group, split, separator, root: of a table, as in a `Recipe`.
    """

    data: str
    image: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    separator: str = ""
    root: str = ""


def is_in_memory(name: str | os.PathLike[str]) -> bool:
    """Tell whether a name in a recipe stands for something that was passed in from Python.

    >>> is_in_memory("python:arrays"), is_in_memory("photos")
    (True, False)
    """
    return os.fspath(name).startswith(IN_MEMORY_PREFIX)
