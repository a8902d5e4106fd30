"""A user's own model: read from a file, checked, built at one size, with a pixel contract in front."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import keras

from regraft.backbones.graph import flatten_layers, list_nodes, replay_graph
from regraft.backbones.preprocessing import apply_contract, find_contract

# This import also makes the layer known to Keras, so that files that hold one can be read.
from regraft.backbones.savedmodel_layer import SavedModelLayer
from regraft.backbones.zoo import Entry
from regraft.errors import BackendLimit, EnvironmentFault, ModelRefused, UsageError, shorten_error
from regraft.model_scan.model_file import check_model_file
from regraft.model_scan.trust import expect_trust
from regraft.system.backend import claim_backend, get_backend_name

__all__ = [
    "add_contract",
    "check_model",
    "choose_contract",
    "choose_size",
    "copy_weights",
    "read_model",
    "rebuild_at_size",
]


def read_model(path: Path, *, trust: bool = False) -> keras.Model:
    """Open a `.keras` file in Keras' safe mode, after `regraft.model_scan` has checked it.

    Three kinds of layers that do not come with Keras are allowed: regraft's layer for a SavedModel, which has
    to be trusted (see `regraft.model_scan.trust`), KerasHub's layers, and classes that the user's program has
    registered with `keras.saving.register_keras_serializable`.

    Args:
        path: the file.
        trust: whether the user vouches for SavedModels in it; this is remembered by content.

    Raises:
        ModelRefused: the file is damaged, or holds code, a layer of another kind or a SavedModel that is not
            trusted.
        EnvironmentFault: the file needs KerasHub, TensorFlow or another backend, or the backend cannot
            compute in this process.
    """
    claim_backend()
    # KerasHub is left out: it also registers classes that read files.
    names = keras.saving.get_custom_objects()
    user_names = [name for name in names if not name.startswith(("keras_", "regraft>"))]
    contents = check_model_file(path, user_names)
    layers = contents.configuration.layers
    needs_hub = any(layer.module.startswith("keras_hub.") for layer in layers)
    if needs_hub and importlib.util.find_spec("keras_hub") is None:
        raise EnvironmentFault(
            f'{path} holds layers of KerasHub, which is not installed: pip install "regraft[hub]".'
        )
    for digest in contents.savedmodels:
        expect_trust(str(path), digest, user_trusts=trust)
    try:
        model = keras.models.load_model(path, compile=False, safe_mode=True)
    except (EnvironmentFault, ModelRefused):
        raise
    except NotImplementedError as fault:
        raise BackendLimit(
            f"Keras' {get_backend_name()} backend cannot build {path} ({shorten_error(fault)})."
        ) from fault
    except Exception as fault:  # Keras documents no type for this
        raise ModelRefused(
            f"{path} cannot be read as a Keras model. Keras says: {shorten_error(fault)}"
        ) from fault
    for layer in model.layers:  # a saved container remembers only its own flag
        for inner in () if layer.trainable else flatten_layers(layer):
            inner.trainable = False
    return model


def check_model(model: keras.Model) -> None:
    """Raise UsageError unless a model is one graph from RGB pixels to a map, tokens or a vector."""
    probe = keras.Input((1,))
    functional = type(keras.Model(probe, probe))  # the class has no public name
    if not isinstance(model, functional) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UsageError(
            "A backbone is a Functional model with one input and one output; wrap a Sequential one as "
            f"keras.Model(model.inputs, model.outputs). Received: {type(model).__name__} {model.name}."
        )
    pixels, features = model.inputs[0].shape, model.outputs[0].shape
    if len(pixels) != 4 or pixels[-1] != 3:
        raise UsageError(
            "A backbone takes RGB pixels of shape (batch, size, size, 3). "
            f"Received: {model.name}, which takes {pixels}."
        )
    if len(features) not in (2, 3, 4):
        raise UsageError(
            "A backbone gives a feature map (batch, height, width, channels), tokens (batch, tokens, "
            "channels) "
            f"or a feature vector (batch, channels). Received: {model.name}, which gives {features}."
        )


def choose_size(model: keras.Model, image_size: int | None) -> int:
    """Return the pixels a side for a checked model: its own size or, where it has none, `image_size`."""
    height, width = model.inputs[0].shape[1:3]
    if height != width:
        raise UsageError(f"A backbone takes square images. Received: {model.name}, {height} x {width}.")
    if height is None and image_size is None:
        raise UsageError(f"image_size: {model.name} takes images of any size; say which, for example 224.")
    if height is not None and image_size not in (None, height):
        raise UsageError(f"image_size: {model.name} takes {height} and nothing else. Received: {image_size}.")
    return int(height or image_size or 0)


def rebuild_at_size(model: keras.Model, size: int) -> keras.Model:
    """Return the same graph with fresh layers and a fixed image size; it is still one flat graph."""
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
            f"image_size: {model.name} cannot be built for {size} pixels a side. "
            f"Keras says: {shorten_error(fault)}"
        ) from fault


def copy_weights(source: keras.Model, target: keras.Model, kind: type[keras.layers.Layer]) -> keras.Model:
    """Change `target`: copy the weights of the layers of one class from `source`; return `target`."""
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, kind):
            new.set_weights(old.get_weights())
        for layer in (new, *getattr(new, "layers", ())):
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # the layer computes with a copy of its weights
    return target


def choose_contract(model: keras.Model, entry: Entry | None, pixels: str | None) -> tuple[str, str]:
    """Return the contract to put in front of a user's model, and a note where the user did not choose it."""
    own = next(filter(None, map(find_contract, model.layers)), None)
    if own and pixels is not None:
        raise UsageError(
            f"pixels: {model.name} has the contract {own} in its graph. Received also: {pixels!r}."
        )
    if pixels is not None or own or entry is None or entry.pixels == "raw" or not _is_bare(model):
        return pixels or "raw", ""
    note = (
        f"Pixels: the network comes without preprocessing: the contract {entry.pixels} of its family, "
        f"{entry.module}, is in front."
    )
    return entry.pixels, note


def _is_bare(model: keras.Model) -> bool:
    """Return whether pixels go straight into a convolution, so that no operation converts them before."""
    image = model.inputs[0]
    readers = [node for node in list_nodes(model) if any(tensor is image for tensor in node.input_tensors)]
    first = (keras.layers.Conv2D, keras.layers.ZeroPadding2D)
    return all(isinstance(node.operation, first) for node in readers)


def add_contract(model: keras.Model, contract: str) -> keras.Model:
    """Return the same layers, not copies, behind a pixel contract, as one flat graph."""
    if contract == "raw":
        return model
    image = keras.Input(model.inputs[0].shape[1:], name="image")
    return keras.Model(image, replay_graph(model, apply_contract(contract, image)), name=model.name)
