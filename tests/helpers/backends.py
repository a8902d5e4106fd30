"""The environment of a process that runs Keras on another backend than this one."""

from __future__ import annotations

import importlib.util
import os

# Code that runs once or twice is compiled without optimisation, which takes most of the time.
_FAST_TO_COMPILE = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"


def make_environment(backend: str) -> dict[str, str]:
    """Return this process' environment with Keras' backend, and JAX told to compile quickly."""
    return {**os.environ, "KERAS_BACKEND": backend, "XLA_FLAGS": _FAST_TO_COMPILE}


def make_light_environment() -> dict[str, str]:
    """Return an environment whose backend imports in a second instead of five, where it is installed."""
    return make_environment("openvino" if importlib.util.find_spec("openvino") else "tensorflow")
