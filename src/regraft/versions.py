"""The versions of everything that computes; read without importing it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterable
from contextlib import suppress

from regraft.backend import backend_name

__all__ = ["installed", "versions"]

PACKAGES = (
    "regraft", "keras", "tensorflow", "tensorflow-cpu", "jax", "openvino", "numpy", "pillow", "cykooz-resizer"
)  # fmt: skip


def versions() -> dict[str, str]:
    """By name, the interpreter, Keras' backend, and each package that is installed."""
    return {"python": platform.python_version(), "backend": backend_name(), **installed(PACKAGES)}


def installed(packages: Iterable[str]) -> dict[str, str]:
    """By name, the version of each of these packages that is installed."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
