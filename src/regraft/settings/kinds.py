"""Checks of settings in dataclasses: their kinds, and what a valid value is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from regraft.errors import UsageError, suggest_nearest

__all__ = ["Kinds", "build_settings", "check_kinds", "drop_none", "expect"]

T = TypeVar("T")
Kinds = Mapping[object, tuple[tuple[type, ...], str]]


def build_settings(kind: type[T], values: Any, source: str) -> T:
    """Make settings from the values of a table; UsageError, which names the `source`, for unknown keys."""
    expect(isinstance(values, dict), source, "a table", values)
    names = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise UsageError(f"{source}: unknown key {key}.{suggest_nearest(key, names)}")
    return kind(**values)


_KINDS: Kinds = {
    str: ((str,), "a text"),
    int: ((int,), "a whole number"),
    int | None: ((int, type(None)), "a whole number"),
    float: ((int, float), "a number"),
    float | None: ((int, float, type(None)), "a number"),
    tuple[str, ...]: ((tuple,), "a list of texts"),
    tuple[int, ...]: ((tuple,), "a list of whole numbers"),
}


def check_kinds(settings: object, prefix: str = "", kinds: Kinds = MappingProxyType({})) -> None:
    """Check each field's value against its annotation; lists, as TOML has them, become tuples.

    Args:
        settings: a dataclass, changed in place.
        prefix: of the fields' names in messages.
        kinds: the types that further annotations stand for, and their name in messages.

    Raises:
        UsageError: a value is of another kind.
    """
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(hint) is Literal:
            words = " or ".join(f'"{word}"' for word in get_args(hint))
            if value not in get_args(hint):
                close = suggest_nearest(str(value), get_args(hint))
                raise UsageError(f"{prefix}{name}: expected {words}. Received: {value}.{close}")
            continue
        if get_origin(hint) is tuple and isinstance(value, list):
            value = tuple(value)
            object.__setattr__(settings, name, value)
        types, words = kinds.get(hint) or _KINDS.get(hint, ((hint,), "a table"))
        valid = isinstance(value, types) and not isinstance(value, bool)
        if valid and isinstance(value, tuple):
            valid = all(isinstance(item, get_args(hint)[0]) for item in value)
        expect(valid and value not in (math.inf, -math.inf), prefix + name, words, value)


def expect(valid: bool, name: str, expected: str, received: object) -> None:
    """Raise UsageError for the setting of this name if it is not valid."""
    if not valid:
        raise UsageError(f"{name}: expected {expected}. Received: {received}.")


def drop_none(value: Any) -> Any:
    """Return nested tables and lists without the keys whose value is None, which TOML cannot hold."""
    if isinstance(value, dict):
        return {key: drop_none(inner) for key, inner in value.items() if inner is not None}
    return [drop_none(inner) for inner in value] if isinstance(value, tuple | list) else value
