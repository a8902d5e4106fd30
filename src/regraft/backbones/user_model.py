"""A model of the user's own: read from a file, checked, built at one size, a pixel contract put in front."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from regraft.backbones.graph import nodes_of
from regraft.backbones.preprocessing import apply_contract, contract_of

# This import also makes the layer known to Keras, so that files that hold one can be read.
from regraft.backbones.savedmodel_layer import SavedModelLayer
from regraft.backbones.zoo import Entry
from regraft.errors import BackendLimit, EnvironmentFault, ModelRefused, UsageError, brief
from regraft.model_scan.model_file import check_model_file
from regraft.model_scan.trust import expect_trust
from regraft.system.backend import backend_name

__all__ = [
    "behind_contract",
    "carried",
    "check_model",
    "model_size",
    "own_contract",
    "read_model",
    "rebuilt",
    "replayed",
]


def read_model(path: Path, *, trust: bool = False) -> keras.Model:
    """A `.keras` file, opened in Keras' safe mode once `regraft.gate` has looked through it.

    Also files with layers that do not come with Keras but that somebody vouches for: regraft for its own of a
    SavedModel, which has to be trusted (see `regraft.model_scan.trust`), and for KerasHub's; the user's
    program for classes that it has registered with `keras.saving.register_keras_serializable`.

    Args:
        path: the file.
        trust: SavedModels in it are trusted; need not be said again of the same content.

    Raises:
        ModelRefused: the file is damaged, or holds code, a layer that nobody vouches for or a SavedModel that
            nobody trusts.
        EnvironmentFault: it needs KerasHub or TensorFlow, which is not there, or another backend.
    """
    # Names that the user's program has registered; KerasHub registers what reads files, too.
    names = keras.saving.get_custom_objects()
    vouched = [name for name in names if not name.startswith(("keras_", "regraft>"))]
    contents = check_model_file(path, vouched)
    layers = contents.configuration.layers
    hub = any(layer.module.startswith("keras_hub.") for layer in layers)
    if hub and importlib.util.find_spec("keras_hub") is None:
        raise EnvironmentFault(
            f'{path} holds layers of KerasHub, which is not installed: pip install "regraft[hub]".'
        )
    for digest in contents.savedmodels:
        expect_trust(str(path), digest, said=trust)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (EnvironmentFault, ModelRefused):
        raise
    except NotImplementedError as fault:
        raise BackendLimit(
            f"Keras' {backend_name()} backend cannot build {path} ({brief(fault)})."
        ) from fault
    except Exception as fault:  # Keras names no type: whatever does not fit together raises something else
        raise ModelRefused(f"{path} cannot be read as a Keras model. Keras says: {brief(fault)}") from fault
    for layer in model.layers:  # a saved layer of layers remembers its own flag only
        for part in () if layer.trainable else layer._flatten_layers():
            part.trainable = False
    return model


def check_model(model: keras.Model) -> None:
    """Raise UsageError unless it is one graph from RGB pixels to a map, tokens or a vector."""
    probe = keras.Input((1,))
    functional = type(keras.Model(probe, probe))  # the class has no public name
    if not isinstance(model, functional) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UsageError(
            "A backbone is a Functional model with one input and one output; wrap a Sequential one as "
            f"keras.Model(model.inputs, model.outputs). Received: {type(model).__name__} {model.name}."
        )
    taken, given = model.inputs[0].shape, model.outputs[0].shape
    if len(taken) != 4 or taken[-1] != 3:
        raise UsageError(
            "A backbone takes RGB pixels of shape (batch, size, size, 3). "
            f"Received: {model.name}, which takes {taken}."
        )
    if len(given) not in (2, 3, 4):
        raise UsageError(
            "A backbone gives a feature map (batch, height, width, channels), tokens (batch, tokens, "
            "channels) "
            f"or a feature vector (batch, channels). Received: {model.name}, which gives {given}."
        )


def model_size(model: keras.Model, image_size: int | None) -> int:
    """Pixels a side to build a checked model at: its own, or the one asked for where it leaves that open."""
    height, width = model.inputs[0].shape[1:3]
    if height != width:
        raise UsageError(f"A backbone takes square images. Received: {model.name}, {height} x {width}.")
    if height is None and image_size is None:
        raise UsageError(f"image_size: {model.name} takes images of any size; say which, for example 224.")
    if height is not None and image_size not in (None, height):
        raise UsageError(f"image_size: {model.name} takes {height} and nothing else. Received: {image_size}.")
    return int(height or image_size or 0)


def rebuilt(model: keras.Model, size: int) -> keras.Model:
    """The same graph with fresh layers and a fixed image size; still one flat graph."""
    if any(isinstance(layer, SavedModelLayer) for layer in model.layers):
        raise UsageError(f"weights: {model.name} holds a SavedModel, which brings its own weights.")
    config = model.get_config()
    for layer in config["layers"]:
        if layer["class_name"] == "InputLayer":
            layer["config"]["batch_shape"] = (None, size, size, 3)
    try:
        return type(model).from_config(config)
    except Exception as fault:  # a size that some layer cannot take
        raise UsageError(
            f"image_size: {model.name} cannot be built for {size} pixels a side. Keras says: {brief(fault)}"
        ) from fault


def carried(source: keras.Model, target: keras.Model, kind: type[keras.layers.Layer]) -> keras.Model:
    """`target`, changed in place: its layers of a kind have the weights of `source`."""
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, kind):
            new.set_weights(old.get_weights())
        for layer in (new, *getattr(new, "layers", ())):
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # it computes with a copy of its weights
    return target


def own_contract(model: keras.Model, known: Entry | None, pixels: str | None) -> tuple[str, str]:
    """The contract to put in front of a model of the user's own, and a note where that was not asked for."""
    has = next(filter(None, map(contract_of, model.layers)), None)
    if has and pixels is not None:
        raise UsageError(
            f"pixels: {model.name} has the contract {has} in its graph. Received also: {pixels!r}."
        )
    if pixels is not None or has or known is None or known.pixels == "raw" or not _is_bare(model):
        return pixels or "raw", ""
    note = f"{model.name} comes without preprocessing: the contract {known.pixels} of its family is in front."
    return known.pixels, note


def _is_bare(model: keras.Model) -> bool:
    """Whether pixels go straight into a convolution, so that nothing in the graph can have converted them."""
    image = model.inputs[0]
    reading = [node for node in nodes_of(model) if any(tensor is image for tensor in node.input_tensors)]
    first = (keras.layers.Conv2D, keras.layers.ZeroPadding2D)
    return all(isinstance(node.operation, first) for node in reading)


def behind_contract(model: keras.Model, contract: str) -> keras.Model:
    """The same layers, not copies, behind a pixel contract; still one flat graph."""
    if contract == "raw":
        return model
    image = keras.Input(model.inputs[0].shape[1:], name="image")
    return keras.Model(image, replayed(model, apply_contract(contract, image)), name=model.name)


def replayed(
    model: keras.Model, x: Any, unrolled: Callable[[Any], Callable[..., Any]] = lambda operation: operation
) -> Any:
    """The model's operations once more, one by one, on another tensor: no model within a model.

    Args:
        model: Functional.
        x: symbolic tensor, in the place of the model's input.
        unrolled: what to call in an operation's place.
    """
    return model._run_through_graph(x, operation_fn=unrolled)
