"""Amounts of time and of bytes, as people write them in options."""

from __future__ import annotations

import re

from regraft.errors import UsageError

__all__ = ["parse_duration", "parse_size"]

_SECONDS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}
_BYTES = {"kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12}


def parse_duration(text: str) -> float:
    """Return the seconds of a text such as "90", "90s", "10min" or "1h".

    >>> parse_duration("10min")
    600.0
    """
    return _parse_amount(text, _SECONDS, "a time such as 90s, 10min or 1h", above=0)


def parse_size(text: str) -> float:
    """Return the bytes of a text such as "500MB", "10GB" or "0".

    >>> parse_size("10GB")
    10000000000.0
    """
    return _parse_amount(text, _BYTES, "a size such as 500MB or 10GB")


def _parse_amount(text: str, units: dict[str, float], expected: str, above: float = -1) -> float:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})?", text.strip().lower())
    if not match or float(match[1]) <= above:
        raise UsageError(f"Expected {expected}. Received: {text}.")
    return float(match[1]) * units.get(match[2], 1.0)
