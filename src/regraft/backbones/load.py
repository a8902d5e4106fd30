"""A name, a handle, a file, a folder or a model -> `Backbone`.

A named backbone is always built from `keras.applications` without weights; the weights come from one file,
Keras' own cache or a path, through one door. So the graph, its layer count and its numbers are the same
wherever the file lay, and random weights never stand in for weights that were asked for.
"""

from __future__ import annotations

import contextlib
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from regraft.backbones.graph import MODEL_PREFIX, without_classifier
from regraft.backbones.info import BackboneFacts
from regraft.backbones.preprocessing import apply_contract, check_contract, contract_of, own_layers
from regraft.backbones.savedmodel import is_savedmodel
from regraft.backbones.savedmodel_layer import SavedModelLayer, open_savedmodel
from regraft.backbones.tfhub import fetch, parse_handle
from regraft.backbones.user_model import (
    behind_contract,
    carried,
    check_model,
    model_size,
    own_contract,
    read_model,
    rebuilt,
)
from regraft.backbones.weights import (
    Weights,
    choose_weights,
    classes_of,
    complete_scaling,
    draw_weights,
    find_weights,
    load_weights,
    sha256,
)
from regraft.backbones.zoo import Entry, find, keras_cache, recognise
from regraft.errors import EnvironmentFault, UsageError
from regraft.model_scan.model_file import check_model_file
from regraft.model_scan.trust import refusal
from regraft.system.console import TERMINAL, Reporter

__all__ = ["Backbone", "load_backbone"]


@dataclass(frozen=True, kw_only=True)
class Backbone(BackboneFacts):
    """A pre-trained network without its classifier, that takes plain pixels.

    Attributes:
        model: one Functional graph from RGB float pixels 0..255, shape `(batch, size, size, 3)`, to a feature
            map `(batch, height, width, channels)`, to tokens `(batch, tokens, channels)` of a vision
            transformer (its class token among them, where it has one), or to a feature vector `(batch,
            channels)`.
        layers: the backbone's own layers in the order of `model.layers`; the input layer and the pixel
            contract are left out, conversions that the published model brings along are not. A SavedModel is
            one layer.
        stages: stage name -> index in `layers` of the stage's first layer, in order; may be empty.
    """

    model: keras.Model
    layers: tuple[keras.layers.Layer, ...]
    stages: dict[str, int]


def load_backbone(
    name: str | Path | keras.Model,
    *,
    weights: str | Path = "imagenet",
    image_size: int | None = None,
    seed: int = 0,
    pixels: str | None = None,
    trust: bool = False,
    reporter: Reporter = TERMINAL,
) -> Backbone:
    """A backbone by name or handle, from a file or a folder, or from a Functional model.

    The global random state is left as it was: `seed` acts on this backbone only. A model that is handed over
    is not copied (unless its weights are to be random, or its size was open), so both share their layers.

    Args:
        name: one of

            - a name of `regraft backbones` in any spelling;
            - the path of a `.keras` file, or a Functional model. A classifier at its end, and a head of
              regraft's, is cut off (see `regraft.backbones.graph`);
            - the path of a folder with a SavedModel, `https://tfhub.dev/PUBLISHER/MODEL/VERSION`, or a Kaggle
              model, `OWNER/MODEL/tensorFlow2/VARIATION/VERSION` (see `regraft.backbones.tfhub`);
            - `kerashub:PRESET`, or the path of a preset's folder (see `regraft.backbones.kerashub`).
        weights: `"imagenet"` (what is not in `regraft backbones`: its own), `"random"`, or the path of an
            HDF5 file of weights, with or without the classifier. A SavedModel has its own and no others; a
            preset its own or random ones.
        image_size: pixels a side. Defaults to the size that the backbone is published for.
        seed: of random weights and of stochastic layers.
        pixels: what a model, a `.keras` file or a SavedModel expects of its pixels: `"raw"`, `"unit"`,
            `"tf"`, `"torch"` or `"caffe"` (see `regraft.backbones.preprocessing`). Defaults to `"unit"` for a
            SavedModel, and to `"raw"` for the others; but a bare model of `keras.applications` gets the
            contract of its family.
        trust: you know where a SavedModel comes from, by itself or in a `.keras` file: its graph is a program
            and is run. Remembered on this machine by content.
        reporter: shows what is downloaded.

    Raises:
        UsageError: unknown name, weights or contract, a handle without a version, a size that cannot be,
            weights of another architecture, or a contract for a backbone whose contract is known.
        EnvironmentFault: what is asked for is not on this machine and cannot be had, or is damaged; or a
            package is missing.
        ModelRefused: the `.keras` file cannot be read safely, a SavedModel is not trusted, or it or a preset
            is not one of images.

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
    if pixels is not None:
        check_contract(pixels)
    asked = _Asked(weights, image_size, seed, pixels, trust, reporter)
    if isinstance(name, keras.Model):
        return _from_model(name, Weights(None, f"own weights of the model {name.name}"), asked)
    text, path = str(name), Path(name)
    if text.endswith(".keras"):
        own = Weights(None, f"file {path.name} sha256 {sha256(path, 'model')}")
        model = read_model(path, trust=trust)
        if "keras_hub" in sys.modules:  # it holds layers that are to be saved again
            from regraft.backbones.kerashub import mend_layers

            mend_layers(model)
        return _from_model(model, own, asked)
    if is_savedmodel(path):
        return _from_savedmodel(path, path.resolve().name, f"folder {path.name}", asked)
    if (handle := parse_handle(text)) is not None:
        _expect_own_weights(text, asked.weights)
        if not trust and handle.on_disk() is None:
            raise refusal(handle.text)  # before anything is downloaded
        return _from_savedmodel(fetch(handle, reporter=reporter), handle.name, handle.text, asked)
    if text.startswith("kerashub:") or (path / "config.json").is_file():
        return _from_preset(text.removeprefix("kerashub:"), asked)
    if path.is_dir():
        raise UsageError(
            f"backbone: the folder {path} holds neither a SavedModel (saved_model.pb) nor a preset "
            "(config.json)."
        )
    if path.is_file():
        check_model_file(path)
        raise UsageError(
            f"backbone: {path} is a .keras file by its content. Rename it so that it ends in .keras."
        )
    return _from_zoo(find(text), asked)


@dataclass(frozen=True)
class _Asked:
    """What the caller of `load_backbone` wants, besides the backbone itself."""

    weights: str | Path
    image_size: int | None
    seed: int
    pixels: str | None
    trust: bool
    reporter: Reporter


def _backbone(
    name: str,
    model: keras.Model,
    weights: str,
    *,
    entry: Entry | None = None,
    notes: tuple[str, ...] = (),
) -> Backbone:
    layers = tuple(own_layers(model))
    modules = (layer for layer in layers if isinstance(layer, SavedModelLayer))
    return Backbone(
        name=name,
        model=model,
        image_size=int(model.inputs[0].shape[1]),
        layers=layers,
        stages=entry.stages.starts(layer.name for layer in layers) if entry else {},
        weights=weights,
        contract=next(filter(None, map(contract_of, model.layers)), "raw"),
        notes=notes,
        frozen_because=next((layer.facts.frozen_because for layer in modules), ""),
    )


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    # Keras draws the seed of every initializer and of every Dropout from Python's `random`, nowhere else.
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


# --- by name


def _from_zoo(entry: Entry, asked: _Asked) -> Backbone:
    if asked.pixels is not None:
        raise UsageError(
            f"pixels: {entry.name} has the contract {entry.pixels}, which is used. It can be stated for "
            f"models of your own only. Received: {asked.pixels!r}."
        )
    size = entry.size_at(asked.image_size)
    # The file is found and looked into first: building a large model takes many seconds.
    chosen = find_weights(entry, asked.weights, size=size, seed=asked.seed, reporter=asked.reporter)
    notes: tuple[str, ...] = ()
    with _seeded(asked.seed):
        model = _build(entry, size)
    if chosen.file is not None and (classes := classes_of(chosen.file, model)) is not None:
        notes = (_load_with_classifier(entry, model, chosen.file, classes),)
    elif chosen.file is not None:
        load_weights(model, chosen.file, f"{entry.name} without its classifier")
    else:
        draw_weights(model, asked.seed)
    if entry.module == "efficientnet":
        complete_scaling(model)
    return _backbone(entry.name, model, chosen.provenance, entry=entry, notes=notes)


def _build(entry: Entry, size: int) -> keras.Model:
    image = keras.Input((size, size, 3), name="image")
    seen = apply_contract(entry.pixels, image)
    constructor = getattr(keras.applications, entry.constructor)
    model = constructor(include_top=False, weights=None, input_tensor=seen)
    # Built on a tensor, Keras declares a list of one input and warns at every call with a plain array.
    return keras.Model(image, model.output, name=entry.name)


def _load_with_classifier(entry: Entry, model: keras.Model, file: Path, classes: int) -> str:
    """Change `model`: its weights come from a file of the network with its classifier; returns a note."""
    constructor = getattr(keras.applications, entry.constructor)
    whole = constructor(include_top=True, weights=None, classes=classes)  # at the size of the published file
    load_weights(whole, file, f"{entry.name} with a classifier of {classes} classes")
    body, note = without_classifier(whole, published=True)
    model.set_weights(body.get_weights())
    return note


# --- from a file or a model


def _from_model(model: keras.Model, own: Weights, asked: _Asked) -> Backbone:
    check_model(model)
    chosen = choose_weights(asked.weights, asked.seed) or own
    size = model_size(model, asked.image_size)
    known = recognise(model.name.removeprefix(MODEL_PREFIX))
    body, note = without_classifier(model, published=known is not None)
    if asked.weights == "random":
        with _seeded(asked.seed):
            body = carried(body, rebuilt(body, size), keras.layers.Normalization)
        draw_weights(body, asked.seed)
    elif chosen.file is not None:
        # Into a copy, so that a refused file leaves the caller's model alone.
        whole = model if classes_of(chosen.file, body) is not None else body
        copy = carried(whole, rebuilt(whole, size), keras.layers.Layer)
        load_weights(copy, chosen.file, model.name)
        body = without_classifier(copy, published=known is not None)[0]
    elif model.inputs[0].shape[1] is None:
        body = carried(body, rebuilt(body, size), keras.layers.Layer)
    contract, why = own_contract(body, known, asked.pixels)
    notes = tuple(filter(None, (note, why)))
    return _backbone(body.name, behind_contract(body, contract), chosen.provenance, entry=known, notes=notes)


# --- SavedModels and presets


def _expect_own_weights(name: str, weights: str | Path) -> None:
    if weights != "imagenet":
        raise UsageError(f"weights: {name} brings its own weights. Received also: {weights}.")


def _from_savedmodel(folder: Path, name: str, source: str, asked: _Asked) -> Backbone:
    _expect_own_weights(source, asked.weights)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    layer = open_savedmodel(folder, image_size=asked.image_size, name=plain, trust=asked.trust)
    size = layer.facts.image_size
    image = keras.Input((size, size, 3), name="image")
    model = keras.Model(image, layer(apply_contract(asked.pixels or "unit", image)), name=plain)
    notes = [f"A SavedModel at {size} pixels a side; its batch normalisation keeps its statistics."]
    if layer.facts.frozen_because:
        notes.append(f"It can only be used frozen: {layer.facts.frozen_because}.")
    weights = f"SavedModel {source} sha256 {layer.facts.digest}"
    return _backbone(plain, model, weights, notes=tuple(notes))


def _from_preset(preset: str, asked: _Asked) -> Backbone:
    from regraft.backbones.kerashub import open_preset

    if asked.weights != "random":
        _expect_own_weights(preset, asked.weights)
    with _seeded(asked.seed):
        model, stages, notes = open_preset(
            preset,
            image_size=asked.image_size,
            pixels=asked.pixels,
            load_weights=asked.weights != "random",
        )
    if drawn := asked.weights == "random":
        draw_weights(model, asked.seed)
    weights = f"random (seed {asked.seed})" if drawn else f"KerasHub preset {preset}"
    backbone = _backbone(model.name, model, weights, notes=notes)
    place = {layer.name: number for number, layer in enumerate(backbone.layers)}
    return replace(
        backbone, stages={stage: place[first] for stage, first in stages.items() if first in place}
    )
