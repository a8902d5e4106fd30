"""HEIC and HEIF, the photographs of most phones: decoded where `pillow-heif` is installed."""

from __future__ import annotations

import importlib.util
from functools import cache

__all__ = ["available", "register"]


@cache
def available() -> bool:
    """Whether the plugin is installed. Asking does not import it."""
    return importlib.util.find_spec("pillow_heif") is not None


@cache
def register() -> None:
    """Teach Pillow the format; only a file of that format is worth the import."""
    import pillow_heif

    pillow_heif.register_heif_opener()
