"""Which backend Keras runs on: who chose it, whether it is here, what it can do; what is installed.

The program's commands choose OpenVINO where nothing trains by gradient: importing it takes a second,
importing TensorFlow five. A choice of the user's always wins: `KERAS_BACKEND`, a `keras.json` that names
another backend than the one that Keras writes there by itself, or Keras imported already. In Python nothing
is chosen: the process is the user's.
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
from regraft.system.imports import import_openvino, preloaded_allocator, skip_other_backends

if TYPE_CHECKING:
    import keras

__all__ = [
    "backend_name",
    "choose_openvino",
    "expect_backend",
    "expect_gradients",
    "installed",
    "keras_home",
    "restart",
    "settle_variables",
    "versions",
    "was_chosen",
]

DEFAULT = "tensorflow"  # what Keras takes, and writes into keras.json, where nobody says otherwise
GRADIENTS = ("tensorflow", "jax", "torch")
BACKENDS = (*GRADIENTS, "openvino", "numpy")
PACKAGES = (
    "regraft", "keras", "tensorflow", "tensorflow-cpu", "jax", "openvino", "numpy", "pillow", "cykooz-resizer"
)  # fmt: skip
_chosen = False  # by `choose_openvino`; backends belong to a process, and so does this


def keras_home() -> Path:
    """Return the folder of Keras' settings and of what it downloads: $KERAS_HOME, else ~/.keras."""
    home = os.environ.get("KERAS_HOME")
    return Path(home) if home else Path.home() / ".keras"


def backend_name() -> str:
    """Return the backend that Keras has; where it is not imported, the one that it will have.

    >>> backend_name() in BACKENDS
    True
    """
    if (keras := sys.modules.get("keras")) is not None and hasattr(keras, "backend"):
        return str(keras.backend.backend())
    if named := os.environ.get("KERAS_BACKEND"):
        return named
    try:
        return str(json.loads((keras_home() / "keras.json").read_text("utf-8")).get("backend", DEFAULT))
    except (OSError, ValueError, AttributeError):  # Keras passes over such a file, too
        return DEFAULT


def choose_openvino() -> None:
    """Have Keras run on OpenVINO in this process, unless somebody else chose a backend.

    Only a process that is a program of ours calls this, before Keras is imported.
    """
    global _chosen  # noqa: PLW0603
    free = "keras" not in sys.modules and "KERAS_BACKEND" not in os.environ and backend_name() == DEFAULT
    if free and importlib.util.find_spec("openvino") and not preloaded_allocator():
        os.environ["KERAS_BACKEND"] = "openvino"
        skip_other_backends()
        _chosen = True


def expect_backend() -> None:
    """Check that Keras' backend is one that is installed.

    Raises:
        EnvironmentFault: it is not.
    """
    name = backend_name()
    where = "KERAS_BACKEND" if "KERAS_BACKEND" in os.environ else str(keras_home() / "keras.json")
    if name not in BACKENDS:
        raise EnvironmentFault(f"{where}: expected {', '.join(BACKENDS)}. Received: {name}.")
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        raise EnvironmentFault(
            f"{where} names the backend {name}, which is not installed. Install it, or set "
            f"KERAS_BACKEND={DEFAULT}."
        )


def expect_gradients() -> None:
    """Check that Keras' backend trains.

    Raises:
        EnvironmentFault: it only infers.
    """
    if (name := backend_name()) not in GRADIENTS:
        raise EnvironmentFault(
            f"Keras runs on {name} here, which cannot train by gradient. Expected {' or '.join(GRADIENTS)}: "
            f"set KERAS_BACKEND={DEFAULT} before Keras is imported, or train nothing by gradient "
            "(--unfreeze none, with a solver for the head)."
        )


def settle_variables(model: keras.Model) -> None:
    """Compute the initial values of a model's variables, all at once.

    On OpenVINO each is a graph of its own, which takes a hundredth of a second wherever it is read. On other
    backends nothing is to be done.
    """
    if backend_name() != "openvino":
        return
    openvino = import_openvino()
    open_ones = [v for v in model.variables if v.value.output.get_node().get_type_name() != "Constant"]
    if open_ones:
        results = openvino.Model([variable.value.output for variable in open_ones], [])
        values = openvino.compile_model(results, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({})
        for number, variable in enumerate(open_ones):
            variable.assign(values[number])


def was_chosen() -> bool:
    """Return whether `choose_openvino` chose the backend."""
    return _chosen


def restart() -> NoReturn:
    """Run this program's command again from its beginning, in this process, on Keras' usual backend."""
    sys.stderr.flush()
    os.dup2(sys.stderr.fileno(), 2)
    command = [sys.executable, "-m", "regraft", *sys.argv[1:]]
    os.execve(sys.executable, command, {**os.environ, "KERAS_BACKEND": DEFAULT})


def versions() -> dict[str, str]:
    """By name, the interpreter, Keras' backend, and each package that is installed; nothing is imported."""
    return {"python": platform.python_version(), "backend": backend_name(), **installed(PACKAGES)}


def installed(packages: Iterable[str]) -> dict[str, str]:
    """By name, the version of each of these packages that is installed."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
