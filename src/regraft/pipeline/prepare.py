"""The stages of a run before anything learns: list, load the backbone, extract features, split."""

from __future__ import annotations

import os
import re
import zipfile
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.backbones.info import BackboneFacts
from regraft.data.catalog import Catalog
from regraft.data.duplicates import Copies, groups_of, leaks_of
from regraft.data.images.decoder_pool import DecodeAhead
from regraft.data.split import split
from regraft.errors import UsageError
from regraft.features.image_facts import facts_key
from regraft.features.store import pixel_key
from regraft.pipeline.context import Context
from regraft.recipe import Phase, Recipe
from regraft.system.backend import choose_openvino, expect_backend, expect_gradients, versions
from regraft.system.console import Reporter
from regraft.system.imports import preloaded_allocator

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features

__all__ = [
    "Parts",
    "begin_decoding",
    "choose_backend",
    "extract",
    "feature_key_hint",
    "list_data",
    "load_and_resolve",
    "open_backbone",
    "report_backbone",
    "report_refused",
    "split_catalog",
]

IN_MEMORY = "python:"  # before the name of a backbone that no recipe can hold
FOREIGN = (b"keras_hub", b"regraft>SavedModelLayer")  # in a configuration: layers that need TensorFlow
LONGEST = 2**24  # bytes of a configuration that are looked at


def choose_backend(*backbones: str, trains: bool = False) -> None:
    """Have Keras run on OpenVINO in this process where these backbones and what is done need nothing else.

    For commands of the program, before Keras is imported; see `regraft.system.backend`.

    Args:
        backbones: as `load_backbone` takes them. SavedModels and presets need TensorFlow.
        trains: something trains by gradient.

    Raises:
        EnvironmentFault: the backend that the user chose is not here, or cannot do this.
    """
    if not trains and not any(map(_needs_tensorflow, backbones)):
        choose_openvino()
    expect_backend()
    if trains:
        expect_gradients()


def _needs_tensorflow(backbone: str) -> bool:
    from regraft.backbones.zoo import is_zoo_name

    if not backbone.endswith(".keras"):
        return not is_zoo_name(backbone)
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), zipfile.ZipFile(backbone) as archive:
        with archive.open("config.json") as config:
            text = config.read(LONGEST)
        return any(name in text for name in FOREIGN)
    return False  # whoever reads it says what is wrong


def list_data(
    context: Context, data: Catalog | str | os.PathLike[str], recipe: Recipe
) -> tuple[Catalog, Recipe]:
    """Return what can be learned of the data, and the recipe that names the data; report the task.

    Raises:
        UsageError, DataError, EnvironmentFault: see `Catalog.open`.
    """
    catalog = Catalog.open(data, recipe)
    recipe = replace(recipe, data=os.fspath(data.root if isinstance(data, Catalog) else data))
    catalog = catalog.learnable()
    context.reporter.info(_describe_task(catalog, recipe))
    return catalog, recipe


def _describe_task(catalog: Catalog, recipe: Recipe) -> str:
    """The kind of target, and how to choose another where nobody has chosen it."""
    if recipe.task != "auto" or not catalog.why:
        return f"Task: {catalog.task}."
    return f"Task: {catalog.task} ({catalog.why}; --task overrules)."


def begin_decoding(
    context: Context, catalog: Catalog, recipe: Recipe, stack: ExitStack
) -> DecodeAhead | None:
    """Decode what is probably needed while the backend is still being imported.

    Which images that is depends on the network, which is not there yet; the store's hint tells which key the
    same recipe had before. A wrong guess costs time, never correctness. `stack` ends the decoding.
    """
    from regraft.backbones.weights import find_weights
    from regraft.backbones.zoo import find, is_zoo_name
    from regraft.features.precision import sample_images

    if context.in_memory.backbone is not None or not is_zoo_name(recipe.backbone):
        return None  # its size is known when it is loaded
    entry, store = find(recipe.backbone), context.store
    size = entry.size_at(recipe.image_size)
    # What cannot be had is said at once.
    find_weights(entry, recipe.weights, size=size, seed=recipe.seed, reporter=context.reporter)
    contents = catalog.contents
    key = store.recall(feature_key_hint(recipe))
    wanted = set(contents if key is None else store.entries(key).missing(contents))
    wanted |= set(store.entries(facts_key(size)).missing(contents))
    if recipe.keeps_pixels:
        wanted |= set(store.entries(pixel_key(size)).missing(contents))
    first = sample_images(catalog) if recipe.precision == "auto" else {}  # the choice looks at these
    order = dict.fromkeys([*first, *contents])
    decoding = DecodeAhead(catalog.jobs([content for content in order if content in wanted]), size)
    stack.callback(decoding.close)
    return decoding


def feature_key_hint(recipe: Recipe) -> str:
    """The question to the store: under which key did such a recipe's features lie?"""
    head = (recipe.head.pooling, recipe.head.taps)
    network = (recipe.backbone, recipe.weights, recipe.image_size, *head, recipe.seed, recipe.precision)
    return f"key of {network}"


def open_backbone(recipe: Recipe, *, trust: bool = False, reporter: Reporter) -> Backbone:
    """Return the backbone of a recipe; `trust` is as in `load_backbone`.

    Raises:
        UsageError, EnvironmentFault, ModelRefused: see `load_backbone`.
    """
    if recipe.backbone.startswith(IN_MEMORY):
        raise UsageError(
            f"backbone: {recipe.backbone.removeprefix(IN_MEMORY)} was handed over in Python when this recipe "
            "was written. Hand it over again: train(data, recipe, out, backbone=...)."
        )
    from regraft.backbones.load import load_backbone

    return load_backbone(
        recipe.backbone,
        weights=recipe.weights,
        pixels=recipe.pixels or None,
        image_size=recipe.image_size,
        seed=recipe.seed,
        trust=trust,
        reporter=reporter,
    )


def load_and_resolve(context: Context, recipe: Recipe) -> tuple[Backbone, Recipe]:
    """Return the backbone, and the recipe that nothing replaces from now on.

    Its phases have their plans in words, and it names a backbone that was handed over.

    Raises:
        UsageError, EnvironmentFault, ModelRefused: see `load_backbone` and `resolve_phases`; or a run is
            resumed that is another one.
    """
    from regraft.features.convert import prepare_converter

    expect_backend()
    if recipe.needs_gradients or context.in_memory.space is not None:
        expect_gradients()
    if allocator := preloaded_allocator():
        context.reporter.warn(
            f"OpenVINO cannot run beside {allocator}, which LD_PRELOAD names: Keras runs the network, "
            "more slowly."
        )
    else:
        prepare_converter()
    given = context.in_memory
    if given.backbone is not None:
        name, size = IN_MEMORY + given.backbone.name, given.backbone.image_size
        recipe = replace(recipe, backbone=name, weights="imagenet", pixels="", image_size=size)
    backbone = given.backbone or open_backbone(recipe, trust=context.trust, reporter=context.reporter)
    recipe = replace(recipe, phases=resolve_phases(backbone, recipe.phases))
    if given.space is not None:
        resolve_phases(backbone, tuple(Phase(plan) for plan in given.space.plans))
    plain = asdict(replace(recipe, data=""))
    context.journal.expect(recipe=plain, handed=given.names, version=versions())
    report_backbone(context.reporter, backbone)
    return backbone, recipe


def extract(
    context: Context,
    network: keras.Model,
    catalog: Catalog,
    recipe: Recipe,
    decoding: DecodeAhead | None = None,
) -> Features:
    """Return the features of a catalog's images, and keep a hint of where they lie for the next run."""
    from regraft.features.extract import extract_features

    features = extract_features(
        network,
        catalog,
        store=context.store,
        keep_pixels=recipe.keeps_pixels,
        ahead=decoding,
        precision=recipe.precision,
        reporter=context.reporter,
    )
    context.store.remember(feature_key_hint(recipe), features.key)
    return features


def report_backbone(reporter: Reporter, facts: BackboneFacts) -> None:
    """Report which backbone it is, and what was done to it on the way."""
    reporter.info(f"Backbone {facts.name} at {facts.image_size} px, weights: {facts.weights_briefly}.")
    for note in facts.notes:
        reporter.info(note)


def report_refused(reporter: Reporter, catalog: Catalog) -> None:
    """Report what is not used, the first dozen by name, all of it counted by reason."""
    refused = catalog.refused
    for item in refused[:12]:
        reporter.warn(f"Refused {item.image}: {item.code}, {item.detail}")
    if refused:
        reasons = Counter(item.code for item in refused)
        counted = ", ".join(f"{n} {code}" for code, n in reasons.most_common())
        total = len(refused) + len(catalog)
        reporter.info(
            f"{len(catalog):,} of {total:,} images used; refused: {counted}. All are in refused.jsonl."
        )


class Parts(NamedTuple):
    """A catalog whose samples have parts.

    Attributes:
        catalog: what can be used, copies of a picture on one side.
        leaks: part -> how many of its samples show a picture of a part before it.
        cautions: warnings about the data.
    """

    catalog: Catalog
    leaks: dict[str, int]
    cautions: list[str]


def split_catalog(context: Context, catalog: Catalog, features: Features, recipe: Recipe) -> Parts:
    """Drop refused images, split the rest, and keep copies of a picture in one part; report all of that."""
    from regraft.evaluation.problems import cautions  # it takes scikit-learn, which predicting does not

    catalog = catalog.without(features.refused)
    report_refused(context.reporter, catalog)
    catalog = catalog.learnable()
    ties = Copies.of(features.facts_of(catalog.contents), reporter=context.reporter).ties
    catalog = split(catalog, fraction=recipe.validation, seed=recipe.seed, ties=ties)
    context.reporter.info(_describe_parts(catalog))
    leaks, leak_warnings = leaks_of(catalog, ties)
    groups = groups_of(catalog.samples, ties)
    facts = features.facts(catalog.samples)
    warnings = cautions(catalog, facts, groups=groups, class_weight=recipe.class_weight)
    copies = _describe_copies(groups, leaks)
    context.reporter.info(copies)
    return Parts(replace(catalog, notes=(*catalog.notes, copies)), leaks, [*leak_warnings, *warnings])


def _describe_parts(catalog: Catalog) -> str:
    parts = [f"{len(catalog.part(part)):,} {part}" for part in ("train", "validation", "test")]
    kind = {"multilabel": "label", "regression": "target"}.get(catalog.task, "classe")
    count = len(catalog.outputs)
    return f"Samples: {', '.join(parts)}; {count} {kind}{'s' if count != 1 else ''}."


def _describe_copies(groups: NDArray[np.int64], leaks: dict[str, int]) -> str:
    """How many images show a picture that another one shows, and what became of it."""
    copies = len(groups) - len(set(groups.tolist()))
    said = f"{copies:,} image{' is a copy' if copies == 1 else 's are copies'} of another"
    if not leaks:
        return f"Copies: {said}."
    total = sum(leaks.values())
    return f"Copies: {said}; {total:,} of {' and '.join(leaks)} show{'s' * (total == 1)} what is trained on."


def resolve_phases(backbone: Backbone, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """Return the phases, their plans in words; refuse a plan that the backbone cannot have before any work.

    Raises:
        UsageError: see `backbone.freeze.resolve_plan`.
    """
    from regraft.models.freeze import resolve_plan

    found = []
    for phase in phases:
        if phase.unfreeze in ("auto", "none"):
            found.append(phase)
            continue
        if backbone.frozen_because:
            raise UsageError(
                f"unfreeze: expected auto or none, for {backbone.name} cannot be trained: "
                f"{backbone.frozen_because}. Received: {phase.unfreeze}."
            )
        plan = resolve_plan(backbone, phase.unfreeze)
        if callable(phase.unfreeze):
            names = [re.escape(layer.name) for layer in plan.layers]
            phase = replace(phase, unfreeze=f"match:^({'|'.join(names)})$")  # noqa: PLW2901
        found.append(phase)
    return tuple(found)
