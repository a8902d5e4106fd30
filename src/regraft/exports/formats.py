"""The formats that a model can be exported to, and what each of them needs and can do."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from regraft.errors import EnvironmentFault, UsageError, suggest_nearest

__all__ = ["FORMATS", "Format", "choose_format", "require_packages"]


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: as users write it.
        model: name of the model's file or folder in an export.
        modules: what has to be installed to write and to replay it.
        extra: the extra of regraft that installs them.
        needs_tensorflow: whether only Keras on TensorFlow writes it.
        quantizes: whether there is an int8 version.
        resizes: whether the network can take images of any size.
    """

    name: str
    model: str
    modules: tuple[str, ...]
    extra: str
    needs_tensorflow: bool = True
    quantizes: bool = False
    resizes: bool = False


FORMATS = {
    one.name: one
    for one in (
        Format("openvino", "model.xml", ("openvino",), "cpu", False, True, True),
        Format("onnx", "model.onnx", ("onnx", "tf2onnx", "onnxruntime"), "onnx", True, True, True),
        Format("litert", "model.tflite", ("ai_edge_litert",), "litert", True, True),
        Format("savedmodel", "saved_model", ("tensorflow",), "cpu"),
        Format("keras", "model.keras", ("keras",), "cpu", False),
    )
}


def choose_format(name: str, *, int8: bool, any_size: bool) -> Format:
    """Return the format of this name.

    Raises:
        UsageError: there is none, or it cannot do what is asked.

    >>> choose_format("onxx", int8=False, any_size=False)
    Traceback (most recent call last):
    regraft.errors.UsageError: Expected a format: openvino, onnx, litert, savedmodel or keras. \
Received: onxx. Did you mean "onnx"?
    """
    if name not in FORMATS:
        *names, last = FORMATS
        hint = suggest_nearest(name, FORMATS)
        raise UsageError(f"Expected a format: {', '.join(names)} or {last}. Received: {name}.{hint}")
    kind = FORMATS[name]
    for asked, option, able in (
        (int8, "--int8", [one.name for one in FORMATS.values() if one.quantizes]),
        (any_size, "--any-size", [one.name for one in FORMATS.values() if one.resizes]),
    ):
        if asked and name not in able:
            raise UsageError(
                f"{option}: expected a format that has it, {' or '.join(able)}. Received: {name}."
            )
    return kind


def require_packages(kind: Format, *, int8: bool) -> None:
    """Check that what writes and runs a format is installed.

    Raises:
        EnvironmentFault: a package is missing; the message names the command that installs it.
    """
    extras = [(module, kind.extra) for module in kind.modules]
    if int8 and kind.name == "openvino":  # the packages of other formats quantize
        extras.append(("nncf", "int8"))
    missing = [(module, extra) for module, extra in extras if importlib.util.find_spec(module) is None]
    if missing:
        names = " and ".join(module for module, _ in missing)
        wanted_extras = ",".join(dict.fromkeys(extra for _, extra in missing))
        raise EnvironmentFault(
            f"An export to {kind.name}{' in int8' if int8 else ''} needs {names}: "
            f'pip install "regraft[{wanted_extras}]".'
        )
