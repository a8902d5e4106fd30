"""A KerasHub preset, from its name or folder, as one flat graph of its layers.

KerasHub's backbones are models of a class of their own, and a transformer's encoder is one layer around
many. This module calls the layers again, one by one, so that a freeze plan reaches each of them and a saved
model remembers which were frozen. The scale and offset of the preset's image converter become the pixel
contract in front. Its resizing is left out: regraft's decoder resizes, and Keras' layer would put the layers
after it into training mode.

KerasHub is an extra: it is imported only here, and only when a preset is opened.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras

from regraft.backbones.graph import find_operation, replay_graph
from regraft.backbones.preprocessing import apply_contract, list_own_layers, rescale
from regraft.backbones.tfhub import KAGGLE, locate_kaggle_folder
from regraft.backbones.weights import explain_unreachable
from regraft.backbones.zoo import Stages
from regraft.errors import EnvironmentFault, ModelRefused, UsageError, shorten_error, suggest_nearest

__all__ = ["Preset", "open_preset", "repair_layer_configs"]

DEFAULT_SIZE = 224  # pixels a side where neither the preset nor the user gives a size

_FIGURES = (bool, int, float, str)

# Encoders that call their inner layers one after the other, and the attributes that hold those, in order.
_SEQUENCES = {"ViTEncoder": ("dropout", "encoder_layers", "layer_norm")}
_STAGES = Stages("opens", ((r"^(stack\d+)_", r"\1"), (r"^(transformer_block_\d+)$", r"\1")))


class Preset(NamedTuple):
    """A preset as a flat Functional model from RGB pixels 0..255, with its stages and notes for reports."""

    model: keras.Model
    stages: dict[str, str]  # name of the stage -> name of its first layer
    notes: tuple[str, ...]


def open_preset(
    name: str, *, image_size: int | None = None, pixels: str | None = None, load_weights: bool = True
) -> Preset:
    """Open the backbone of a preset.

    Args:
        name: a built-in name such as `resnet_50_imagenet`, the path of a preset's folder, or an address that
            KerasHub takes (`kaggle://...`, `hf://...`).
        image_size: pixels a side; None for the preset's own, or 224 where it has none.
        pixels: the pixel contract of a preset that has no image converter; None for `"raw"`.
        load_weights: whether to load the preset's weights; otherwise they are the initial ones.

    Raises:
        UsageError: there is no such preset, it cannot take the size, or it has a contract of its own.
        EnvironmentFault: KerasHub is not installed, or the preset is not on this machine and cannot be
            downloaded.
        ModelRefused: the preset is not a backbone for images, or is damaged.
    """
    hub = _import_kerashub()
    _check_name(name, hub)
    converter = _load_converter(hub, name)
    if converter is not None and pixels is not None:
        raise UsageError(
            f"pixels: {name} brings its own pixel contract, which is used. Received also: {pixels!r}."
        )
    backbone = _load_backbone(hub, name, load_weights=load_weights)
    fixed = _read_size(backbone, name)
    converter_size = getattr(converter, "image_size", None)
    size = image_size or fixed or (int(converter_size[0]) if converter_size else DEFAULT_SIZE)
    if fixed not in (None, size):
        backbone = _load_backbone(hub, name, load_weights=load_weights, size=size)
    image = keras.Input((size, size, 3), name="image")
    converted, notes = _preprocess(image, converter, pixels or "raw")
    features = replay_graph(backbone, converted, _unroll)
    model = keras.Model(image, features, name=Path(name).name.replace("/", "_"))
    repair_layer_configs(model)
    _check_configs(model, name)
    return Preset(model, _find_stages(backbone, model), notes)


def _import_kerashub() -> Any:
    try:
        import keras_hub
    except ImportError as fault:
        raise EnvironmentFault(
            f'KerasHub is not installed ({shorten_error(fault)}): pip install "regraft[hub]".'
        ) from fault
    return keras_hub


def repair_layer_configs(model: keras.Model) -> None:
    """Change classes of KerasHub's layers, so that a saved model with them opens again.

    Some of them (in 0.32 those of the vision transformer) write settings into their configuration that their
    constructor does not take, and omit some that it takes. All others stay as they are.
    """
    for layer in model.layers:
        kind = type(layer)
        if kind.__module__.startswith("keras_hub") and set(layer.get_config()) - _list_parameters(kind):
            kind.get_config = _make_get_config(kind)


def _list_parameters(kind: Any) -> set[str]:
    """Return the names of the parameters of a class's constructors."""
    return {name for base in kind.__mro__ for name in inspect.signature(base.__init__).parameters}


def _make_get_config(kind: Any) -> Callable[[Any], dict[str, Any]]:
    original, parameters = kind.get_config, set(inspect.signature(kind.__init__).parameters)

    def get_config(layer: Any) -> dict[str, Any]:
        config = {key: value for key, value in original(layer).items() if key in _list_parameters(kind)}
        omitted = {name: getattr(layer, name, None) for name in parameters - set(config)}
        return {**config, **{name: value for name, value in omitted.items() if isinstance(value, _FIGURES)}}

    return get_config


def _check_configs(model: keras.Model, name: str) -> None:
    """Refuse a preset that could be trained and saved, but never opened again."""
    for layer in model.layers:
        if type(layer).__module__.startswith("keras_hub"):
            try:
                type(layer).from_config(layer.get_config())
            except Exception as fault:
                raise ModelRefused(
                    f"{name}: a saved model with KerasHub's {type(layer).__name__} cannot be opened again, "
                    f"because of a mistake in KerasHub: {shorten_error(fault)}"
                ) from fault


def _check_name(name: str, hub: Any) -> None:
    """Check that KerasHub knows a name, and that its preset is on this machine or the network is there."""
    presets = hub.models.Backbone.presets
    if name not in presets:
        if Path(name).is_dir() or "://" in name:
            return
        raise UsageError(
            f'backbone: KerasHub knows no preset "{name}", and there is no folder of that name.'
            f"{suggest_nearest(name, presets)}"
        )
    handle = str(presets[name]["kaggle_handle"]).removeprefix("kaggle://")
    folder = locate_kaggle_folder(handle)
    if not (folder / "config.json").exists() and (reason := explain_unreachable(KAGGLE)) is not None:
        raise EnvironmentFault(
            f"The preset {name} is not on this machine and cannot be downloaded: {reason}\n"
            f"  from: {KAGGLE}/models/{handle}\n  to: {folder}\n"
            "Download it there, or give the folder of a preset instead."
        )


def _load_converter(hub: Any, name: str) -> Any:
    """Return the preset's image converter, or None."""
    with contextlib.suppress(ValueError, FileNotFoundError, KeyError):
        return hub.layers.ImageConverter.from_preset(name)
    return None


def _load_backbone(hub: Any, name: str, *, load_weights: bool, size: int | None = None) -> Any:
    shape = {} if size is None else {"image_shape": (size, size, 3)}
    try:
        return hub.models.Backbone.from_preset(name, load_weights=load_weights, **shape)
    except Exception as fault:  # KerasHub, Kaggle's client and h5py document no types
        if size is not None:
            raise UsageError(
                f"image_size: {name} cannot be built for {size} pixels a side. "
                f"KerasHub says: {shorten_error(fault)}"
            ) from fault
        if isinstance(fault, OSError) and not Path(name).is_dir():
            raise EnvironmentFault(
                f"The preset {name} cannot be downloaded: {shorten_error(fault)}"
            ) from fault
        raise ModelRefused(
            f"{name} cannot be read as a preset of KerasHub. KerasHub says: {shorten_error(fault)}"
        ) from fault


def _read_size(backbone: Any, name: str) -> int | None:
    """Return the only size in pixels a side that the backbone takes; None where it takes any."""
    shapes = [tuple(tensor.shape) for tensor in backbone.inputs]
    outputs = [tuple(tensor.shape) for tensor in backbone.outputs]
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][-1] != 3 or shapes[0][1] != shapes[0][2]:
        raise ModelRefused(
            f"{name} is not a backbone for images. Expected one input (batch, size, size, 3). Received: "
            f"{shapes}."
        )
    if len(outputs) != 1 or len(outputs[0]) not in (2, 3, 4):
        raise ModelRefused(
            f"{name}: expected one feature map, tokens or a vector as its output. Received: {outputs}."
        )
    side = shapes[0][1]
    return None if side is None else int(side)


def _preprocess(image: Any, converter: Any, pixels: str) -> tuple[Any, tuple[str, ...]]:
    """Return the backbone's view of pixels 0..255, and notes on differences from KerasHub's preprocessing."""
    if converter is None:
        return apply_contract(pixels, image), (f"The preset has no image converter: pixels {pixels}.",)
    notes = {
        converter.crop_to_aspect_ratio: "The preset's own preprocessing crops images to squares",
        converter.pad_to_aspect_ratio: "The preset's own preprocessing pads images to squares",
    }
    note = (f"{notes[True]}; regraft squeezes them and cuts nothing off.",) if True in notes else ()
    if converter.scale is None and converter.offset is None:
        return image, note
    scale = 1.0 if converter.scale is None else converter.scale
    return rescale(image, scale, 0.0 if converter.offset is None else converter.offset), note


def _unroll(operation: Any) -> Any:
    """Return a function that calls the inner layers of an encoder; any other operation as it is."""
    names = _SEQUENCES.get(type(operation).__name__)
    if names is None:
        return operation
    layers: list[Any] = []
    for name in names:
        inner = getattr(operation, name)
        layers.extend(inner if isinstance(inner, (list, tuple)) else [inner])

    def run(x: Any) -> Any:
        for layer in layers:
            x = layer(x)
        return x

    return run


def _find_stages(backbone: Any, model: keras.Model) -> dict[str, str]:
    """Find stages by the layers' names or, where these tell nothing, by KerasHub's feature pyramid."""
    names = [layer.name for layer in list_own_layers(model)]
    starts = _STAGES.find_starts(names)
    if not starts:
        ends = {
            find_operation(tensor).name: level
            for level, tensor in (getattr(backbone, "pyramid_outputs", None) or {}).items()
        }
        marks = tuple((f"^{re.escape(name)}$", level) for name, level in ends.items() if name in names)
        starts = Stages("closes", marks).find_starts(names)
    return {stage: names[index] for stage, index in starts.items()}
