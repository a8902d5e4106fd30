"""Imports that are skipped, delayed, or made in the background.

Keras and TensorFlow try to import pandas, scikit-learn and JAX, and scikit-learn tries to import pandas, to
accept their arrays or to wrap their models; Keras imports what draws in a notebook. That is a third of the
time that importing takes. OpenVINO imports its converter, which reports that import over the network to its
maker. All of them work without these modules.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

__all__ = [
    "ImportBlocker",
    "find_preloaded_allocator",
    "import_in_background",
    "import_openvino",
    "make_child_environment",
    "skip_final_gc",
    "skip_optional_imports",
    "skip_other_backends",
]

_CONVERTER = "openvino.tools.ovc"
_DRAWING = {"matplotlib": ["keras"], "IPython": ["keras"]}
DELAY = 0.1  # seconds, so that a mistake that is noticed at once ends a program before it imports a backend


class ImportBlocker(MetaPathFinder):
    """An entry of `sys.meta_path` that hides some modules from some packages.

    Args:
        modules: name of a module -> the packages that do not find it.

    Example:
        >>> sys.meta_path.insert(0, ImportBlocker({"zipapp": ["regraft"]}))
        >>> import zipapp  # this example's importer is regraft.system.imports
        Traceback (most recent call last):
        ModuleNotFoundError: zipapp is hidden from regraft.system.imports
        >>> del sys.meta_path[0]
    """

    def __init__(self, modules: Mapping[str, Sequence[str]]) -> None:
        self._modules = dict(modules)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Raise ModuleNotFoundError for a hidden module; leave the search for all others to other finders."""
        if packages := self._modules.get(name):
            importer = _find_importer()
            if any(f"{importer}.".startswith(f"{package}.") for package in packages):
                raise ModuleNotFoundError(f"{name} is hidden from {importer}", name=name)
        return None


def _find_importer() -> str:
    """Return the name of the module whose import statement is running."""
    frame = sys._getframe(2)
    while frame.f_back is not None and "importlib" in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def skip_optional_imports() -> None:
    """Make later imports of Keras, TensorFlow and scikit-learn skip packages that only users may want.

    Only regraft's own programs call this: elsewhere these packages would no longer accept a data frame.
    """
    callbacks = "keras.src.callbacks"
    optional = {"pandas": ["keras", "sklearn"], "sklearn": ["keras"], "jax": ["tensorflow", callbacks]}
    sys.meta_path.insert(0, ImportBlocker({**optional, **_DRAWING}))


def skip_other_backends() -> None:
    """Make later imports of Keras and its dependencies skip all backends but OpenVINO.

    Only regraft's own programs whose Keras runs on OpenVINO call this. That backend imports `scipy.signal`,
    for audio windows, which takes longer than all its other imports: it is delayed until its first use.
    """
    importers = ["keras", "openvino", "optree", "ml_dtypes"]
    optional = dict.fromkeys(("tensorflow", "jax", "torch", "pandas", "sklearn"), importers)
    sys.meta_path.insert(0, ImportBlocker({**optional, **_DRAWING, _CONVERTER: ["openvino"]}))
    _import_lazily("scipy.signal")


class _LazyModule(ModuleType):
    """A module that is imported when an attribute is read; Python's LazyLoader would import it at once."""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


def _import_lazily(name: str) -> None:
    """Register a module that is imported at its first use."""
    spec = importlib.util.find_spec(name)
    if name not in sys.modules and spec is not None:
        module = sys.modules[name] = _LazyModule(name)
        module.__spec__ = spec
        module.__path__ = list(spec.submodule_search_locations or ())


def find_preloaded_allocator() -> str:
    """Return the library that LD_PRELOAD loads in place of malloc, or the empty string.

    OpenVINO's plugin frees memory of that allocator with the C library's `free`, which ends the process.
    """
    libraries = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
    return next((library for library in libraries if "malloc" in Path(library).name), "")


def make_child_environment() -> dict[str, str]:
    """Return this process' environment, extended so that a child imports the same regraft."""
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def import_openvino() -> Any:
    """Import and return OpenVINO, without its converter.

    Raises:
        ImportError: it is not installed.
    """
    finder = ImportBlocker({_CONVERTER: ["openvino"]})
    sys.meta_path.insert(0, finder)
    try:
        import openvino
    finally:
        sys.meta_path.remove(finder)
    return openvino


@contextmanager
def import_in_background(*modules: str, delay: float = DELAY) -> Iterator[None]:
    """Import these modules in a background thread, which may outlast the block.

    An import statement for one of them waits for the thread. So does the end of the program: hence the thread
    starts after `delay` seconds, and not at all if the block has ended or failed by then.
    """
    timer = threading.Timer(delay, _import_all, modules)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _import_all(*modules: str) -> None:
    for name in modules:
        if name not in sys.modules:
            with suppress(Exception), _pause_gc():  # an import statement will raise the same error
                importlib.import_module(name)


@contextmanager
def _pause_gc() -> Iterator[None]:
    """Pause the garbage collector, then exempt all objects that exist from it.

    An import makes a million objects that stay; scanning them again and again takes a fifth of its time.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def skip_final_gc() -> None:
    """Skip the final garbage collection when this process ends; only regraft's own programs call this."""
    atexit.register(gc.freeze)
