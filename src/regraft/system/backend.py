"""Keras' backend: which one runs, who chose it, what it can do; and the versions of installed packages.

The program's commands choose OpenVINO where nothing trains by gradient: importing it takes a second,
importing TensorFlow takes five. A choice of the user always wins: `KERAS_BACKEND`, a `keras.json` that names
another backend than Keras writes there by default, or Keras imported already. In Python nothing is chosen:
the process is the user's.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from regraft.errors import EnvironmentFault
from regraft.system.imports import find_preloaded_allocator, import_openvino, skip_other_backends

if TYPE_CHECKING:
    import keras

__all__ = [
    "choose_openvino",
    "claim_backend",
    "compute_initial_values",
    "get_backend_name",
    "get_installed_versions",
    "get_keras_home",
    "get_versions",
    "has_chosen_openvino",
    "require_backend",
    "require_gradients",
    "restart_on_tensorflow",
]

DEFAULT = "tensorflow"  # what Keras uses, and writes into keras.json, unless told otherwise
GRADIENTS = ("tensorflow", "jax", "torch")
BACKENDS = (*GRADIENTS, "openvino", "numpy")
PACKAGES = (
    "regraft", "keras", "tensorflow", "tensorflow-cpu", "jax", "openvino", "numpy", "pillow", "cykooz-resizer"
)  # fmt: skip
NOT_AFTER_FORK = ("tensorflow", "jax")  # whose threads a forked process lacks, so that it waits for ever
_chosen = False  # by `choose_openvino`; global, since a process has one backend
_owner: int | None = None  # the process that computes with Keras' backend; a forked one inherits its parent's


def get_keras_home() -> Path:
    """Return the folder of Keras' settings and downloads: $KERAS_HOME, else ~/.keras."""
    home = os.environ.get("KERAS_HOME")
    return Path(home) if home else Path.home() / ".keras"


def get_backend_name() -> str:
    """Return the name of Keras' backend, or of the one it will have if it is not imported yet.

    >>> get_backend_name() in BACKENDS
    True
    """
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "backend"):
        return str(keras.backend.backend())
    if name := os.environ.get("KERAS_BACKEND"):
        return name
    try:
        return str(json.loads((get_keras_home() / "keras.json").read_text("utf-8")).get("backend", DEFAULT))
    except (OSError, ValueError, AttributeError):  # Keras ignores such a file, too
        return DEFAULT


def choose_openvino() -> None:
    """Make Keras run on OpenVINO in this process, unless somebody else chose a backend.

    Only regraft's own programs call this, before Keras is imported.
    """
    global _chosen  # noqa: PLW0603
    free = "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ and get_backend_name() == DEFAULT
    if free and importlib.util.find_spec("openvino") and not find_preloaded_allocator():
        os.environ["KERAS_BACKEND"] = "openvino"
        skip_other_backends()
        _chosen = True


def has_chosen_openvino() -> bool:
    """Return whether `choose_openvino` chose the backend."""
    return _chosen


def require_backend() -> None:
    """Check that Keras' backend is installed.

    Raises:
        EnvironmentFault: it is unknown or not installed.
    """
    name = get_backend_name()
    source = "KERAS_BACKEND" if "KERAS_BACKEND" in os.environ else str(get_keras_home() / "keras.json")
    if name not in BACKENDS:
        raise EnvironmentFault(f"{source}: expected {', '.join(BACKENDS)}. Received: {name}.")
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise EnvironmentFault(
            f"{source} names the backend {name}, which is not installed. Install it, or set "
            f"KERAS_BACKEND={DEFAULT}."
        )


def claim_backend() -> None:
    """Note that this process computes with Keras' backend.

    Raises:
        EnvironmentFault: it was forked from a process that did so already, and the backend would hang here.
    """
    global _owner  # noqa: PLW0603
    if _owner not in (None, os.getpid()) and (name := get_backend_name()) in NOT_AFTER_FORK:
        raise EnvironmentFault(
            f"{name} cannot compute in this process, which was forked from one that had loaded a network. "
            'Start processes with multiprocessing.get_context("spawn"), or load networks only in the forked '
            "ones."
        )
    _owner = os.getpid()


def require_gradients() -> None:
    """Check that Keras' backend can train.

    Raises:
        EnvironmentFault: it can only infer.
    """
    if (name := get_backend_name()) not in GRADIENTS:
        raise EnvironmentFault(
            f"Keras runs on {name} here, which cannot train by gradient. Expected {' or '.join(GRADIENTS)}: "
            f"set KERAS_BACKEND={DEFAULT} before Keras is imported, or train nothing by gradient "
            "(--unfreeze none, with a solver for the head)."
        )


def compute_initial_values(model: keras.Model) -> None:
    """Compute the initial values of a model's variables, all at once.

    On OpenVINO an initial value is a graph that runs whenever the variable is read, for a hundredth of a
    second. Other backends have computed the values already.
    """
    if get_backend_name() != "openvino":
        return
    openvino = import_openvino()
    pending = [v for v in model.variables if v.value.output.get_node().get_type_name() != "Constant"]
    if pending:
        results = openvino.Model([variable.value.output for variable in pending], [])
        values = openvino.compile_model(results, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({})
        for number, variable in enumerate(pending):
            variable.assign(values[number])


def restart_on_tensorflow() -> NoReturn:
    """Run this program's command again from its beginning, in this process, on Keras' default backend."""
    sys.stderr.flush()
    os.dup2(sys.stderr.fileno(), 2)
    command = [sys.executable, "-m", "regraft", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "KERAS_BACKEND": DEFAULT})


def get_versions() -> dict[str, str]:
    """Return by name the interpreter's version, Keras' backend, and the versions of `PACKAGES`."""
    return {
        "python": platform.python_version(), "backend": get_backend_name(), **get_installed_versions(PACKAGES)
    }  # fmt: skip


def get_installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Return by name the version of each of these packages that is installed; none is imported."""
    versions = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
