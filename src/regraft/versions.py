"""The versions of everything that computes; read without importing it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["backend_name", "installed", "keras_home", "versions"]

PACKAGES = (
    "regraft", "keras", "tensorflow", "tensorflow-cpu", "jax", "openvino", "numpy", "pillow", "cykooz-resizer"
)  # fmt: skip


def keras_home() -> Path:
    """Where Keras keeps its settings and what it downloads: $KERAS_HOME, else ~/.keras."""
    home = os.environ.get("KERAS_HOME")
    return Path(home) if home else Path.home() / ".keras"


def backend_name() -> str:
    """The backend that Keras has; where it is not imported, the one that it will have.

    >>> backend_name() in ("tensorflow", "jax", "torch", "openvino", "numpy")
    True
    """
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "backend"):
        return str(keras.backend.backend())
    if named := os.environ.get("KERAS_BACKEND"):
        return named
    try:
        return str(json.loads((keras_home() / "keras.json").read_text("utf-8")).get("backend", "tensorflow"))
    except (OSError, ValueError, AttributeError):  # Keras passes over such a file, too
        return "tensorflow"


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
