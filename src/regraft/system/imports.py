"""Imports that a package makes only because another one happens to be installed, left out.

Keras and TensorFlow try to import pandas, scikit-learn and JAX, and scikit-learn pandas, to take their
arrays or to wrap their models; that takes a third of the time until they are there. OpenVINO imports its
converter, which tells its maker over the network that it was imported. All of them go on without what they do
not find.
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
    "LeftOut",
    "begin",
    "child_environment",
    "end_at_once",
    "import_openvino",
    "leave_out_needless",
    "preloaded_allocator",
    "skip_other_backends",
]

_CONVERTER = "openvino.tools.ovc"
SOON = 0.1  # seconds: mistakes that are found at once end a program before it has begun to import a backend


class LeftOut(MetaPathFinder):
    """Where it stands in `sys.meta_path`, some packages do not find some modules; all others do.

    Args:
        modules: name of a module -> the packages that are told that it is not installed.

    Example:
        >>> sys.meta_path.insert(0, LeftOut({"zipapp": ["regraft"]}))
        >>> import zipapp  # this example's importer is regraft.system.imports
        Traceback (most recent call last):
        ModuleNotFoundError: zipapp is left out of regraft.system.imports
        >>> del sys.meta_path[0]
    """

    def __init__(self, modules: Mapping[str, Sequence[str]]) -> None:
        self._modules = dict(modules)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Refuse, or leave the search to others."""
        if packages := self._modules.get(name):
            importer = _importer()
            if any(f"{importer}.".startswith(f"{package}.") for package in packages):
                raise ModuleNotFoundError(f"{name} is left out of {importer}", name=name)
        return None


def _importer() -> str:
    """The module whose import statement is being carried out."""
    frame = sys._getframe(2)
    while frame.f_back is not None and "importlib" in frame.f_globals.get("__name__", ""):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", ""))


def leave_out_needless() -> None:
    """From now on, Keras, TensorFlow and scikit-learn are imported without what only their users may want.

    For a process that is a program of ours: elsewhere, they would no longer take a data frame.
    """
    callbacks = "keras.src.callbacks"
    needless = {"pandas": ["keras", "sklearn"], "sklearn": ["keras"], "jax": ["tensorflow", callbacks]}
    sys.meta_path.insert(0, LeftOut(needless))


def skip_other_backends() -> None:
    """From now on, Keras and what it needs are imported without any backend but OpenVINO.

    For a process that is a program of ours and whose Keras runs on OpenVINO. That backend imports
    `scipy.signal` for windows of sound, which takes longer than all the rest: it comes at its first use.
    """
    others = ["keras", "openvino", "optree", "ml_dtypes"]
    needless = dict.fromkeys(("tensorflow", "jax", "torch", "pandas", "sklearn"), others)
    sys.meta_path.insert(0, LeftOut({**needless, _CONVERTER: ["openvino"]}))
    _postpone("scipy.signal")


class _Postponed(ModuleType):
    """A module that is imported when something of it is asked for; Python's own lazy ones are at once."""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), attribute)


def _postpone(name: str) -> None:
    """Put a module in place that is imported at its first use."""
    spec = importlib.util.find_spec(name)
    if name not in sys.modules and spec is not None:
        module = sys.modules[name] = _Postponed(name)
        module.__spec__ = spec
        module.__path__ = list(spec.submodule_search_locations or ())


def preloaded_allocator() -> str:
    """Return the allocator that LD_PRELOAD puts in malloc's place; empty for none.

    OpenVINO's plugin frees with the C library's `free` what another `malloc` gave, which ends the process.
    """
    libraries = os.environ.get("LD_PRELOAD", "").replace(":", " ").split()
    return next((library for library in libraries if "malloc" in Path(library).name), "")


def child_environment() -> dict[str, str]:
    """Return this process' environment, with which a child imports the very regraft that this process did."""
    paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def import_openvino() -> Any:
    """OpenVINO without its converter.

    Raises:
        ImportError: it is not installed.
    """
    finder = LeftOut({_CONVERTER: ["openvino"]})
    sys.meta_path.insert(0, finder)
    try:
        import openvino
    finally:
        sys.meta_path.remove(finder)
    return openvino


@contextmanager
def begin(*modules: str) -> Iterator[None]:
    """Meanwhile, and after it if need be, these are imported in a thread of their own.

    Whoever imports them himself waits for that. A program does not end before it, so it begins only after a
    moment, and not at all where the block ends or fails before.
    """
    timer = threading.Timer(SOON, _import_all, modules)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _import_all(*modules: str) -> None:
    for name in modules:
        if name not in sys.modules:
            with suppress(Exception), _lasting():  # whoever needs it meets the same, and says so
                importlib.import_module(name)


@contextmanager
def _lasting() -> Iterator[None]:
    """Meanwhile no garbage is looked for, and afterwards none among what is there.

    An import makes a million objects that stay; the collector goes over them again and again, which is a
    fifth of the time that importing takes.
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


def end_at_once() -> None:
    """This process will end without looking for garbage in what it leaves: the system takes it all.

    For a process that is a program of ours.
    """
    atexit.register(gc.freeze)
