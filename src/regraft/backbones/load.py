"""A name, a handle, a file, a folder or a model becomes a `Backbone`.

A named backbone is always built from `keras.applications` without weights, and its weights then come from one
file, in Keras' cache or at a path. So the graph and its numbers are the same wherever the file lies, and
random weights never replace weights that the user asked for.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import keras

from regraft.backbones.classifier import MODEL_PREFIX, cut_off_classifier
from regraft.backbones.info import BackboneInfo
from regraft.backbones.nested import as_functional, unfold_networks
from regraft.backbones.pixel_check import PixelVerdict, check_pixels
from regraft.backbones.preprocessing import apply_contract, check_contract, find_contract, list_own_layers
from regraft.backbones.recognise import find_stages, recognise_network
from regraft.backbones.savedmodel import is_savedmodel
from regraft.backbones.savedmodel_layer import SavedModelLayer, open_savedmodel
from regraft.backbones.tfhub import fetch_module, parse_handle
from regraft.backbones.user_model import (
    add_contract,
    check_model,
    choose_contract,
    choose_size,
    copy_weights,
    read_model,
    rebuild_at_size,
)
from regraft.backbones.weights import (
    Weights,
    choose_weights,
    count_classes,
    draw_weights,
    expect_own_weights,
    find_weights,
    hash_existing_file,
    load_weights,
    repair_scaling,
)
from regraft.backbones.zoo import Entry, find_entry, is_zoo_name, locate_keras_cache, recognise_model
from regraft.errors import EnvironmentFault, UsageError
from regraft.model_scan.model_file import check_model_file
from regraft.model_scan.trust import make_trust_refusal
from regraft.recipe import ClassifierChoice
from regraft.system.backend import claim_backend
from regraft.system.console import TERMINAL, Reporter

__all__ = ["Backbone", "load_backbone"]

# A name that Keras gives, with the number of a counter of the process.
_COUNTED_NAME = re.compile(r"(functional|sequential|model)(_\d+)?")


@dataclass(frozen=True, kw_only=True)
class Backbone(BackboneInfo):
    """A pre-trained network without its classifier, which takes plain pixels.

    Attributes:
        model: one Functional graph from RGB float pixels 0..255, shape `(batch, size, size, 3)`, to a feature
            map `(batch, height, width, channels)`, to the tokens `(batch, tokens, channels)` of a vision
            transformer (with its class token, where it has one), or to a feature vector `(batch, channels)`.
        layers: the backbone's own layers in the order of `model.layers`, without the input layer and the
            pixel contract, but with any conversions of the published model. A SavedModel is one layer.
        stages: the index in `layers` of each stage's first layer, in order; may be empty.
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
    classifier: ClassifierChoice = "auto",
    trust: bool = False,
    reporter: Reporter = TERMINAL,
) -> Backbone:
    """Load a backbone by name or handle, from a file or a folder, or from a Functional model.

    The global random state does not change: `seed` affects only this backbone. A model is not copied (unless
    its weights are to be random, or its size is open), so both share their layers.

    Args:
        name: one of

            - a name of `regraft backbones` in any spelling, even where a file or folder has that name, which
              is then written `./NAME`;
            - the path of a `.keras` file, or a Functional or Sequential model. Networks within it become part
              of one graph (see `regraft.backbones.nested`), and a classifier at its end, or a head of
              regraft's, is cut off (see `regraft.backbones.classifier`);
            - the path of a folder with a SavedModel, `https://tfhub.dev/PUBLISHER/MODEL/VERSION`, or a Kaggle
              model, `OWNER/MODEL/tensorFlow2/VARIATION/VERSION` (see `regraft.backbones.tfhub`);
            - `kerashub:PRESET`, or the path of a preset's folder (see `regraft.backbones.kerashub`).
        weights: `"imagenet"` (a backbone that `regraft backbones` does not list keeps its own), `"random"`,
            or the path of an HDF5 file of weights, with or without the classifier. A SavedModel takes no
            other weights, a preset only random ones. `"file"` stands for those of a `.keras` file or a
            SavedModel; `"file sha256 <hex>"`, as recipes record it, also for this digest of them.
        image_size: pixels a side. Defaults to the size for which the backbone is published.
        seed: the seed of random weights and of stochastic layers.
        pixels: the pixel contract of a model, a `.keras` file or a SavedModel: `"raw"`, `"unit"`, `"tf"`,
            `"torch"` or `"caffe"` (see `regraft.backbones.preprocessing`). Defaults to `"unit"` for a
            SavedModel and to `"raw"` for the others; but a bare model of `keras.applications` gets the
            contract of its family.
        classifier: `"cut"`, `"keep"` or `"auto"` for a classifier at the end of a model or a `.keras` file,
            see `cut_off_classifier`.
        trust: whether you know where a SavedModel, by itself or in a `.keras` file, comes from: its graph is
            a program, which is run. This is remembered on this machine by content.
        reporter: shows the progress of downloads.

    Raises:
        UsageError: unknown name, weights or contract, a handle without a version, an impossible size, weights
            of another architecture, or a contract for a backbone that has its own.
        EnvironmentFault: the backbone is damaged, or is not on this machine and cannot be downloaded; a
            package is missing; or the process was forked from one that computes with Keras.
        ModelRefused: the `.keras` file cannot be read safely, a SavedModel is not trusted, or a SavedModel or
            preset is not for images.

    Example:
        >>> backbone = load_backbone("mobilenet_v2", weights="random", image_size=64)
        >>> backbone.model.output_shape
        (None, 2, 2, 1280)
    """
    if keras.config.image_data_format() != "channels_last":
        raise EnvironmentFault(
            'Keras is set to images with channels first. Set "image_data_format" to "channels_last" in '
            f"{locate_keras_cache().parent / 'keras.json'}."
        )
    claim_backend()
    if pixels is not None:
        check_contract(pixels)
    request = _Request(weights, image_size, seed, pixels, classifier, trust, reporter)
    if isinstance(name, keras.Model):
        return _from_model(name, Weights(None, f"own weights of the model {name.name}"), request)
    if classifier != "auto" and not str(name).endswith(".keras"):
        raise UsageError(
            "classifier: only models and .keras files of your own may end in one. "
            f"Received: {classifier} for {name}."
        )
    if is_zoo_name(name):
        return _from_zoo(find_entry(str(name)), request)
    return _from_path_or_handle(name, request)


def _from_path_or_handle(name: str | Path, request: _Request) -> Backbone:
    text, path = str(name), Path(name)
    if text.endswith(".keras"):
        digest = hash_existing_file(path, "model")
        own = Weights(None, f"file {path.name} sha256 {digest}")
        request = replace(request, weights=expect_own_weights(request.weights, text, digest))
        model = read_model(path, trust=request.trust)
        if "keras_hub" in sys.modules:  # the model may hold layers of KerasHub, which are saved again
            from regraft.backbones.kerashub import repair_layer_configs

            repair_layer_configs(model)
        return _from_model(model, own, request)
    if is_savedmodel(path):
        return _from_savedmodel(path, path.resolve().name, f"folder {path.name}", request)
    if (handle := parse_handle(text)) is not None:
        _expect_own_weights(text, request.weights)
        if not request.trust and handle.find_on_disk() is None:
            raise make_trust_refusal(handle.text)  # before anything is downloaded
        folder = fetch_module(handle, reporter=request.reporter)
        return _from_savedmodel(folder, handle.name, handle.text, request)
    if text.startswith("kerashub:"):
        return _from_preset(text.removeprefix("kerashub:"), request)
    if (path / "config.json").is_file():
        return _from_preset(os.path.join(".", path), request)  # noqa: PTH118 - pathlib drops "./"
    if path.is_dir():
        raise UsageError(
            f"backbone: the folder {path} holds neither a SavedModel (saved_model.pb) nor a preset "
            f"(config.json).{_suggest_model_inside(path)}"
        )
    if path.is_file():
        check_model_file(path)
        raise UsageError(
            f"backbone: {path} is a .keras file by its content. Rename it so that it ends in .keras."
        )
    return _from_zoo(find_entry(text), request)


def _suggest_model_inside(folder: Path) -> str:
    """Return a hint that names the only model in a folder, such as that of a run, or the empty string."""
    models = [*folder.glob("*.keras"), *(file.parent for file in folder.glob("*/saved_model.pb"))]
    return f" Name the model in it: {models[0]}." if len(models) == 1 else ""


@dataclass(frozen=True)
class _Request:
    """The arguments of `load_backbone`, except for the backbone itself."""

    weights: str | Path
    image_size: int | None
    seed: int
    pixels: str | None
    classifier: ClassifierChoice
    trust: bool
    reporter: Reporter


def _make_backbone(
    name: str,
    model: keras.Model,
    weights: str,
    *,
    entry: Entry | None = None,
    notes: tuple[str, ...] = (),
    cautions: tuple[str, ...] = (),
) -> Backbone:
    layers = tuple(list_own_layers(model))
    savedmodels = (layer for layer in layers if isinstance(layer, SavedModelLayer))
    return Backbone(
        name=name,
        model=model,
        image_size=int(model.inputs[0].shape[1]),
        layers=layers,
        stages=find_stages(entry, model, layers),
        weights=weights,
        contract=next(filter(None, map(find_contract, model.layers)), "raw"),
        notes=tuple(filter(None, notes)),
        cautions=tuple(filter(None, cautions)),
        frozen_because=next((layer.facts.frozen_because for layer in savedmodels), ""),
    )


@contextlib.contextmanager
def _seed_keras(seed: int) -> Iterator[None]:
    """Seed what Keras draws within: the seeds of its initializers and Dropouts all come from `random`."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


# --- by name


def _from_zoo(entry: Entry, request: _Request) -> Backbone:
    if request.pixels is not None:
        raise UsageError(
            f"pixels: {entry.name} has the contract {entry.pixels}, which is used. It can be stated for "
            f"models of your own only. Received: {request.pixels!r}."
        )
    size = entry.choose_size(request.image_size)
    # The file is found and checked first, since building a large model takes many seconds.
    chosen = find_weights(entry, request.weights, size=size, seed=request.seed, reporter=request.reporter)
    notes: tuple[str, ...] = ()
    with _seed_keras(request.seed):
        model = _build(entry, size)
    if chosen.file is not None and (classes := count_classes(chosen.file, model)) is not None:
        notes = (_load_with_classifier(entry, model, chosen.file, classes),)
    elif chosen.file is not None:
        load_weights(model, chosen.file, f"{entry.name} without its classifier")
    else:
        draw_weights(model, request.seed)
    if entry.module == "efficientnet":
        repair_scaling(model)
    return _make_backbone(entry.name, model, chosen.provenance, entry=entry, notes=notes)


def _build(entry: Entry, size: int) -> keras.Model:
    image = keras.Input((size, size, 3), name="image")
    converted = apply_contract(entry.pixels, image)
    constructor = getattr(keras.applications, entry.constructor)
    model = constructor(include_top=False, weights=None, input_tensor=converted)
    # Built on a tensor, a model declares a list of one input and warns at every call with a plain array.
    return keras.Model(image, model.output, name=entry.name)


def _load_with_classifier(entry: Entry, model: keras.Model, file: Path, classes: int) -> str:
    """Change `model`: load its weights from a file of the network with its classifier; return a note."""
    constructor = getattr(keras.applications, entry.constructor)
    classifier = constructor(include_top=True, weights=None, classes=classes)  # at the published size
    load_weights(classifier, file, f"{entry.name} with a classifier of {classes} classes")
    body, note = cut_off_classifier(classifier, published=True)
    model.set_weights(body.get_weights())
    return note


# --- from a file or a model


def _from_model(model: keras.Model, own: Weights, request: _Request) -> Backbone:
    model = as_functional(model)
    check_model(model)
    chosen = choose_weights(request.weights, request.seed) or own
    size = choose_size(model, request.image_size)
    body, is_random = _open_graph(model, request.classifier), request.weights == "random"
    if is_random:
        with _seed_keras(request.seed):
            fresh = copy_weights(body.model, rebuild_at_size(body.model, size), keras.layers.Normalization)
        draw_weights(fresh, request.seed)
        body = replace(body, model=fresh)
    elif chosen.file is not None:
        body = _load_into_copy(model, body, chosen.file, size=size, classifier=request.classifier)
    elif model.inputs[0].shape[1] is None:
        resized = copy_weights(body.model, rebuild_at_size(body.model, size), keras.layers.Layer)
        body = replace(body, model=resized)
    contract, contract_note = choose_contract(body.model, body.entry, request.pixels)
    is_certain = is_random or any(map(find_contract, body.model.layers))  # regraft wrote it
    verdict = PixelVerdict() if is_certain else check_pixels(body.model, contract, body.entry)
    return _make_backbone(
        body.name,
        add_contract(body.model, contract),
        chosen.provenance,
        entry=body.entry,
        notes=(*body.notes, contract_note or verdict.note),
        cautions=(verdict.caution,),
    )


@dataclass(frozen=True)
class _Body:
    """A user's model as one graph without its classifier: its entry, and what was done as sentences."""

    name: str
    model: keras.Model
    entry: Entry | None
    unfolded: bool
    notes: tuple[str, ...]


def _open_graph(model: keras.Model, classifier: ClassifierChoice) -> _Body:
    graph = unfold_networks(model)
    is_published = recognise_model(model.name) is not None
    body, note = cut_off_classifier(graph.model, published=is_published, choice=classifier)
    names = (model.name.removeprefix(MODEL_PREFIX), *graph.networks)
    entry = recognise_network(names, body)
    chosen_names = (name for name in names if not _COUNTED_NAME.fullmatch(name))
    name = next(chosen_names, entry.module if entry else names[0])
    return _Body(name, body, entry, bool(graph.networks), tuple(filter(None, (*graph.remarks, note))))


def _load_into_copy(
    model: keras.Model, body: _Body, file: Path, *, size: int, classifier: ClassifierChoice
) -> _Body:
    """Return a copy with the weights of a file, so that a refused file leaves the caller's model as it is.

    The file may be that of the model as it is, or that of the network without its classifier.
    """
    has_classifier = count_classes(file, body.model) is not None
    if has_classifier or body.unfolded:
        copy = copy_weights(model, rebuild_at_size(model, size), keras.layers.Layer)
        with contextlib.suppress(*(() if has_classifier else (UsageError,))):
            load_weights(copy, file, model.name)
            return _open_graph(copy, classifier)
    copy = copy_weights(body.model, rebuild_at_size(body.model, size), keras.layers.Layer)
    load_weights(copy, file, model.name)
    return replace(body, model=copy)


# --- SavedModels and presets


def _expect_own_weights(name: str, weights: str | Path) -> None:
    if weights != "imagenet":
        raise UsageError(f"weights: {name} brings its own weights. Received also: {weights}.")


def _from_savedmodel(folder: Path, name: str, source: str, request: _Request) -> Backbone:
    _expect_own_weights(source, expect_own_weights(request.weights, name, None))
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)
    layer = open_savedmodel(folder, image_size=request.image_size, name=plain, trust=request.trust)
    expect_own_weights(request.weights, name, layer.facts.digest)
    size = layer.facts.image_size
    image = keras.Input((size, size, 3), name="image")
    model = keras.Model(image, layer(apply_contract(request.pixels or "unit", image)), name=plain)
    notes = [f"A SavedModel at {size} pixels a side; its batch normalisation keeps its statistics."]
    if layer.facts.frozen_because:
        notes.append(f"It can only be used frozen: {layer.facts.frozen_because}.")
    weights = f"SavedModel {source} sha256 {layer.facts.digest}"
    return _make_backbone(plain, model, weights, notes=tuple(notes))


def _from_preset(preset: str, request: _Request) -> Backbone:
    from regraft.backbones.kerashub import open_preset

    if request.weights != "random":
        _expect_own_weights(preset, request.weights)
    with _seed_keras(request.seed):
        model, stages, notes = open_preset(
            preset,
            image_size=request.image_size,
            pixels=request.pixels,
            load_weights=request.weights != "random",
        )
    weights = f"KerasHub preset {preset}"
    if request.weights == "random":
        draw_weights(model, request.seed)
        weights = f"random (seed {request.seed})"
    backbone = _make_backbone(model.name, model, weights, notes=notes)
    indices = {layer.name: number for number, layer in enumerate(backbone.layers)}
    return replace(
        backbone, stages={stage: indices[first] for stage, first in stages.items() if first in indices}
    )
