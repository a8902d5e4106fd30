"""A KerasHub preset, by name or as a folder, as one flat graph of its layers.

KerasHub's backbones are models of a class of their own, and a transformer's encoder is one layer around
many. Here the layers are called once more, one by one, so that a freeze plan reaches each of them and a
saved model remembers what was frozen. The scale and offset of the preset's image converter become the pixel
contract in front; its resizing does not: regraft's decoder resizes, and Keras' layer would put whatever
follows it into training mode.

KerasHub is an extra, imported here and only when asked for.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras

from regraft.backbones.preprocessing import apply_contract, own_layers, rescaled
from regraft.backbones.tfhub import KAGGLE, kaggle_folder
from regraft.backbones.user_model import replayed
from regraft.backbones.weights import unreachable
from regraft.backbones.zoo import Stages
from regraft.errors import EnvironmentFault, ModelRefused, UsageError, brief, nearest

__all__ = ["Preset", "mend_layers", "open_preset"]

DEFAULT_SIZE = 224  # pixels a side where neither the preset nor the user says

_FIGURES = (bool, int, float, str)

# Encoders that call their parts one after the other, and those parts in order.
_SEQUENCES = {"ViTEncoder": ("dropout", "encoder_layers", "layer_norm")}
_STAGES = Stages("opens", ((r"^(stack\d+)_", r"\1"), (r"^(transformer_block_\d+)$", r"\1")))


class Preset(NamedTuple):
    """A flat Functional model from RGB 0..255, and what is to be said of it."""

    model: keras.Model
    stages: dict[str, str]  # name of the stage -> name of its first layer
    notes: tuple[str, ...]


def open_preset(
    name: str, *, image_size: int | None = None, pixels: str | None = None, load_weights: bool = True
) -> Preset:
    """A preset's backbone.

    Args:
        name: a built-in name such as `resnet_50_imagenet`, the path of a preset's folder, or what else
            KerasHub takes (`kaggle://...`, `hf://...`).
        image_size: pixels a side; None for the preset's own, or 224 where it has none.
        pixels: the pixel contract of a preset that has no image converter; None for `"raw"`.
        load_weights: whether the weights are the preset's; else they are drawn.

    Raises:
        UsageError: no such preset, a size it cannot take, or a contract where the preset has its own.
        EnvironmentFault: KerasHub is not installed, or the preset is not on this machine and cannot be had.
        ModelRefused: it is no backbone for images, or damaged.
    """
    hub = _kerashub()
    _check_name(name, hub)
    converter = _converter(hub, name)
    if converter is not None and pixels is not None:
        raise UsageError(
            f"pixels: {name} brings its own pixel contract, which is used. Received also: {pixels!r}."
        )
    backbone = _backbone(hub, name, load_weights=load_weights)
    fixed = _image_input(backbone, name)
    own = getattr(converter, "image_size", None)
    size = image_size or fixed or (int(own[0]) if own else DEFAULT_SIZE)
    if fixed not in (None, size):
        backbone = _backbone(hub, name, load_weights=load_weights, size=size)
    image = keras.Input((size, size, 3), name="image")
    seen, notes = _seen(image, converter, pixels or "raw")
    features = replayed(backbone, seen, _unrolled)
    model = keras.Model(image, features, name=Path(name).name.replace("/", "_"))
    mend_layers(model)
    _check_configs(model, name)
    return Preset(model, _stages(backbone, model), notes)


def _kerashub() -> Any:
    try:
        import keras_hub
    except ImportError as fault:
        raise EnvironmentFault(
            f'KerasHub is not installed ({brief(fault)}): pip install "regraft[hub]".'
        ) from fault
    return keras_hub


def mend_layers(model: keras.Model) -> None:
    """Change classes of KerasHub's layers, so that a saved model which holds them opens again.

    Some of them (0.32: the vision transformer's) write figures into their configuration that their
    constructor does not take, and leave out some that it does. Others are left as they are.
    """
    for layer in model.layers:
        kind = type(layer)
        if kind.__module__.startswith("keras_hub") and set(layer.get_config()) - _taken(kind):
            kind.get_config = _faithful(kind)


def _taken(kind: Any) -> set[str]:
    """What the constructors of a class take by name."""
    return {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}


def _faithful(kind: Any) -> Callable[[Any], dict[str, Any]]:
    original, wanted = kind.get_config, set(inspect.signature(kind.__init__).parameters)

    def get_config(layer: Any) -> dict[str, Any]:
        config = {key: value for key, value in original(layer).items() if key in _taken(kind)}
        left_out = {name: getattr(layer, name, None) for name in wanted - set(config)}
        return {**config, **{name: value for name, value in left_out.items() if isinstance(value, _FIGURES)}}

    return get_config


def _check_configs(model: keras.Model, name: str) -> None:
    """Refuse at once what could be trained and saved, but never opened again."""
    for layer in model.layers:
        if type(layer).__module__.startswith("keras_hub"):
            try:
                type(layer).from_config(layer.get_config())
            except Exception as fault:
                raise ModelRefused(
                    f"{name}: a saved model with KerasHub's {type(layer).__name__} cannot be opened again, "
                    f"by a mistake in KerasHub: {brief(fault)}"
                ) from fault


def _check_name(name: str, hub: Any) -> None:
    """A name that KerasHub does not know is said at once, and so is a network that is not there."""
    if Path(name).is_dir() or "://" in name:
        return
    presets = hub.models.Backbone.presets
    if name not in presets:
        raise UsageError(
            f'backbone: KerasHub knows no preset "{name}", and there is no folder of that name.'
            f"{nearest(name, presets)}"
        )
    handle = str(presets[name]["kaggle_handle"]).removeprefix("kaggle://")
    folder = kaggle_folder(handle)
    if not (folder / "config.json").exists() and (reason := unreachable(KAGGLE)) is not None:
        raise EnvironmentFault(
            f"The preset {name} is not on this machine and cannot be downloaded: {reason}\n"
            f"  from: {KAGGLE}/models/{handle}\n  to: {folder}\n"
            "Download it there, or give the folder of a preset instead."
        )


def _converter(hub: Any, name: str) -> Any:
    """The preset's image converter, or None."""
    with contextlib.suppress(ValueError, FileNotFoundError, KeyError):
        return hub.layers.ImageConverter.from_preset(name)
    return None


def _backbone(hub: Any, name: str, *, load_weights: bool, size: int | None = None) -> Any:
    shape = {} if size is None else {"image_shape": (size, size, 3)}
    try:
        return hub.models.Backbone.from_preset(name, load_weights=load_weights, **shape)
    except Exception as fault:  # KerasHub, Kaggle's client and h5py raise whatever they like
        if size is not None:
            raise UsageError(
                f"image_size: {name} cannot be built for {size} pixels a side. KerasHub says: {brief(fault)}"
            ) from fault
        if isinstance(fault, OSError) and not Path(name).is_dir():
            raise EnvironmentFault(f"The preset {name} cannot be had: {brief(fault)}") from fault
        raise ModelRefused(
            f"{name} cannot be read as a preset of KerasHub. KerasHub says: {brief(fault)}"
        ) from fault


def _image_input(backbone: Any, name: str) -> int | None:
    """Pixels a side that the backbone insists on; None where any will do."""
    shapes = [tuple(tensor.shape) for tensor in backbone.inputs]
    outputs = [tuple(tensor.shape) for tensor in backbone.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3 or shapes[0][1] != shapes[0][2]:
        raise ModelRefused(
            f"{name} is no backbone for images. Expected one input (batch, size, size, 3). Received: "
            f"{shapes}."
        )
    if len(outputs) != 1 or len(outputs[0]) not in (2, 3, 4):
        raise ModelRefused(
            f"{name}: expected one feature map, tokens or a vector as its answer. Received: {outputs}."
        )
    side = shapes[0][1]
    return None if side is None else int(side)


def _seen(image: Any, converter: Any, pixels: str) -> tuple[Any, tuple[str, ...]]:
    """What the backbone sees of pixels 0..255, and what is different from KerasHub's own preprocessing."""
    if converter is None:
        return apply_contract(pixels, image), (f"The preset has no image converter: pixels {pixels}.",)
    notes = {
        converter.crop_to_aspect_ratio: "The preset's own preprocessing crops images to squares",
        converter.pad_to_aspect_ratio: "The preset's own preprocessing pads images to squares",
    }
    note = (f"{notes[True]}; regraft squeezes them, and cuts nothing off.",) if True in notes else ()
    if converter.scale is None and converter.offset is None:
        return image, note
    scale = 1.0 if converter.scale is None else converter.scale
    return rescaled(image, scale, 0.0 if converter.offset is None else converter.offset), note


def _unrolled(operation: Any) -> Callable[..., Any]:
    """An encoder as its parts in order, anything else as itself."""
    names = _SEQUENCES.get(type(operation).__name__)
    if names is None:
        called: Callable[..., Any] = operation
        return called
    parts: list[Any] = []
    for name in names:
        part = getattr(operation, name)
        parts.extend(part if isinstance(part, (list, tuple)) else [part])

    def run(x: Any) -> Any:
        for part in parts:
            x = part(x)
        return x

    return run


def _stages(backbone: Any, model: keras.Model) -> dict[str, str]:
    """By the layers' names; where those say nothing, by the levels of KerasHub's feature pyramid."""
    names = [layer.name for layer in own_layers(model)]
    starts = _STAGES.starts(names)
    if not starts:
        ends = {
            tensor._keras_history.operation.name: level
            for level, tensor in (getattr(backbone, "pyramid_outputs", None) or {}).items()
        }
        marks = tuple((f"^{re.escape(name)}$", level) for name, level in ends.items() if name in names)
        starts = Stages("closes", marks).starts(names)
    return {stage: names[index] for stage, index in starts.items()}
