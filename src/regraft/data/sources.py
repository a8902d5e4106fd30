"""Where a data set comes from, as a recipe names it: paths and columns, or that only Python has it."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from regraft.data.tables import Columns
from regraft.errors import UsageError
from regraft.recipe import Recipe

__all__ = ["IN_MEMORY_PREFIX", "HasSource", "Source", "is_in_memory", "name_data", "require_on_disk"]

IN_MEMORY_PREFIX = "python:"  # before the name of something that was passed in from Python


@dataclass(frozen=True)
class Source:
    """The fields of a `Recipe` that name a data set.

    Attributes:
        data: the path of a folder or table; or `python:` and the kind of data, which then only Python has.
        image, target, group, split, weight, separator, root, slice: of a table, as in a `Recipe`.
    """

    data: str
    image: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    group: str = ""
    split: str = ""
    weight: str = ""
    separator: str = ""
    root: str = ""
    slice: tuple[str, ...] = ()

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> Source:
        """Return the source of a folder; its path is absolute."""
        return cls(_resolve(path))

    @classmethod
    def from_table(cls, table: Any, columns: Columns, root: str | os.PathLike[str] | None) -> Source:
        """Return the source of a table. Arguments are those of `list_rows`."""
        data = _resolve(table) if isinstance(table, str | Path) else f"{IN_MEMORY_PREFIX}table"
        settings: dict[str, Any] = {
            name: "" if value is None else value for name, value in asdict(columns).items()
        }
        return cls(data, **settings, root="" if root is None else _resolve(root))

    @classmethod
    def from_memory(cls, kind: str) -> Source:
        """Return the source of data that no path names.

        >>> Source.from_memory("arrays").data
        'python:arrays'
        """
        return cls(IN_MEMORY_PREFIX + kind)


class HasSource(Protocol):
    """A catalog."""

    @property
    def source(self) -> Source:
        """Where it was read from."""


def is_in_memory(name: str | os.PathLike[str]) -> bool:
    """Tell whether a name in a recipe stands for something that was passed in from Python.

    >>> is_in_memory("python:arrays"), is_in_memory("photos")
    (True, False)
    """
    return os.fspath(name).startswith(IN_MEMORY_PREFIX)


def name_data(data: HasSource | str | os.PathLike[str], recipe: Recipe) -> Recipe:
    """Return the recipe with the name of its data: a path as it is, or the source of a catalog.

    >>> name_data("photos", Recipe()).data
    'photos'
    """
    if isinstance(data, str | os.PathLike):
        return replace(recipe, data=os.fspath(data))
    return replace(recipe, **asdict(data.source))


def require_on_disk(data: str | os.PathLike[str]) -> None:
    """Raise a UsageError if a recipe's data are those of a run in Python, which only Python can pass in."""
    if is_in_memory(data):
        raise UsageError(
            "data: this recipe was written for data that were passed in from Python "
            f"({os.fspath(data).removeprefix(IN_MEMORY_PREFIX)}). Pass them in again: "
            "train(data, recipe, out). Or name a folder or table: regraft train DATA --recipe FILE."
        )


def _resolve(path: str | os.PathLike[str]) -> str:
    return os.fspath(Path(path).resolve())
