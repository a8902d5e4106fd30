"""A name, a model file or a model -> `Backbone`.

A named backbone is always built from `keras.applications` without weights; the weights come from one file,
Keras' own cache or a path, through one door. So the graph, its layer count and its numbers are the same
wherever the file lay, and random weights never stand in for weights that were asked for.
"""

from __future__ import annotations

import contextlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import keras

from regraft.backbone.pixels import apply_contract, contract_of
from regraft.backbone.weights import (
    Weights,
    brief,
    choose_weights,
    complete_scaling,
    find_weights,
    load_weights,
    sha256,
)
from regraft.backbone.zoo import Entry, find, keras_cache
from regraft.errors import EnvironmentFault, ModelRefused, UsageError

__all__ = ["Backbone", "load_backbone"]


@dataclass(frozen=True)
class Backbone:
    """A pre-trained network without its classifier, that takes plain pixels.

    Args:
        name: the table's name for it, or the name of the file or model it came from.
        model: one Functional graph from RGB float pixels 0..255, shape `(batch, size, size, 3)`, to a feature
            map `(batch, height, width, channels)`; from a file also to a feature vector `(batch, channels)`.
        image_size: pixels a side.
        layers: the backbone's own layers in the order of `model.layers`; the input layer and the pixel
            contract are left out, conversions that the published model brings along are not.
        stages: stage name -> index in `layers` of the stage's first layer, in order; may be empty.
        weights: where the weights come from, as a phrase for reports.
        contract: the pixel contract in front of the layers, see `regraft.backbone.pixels`.
        new_layers: names of layers with weights that learned nothing yet, see `regraft.backbone.surgery`.
    """

    name: str
    model: keras.Model
    image_size: int
    layers: tuple[keras.layers.Layer, ...]
    stages: dict[str, int]
    weights: str
    contract: str
    new_layers: tuple[str, ...] = ()

    @property
    def weights_briefly(self) -> str:
        """`weights` with digests cut to twelve digits, for the eye."""
        return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{20,}\b", r"\1", self.weights)


def load_backbone(
    name: str | Path | keras.Model,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    seed: int = 0,
) -> Backbone:
    """A backbone by name, from a `.keras` file, or from a Functional model.

    The global random state is left as it was: `seed` acts on this backbone only. A model that is handed over
    is not copied (unless its weights are to be random, or its size was open), so both share their layers.

    Args:
        name: a name of `regraft backbones` in any spelling, the path of a `.keras` file, or a Functional
            model. File and model take RGB pixels 0..255 and give a feature map or a feature vector.
        weights: `"imagenet"` (for a file or a model: its own), `"random"`, or the path of an HDF5 file of
            weights without the classifier.
        image_size: pixels a side. Defaults to the size that the backbone is published for.
        seed: of random weights and of stochastic layers.

    Raises:
        UsageError: unknown name or weights, size too small, or weights of another architecture.
        EnvironmentFault: the published weights are not on this machine and cannot be had, or are damaged.
        ModelRefused: the `.keras` file cannot be read safely.

    Example:
        >>> backbone = load_backbone("mobilenet_v2", weights="random", image_size=64)
        >>> backbone.model.output_shape
        (None, 2, 2, 1280)
    """
    if keras.config.image_data_format() != "channels_last":
        raise EnvironmentFault(
            'Keras is set to images with channels first. Set "image_data_format" to "channels_last" in '
            f"{keras_cache().parent / 'keras.json'}."
        )
    if isinstance(name, keras.Model):
        own = Weights(None, f"own weights of the model {name.name}")
        return _from_model(name, own, weights=weights, image_size=image_size, seed=seed)
    if str(name).endswith(".keras"):
        path = Path(name)
        own = Weights(None, f"file {path.name} sha256 {sha256(path, 'model')}")
        return _from_model(_read_model(path), own, weights=weights, image_size=image_size, seed=seed)
    return _from_zoo(find(str(name)), weights=weights, image_size=image_size, seed=seed)


# --- by name


def _from_zoo(entry: Entry, *, weights: str | Path, image_size: int | None, seed: int) -> Backbone:
    size = entry.size_at(image_size)
    # The file is found and looked into first: building a large model takes many seconds.
    chosen = find_weights(entry, weights, size=size, seed=seed)
    with _seeded(seed):
        model = _build(entry, size)
    if chosen.file is not None:
        load_weights(model, chosen.file, entry.name)
    if entry.module == "efficientnet":
        complete_scaling(model)
    return _backbone(entry.name, model, provenance=chosen.provenance, entry=entry)


def _build(entry: Entry, size: int) -> keras.Model:
    image = keras.Input((size, size, 3), name="image")
    seen = apply_contract(entry.pixels, image)
    constructor = getattr(keras.applications, entry.constructor)
    model = constructor(include_top=False, weights=None, input_tensor=seen)
    # Built on a tensor, Keras declares a list of one input and warns at every call with a plain array.
    return keras.Model(image, model.output, name=entry.name)


def _backbone(name: str, model: keras.Model, *, provenance: str, entry: Entry | None) -> Backbone:
    layers = tuple(
        layer
        for layer in model.layers
        if not isinstance(layer, keras.layers.InputLayer) and not contract_of(layer)
    )
    stages = entry.stages.starts(layer.name for layer in layers) if entry else {}
    contract = next(filter(None, map(contract_of, model.layers)), "raw")
    return Backbone(name, model, int(model.input_shape[1]), layers, stages, provenance, contract)


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Keras draws the seed of every initializer and of every Dropout from Python's `random`, nowhere else.
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


# --- from a file or a model


def _from_model(
    model: keras.Model, own: Weights, *, weights: str | Path, image_size: int | None, seed: int
) -> Backbone:
    _check_model(model)
    chosen = choose_weights(weights, seed) or own
    size = _model_size(model, image_size)
    if weights == "random":
        with _seeded(seed):
            model = _carried(model, _rebuilt(model, size), keras.layers.Normalization)
    elif model.input_shape[1] is None or chosen.file is not None:
        # Weights from a file go into a copy, so that a refused file leaves the caller's model alone.
        model = _carried(model, _rebuilt(model, size), keras.layers.Layer)
    if chosen.file is not None:
        load_weights(model, chosen.file, model.name)
    known = None
    with contextlib.suppress(UsageError):  # a saved keras.applications model still has its name
        known = find(model.name)
    return _backbone(model.name, model, provenance=chosen.provenance, entry=known)


def _read_model(path: Path) -> keras.Model:
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as fault:  # Keras names no type: damaged archives and unsafe layers raise many
        raise ModelRefused(
            f"{path} cannot be read as a Keras model. Expected a .keras file whose layers come with Keras. "
            f"Keras says: {brief(fault)}"
        ) from fault


def _check_model(model: keras.Model) -> None:
    probe = keras.Input((1,))
    functional = type(keras.Model(probe, probe))  # the class has no public name
    if not isinstance(model, functional) or len(model.inputs) != 1 or len(model.outputs) != 1:
        raise UsageError(
            "A backbone is a Functional model with one input and one output; wrap a Sequential one as "
            f"keras.Model(model.inputs, model.outputs). Received: {type(model).__name__} {model.name}."
        )
    if len(model.input_shape) != 4 or model.input_shape[-1] != 3:
        raise UsageError(
            "A backbone takes RGB pixels of shape (batch, size, size, 3). "
            f"Received: {model.name}, which takes {model.input_shape}."
        )
    if len(model.output_shape) not in (2, 4):
        raise UsageError(
            "A backbone gives a feature map (batch, height, width, channels) or a feature vector "
            f"(batch, channels). Received: {model.name}, which gives {model.output_shape}."
        )


def _model_size(model: keras.Model, image_size: int | None) -> int:
    height, width = model.input_shape[1:3]
    if height != width:
        raise UsageError(f"A backbone takes square images. Received: {model.name}, {height} x {width}.")
    if height is None and image_size is None:
        raise UsageError(f"image_size: {model.name} takes images of any size; say which, for example 224.")
    if height is not None and image_size not in (None, height):
        raise UsageError(f"image_size: {model.name} takes {height} and nothing else. Received: {image_size}.")
    return int(height or image_size or 0)


def _rebuilt(model: keras.Model, size: int) -> keras.Model:
    """The same graph with fresh layers and a fixed image size; still one flat graph."""
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


def _carried(source: keras.Model, target: keras.Model, kind: type[keras.layers.Layer]) -> keras.Model:
    """`target`, changed in place: its layers of a kind have the weights of `source`."""
    for old, new in zip(source.layers, target.layers, strict=True):
        if isinstance(old, kind):
            new.set_weights(old.get_weights())
        for layer in (new, *getattr(new, "layers", ())):
            if isinstance(layer, keras.layers.Normalization):
                layer.finalize_state()  # it computes with a copy of its weights
    return target
