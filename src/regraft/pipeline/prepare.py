"""The stages of a run before training: list the data, load the backbone, extract features, split."""

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

from regraft.backbones.info import BackboneInfo
from regraft.backbones.zoo import find_entry, is_zoo_name
from regraft.data.catalog import PARTS, Catalog
from regraft.data.duplicates import NearDuplicates, describe_leaks, group_samples
from regraft.data.images.decoder_pool import DecodingPool
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.data.samples import report_notes
from regraft.data.sources import IN_MEMORY_PREFIX, is_in_memory, name_data
from regraft.data.split import split
from regraft.errors import UsageError
from regraft.features.image_facts import facts_key
from regraft.features.store import pixel_key
from regraft.pipeline.context import Context
from regraft.recipe import Phase, Recipe
from regraft.settings.network_list import AUTO, join_items, split_for_each, split_networks
from regraft.system.backend import choose_openvino, get_versions, require_backend, require_gradients
from regraft.system.console import Reporter
from regraft.system.imports import find_preloaded_allocator

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features

__all__ = [
    "SplitData",
    "begin_decoding",
    "choose_backend",
    "extract_and_remember",
    "feature_key_hint",
    "list_data",
    "list_network_recipes",
    "list_parts",
    "load_and_resolve",
    "open_backbone",
    "report_backbone",
    "report_loading",
    "report_refused",
    "require_head",
    "split_catalog",
]

TENSORFLOW_LAYERS = (b"keras_hub", b"regraft>SavedModelLayer")  # marks of layers that need TensorFlow
NO_VALIDATION = "There are 0 validation images: nothing validates this model."
MAX_REFUSED = 12  # files named on the terminal
MAX_CONFIG_BYTES = 2**24  # how much of a model's configuration is searched for them


def choose_backend(*backbones: str, trains: bool = False) -> None:
    """Run Keras on OpenVINO in this process if the backbones and the task allow it.

    For the command line, before Keras is imported; see `regraft.system.backend`.

    Args:
        backbones: as for `load_backbone`. SavedModels and presets need TensorFlow.
        trains: whether anything is trained by gradient descent.

    Raises:
        EnvironmentFault: the backend that the user chose is not installed, or cannot do this.
    """
    networks = [network for backbone in backbones for network in split_networks(backbone)]
    if not trains and not any(map(_needs_tensorflow, networks)):
        choose_openvino()
    require_backend()
    if trains:
        require_gradients()


def _needs_tensorflow(backbone: str) -> bool:
    if not backbone.endswith(".keras"):
        return backbone != AUTO and not is_zoo_name(backbone)
    with suppress(OSError, ValueError, KeyError, zipfile.BadZipFile), zipfile.ZipFile(backbone) as archive:
        with archive.open("config.json") as config:
            text = config.read(MAX_CONFIG_BYTES)
        return any(name in text for name in TENSORFLOW_LAYERS)
    return False  # reading the file later reports what is wrong with it


def list_data(
    context: Context, data: Catalog | str | os.PathLike[str], recipe: Recipe
) -> tuple[Catalog, Recipe]:
    """Return the catalog of the data and the recipe with the data's name; report the task.

    Raises:
        UsageError, DataError, EnvironmentFault: see `Catalog.open`.
    """
    catalog = Catalog.open(data, recipe)
    learnable = catalog.require_learnable()
    report_notes(context.reporter, learnable.notes[len(catalog.notes) :])
    context.reporter.info(_describe_task(learnable, recipe))
    return learnable, name_data(data, recipe)


def _describe_task(catalog: Catalog, recipe: Recipe) -> str:
    """Name the task and, if it was detected, the reason and the option that overrides it."""
    if recipe.task != "auto" or not catalog.why:
        return f"Task: {catalog.task}."
    return f"Task: {catalog.task} ({catalog.why}; --task overrules)."


def begin_decoding(
    context: Context, catalog: Catalog, recipe: Recipe, stack: ExitStack
) -> DecodingPool | None:
    """Start to decode the images that are probably needed, while the backend is being imported.

    Which ones are needed depends on the network, which is not loaded yet. The store's hint tells under which
    key the same recipe had its features before; a wrong hint costs time, never correctness.

    Args:
        context: see `Context`.
        catalog: the images.
        recipe: names backbone, weights and image size.
        stack: ends the decoding when it closes.

    Returns:
        The decoding, or None if the size of the images is not known yet.
    """
    from regraft.backbones.weights import find_weights
    from regraft.features.precision import sample_images

    is_named = len(recipe.networks) == 1 and is_zoo_name(recipe.backbone)
    if context.in_memory.backbone is not None or not is_named:
        return None  # the image size is known only once the backbone is loaded
    entry, store = find_entry(recipe.backbone), context.store
    size = entry.choose_size(recipe.image_size)
    # Weights that are not available are reported at once.
    find_weights(entry, recipe.weights, size=size, seed=recipe.seed, reporter=context.reporter)
    digests = catalog.digests
    key = store.recall(feature_key_hint(recipe))
    missing = set(digests if key is None else store.entries(key).find_missing(digests))
    missing |= set(store.entries(facts_key(size, catalog.depth)).find_missing(digests))
    if recipe.keeps_pixels:
        missing |= set(store.entries(pixel_key(size, catalog.depth)).find_missing(digests))
    first = sample_images(catalog) if recipe.precision == "auto" else {}  # they decide the precision
    order = dict.fromkeys([*first, *digests])
    jobs = catalog.make_jobs([digest for digest in order if digest in missing])
    decoding = DecodingPool(jobs, size, depth=catalog.depth)
    stack.callback(decoding.close)
    return decoding


def list_network_recipes(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return a recipe for each network of a recipe alone, with its own weights and pixel contract."""
    names = recipe.networks
    if len(names) == 1:
        return (recipe,)
    weights = split_for_each(recipe.weights, len(names), "weights")
    pixels = split_for_each(recipe.pixels, len(names), "pixels")
    return tuple(
        replace(
            recipe,
            backbone=name,
            weights=weight,
            # Named networks bring their contract and no classifier.
            pixels="" if is_zoo_name(name) else contract,
            classifier="auto" if not name.endswith(".keras") else recipe.classifier,
        )
        for name, weight, contract in zip(names, weights, pixels, strict=True)
    )


def feature_key_hint(recipe: Recipe) -> str:
    """Return the name of the hint that holds the key of such a recipe's features."""
    head = (recipe.head.pooling, recipe.head.taps)
    network = (recipe.backbone, recipe.weights, recipe.image_size, *head, recipe.seed, recipe.precision)
    name = f"key of {network}"
    return name if recipe.depth == FULL_DEPTH else f"{name} at {recipe.depth} bits"


def open_networks(recipe: Recipe, *, trust: bool = False, reporter: Reporter) -> Backbone:
    """Return the backbone of a recipe, or a `JointBackbone` of the several networks that it names.

    Raises:
        UsageError, EnvironmentFault, ModelRefused: see `open_backbone` and `join_backbones`.
    """
    backbones = [open_backbone(one, trust=trust, reporter=reporter) for one in list_network_recipes(recipe)]
    if len(backbones) == 1:
        return backbones[0]
    from regraft.backbones.joint import join_backbones

    return join_backbones(backbones)


def open_backbone(recipe: Recipe, *, trust: bool = False, reporter: Reporter) -> Backbone:
    """Return the one backbone of a recipe; `trust` is as in `load_backbone`.

    Raises:
        UsageError: the recipe names several networks, or none by name; or see `load_backbone`.
        EnvironmentFault, ModelRefused: see `load_backbone`.
    """
    if len(recipe.networks) > 1 or recipe.backbone == AUTO:
        raise UsageError(
            "backbone: expected one network, for only train takes several, or auto. "
            f"Received: {recipe.backbone}."
        )
    if is_in_memory(recipe.backbone):
        raise UsageError(
            f"backbone: {recipe.backbone.removeprefix(IN_MEMORY_PREFIX)} was passed in from Python when this "
            "recipe was written. Pass it again: train(data, recipe, out, backbone=...)."
        )
    from regraft.backbones.load import load_backbone

    return load_backbone(
        recipe.backbone,
        weights=recipe.weights,
        pixels=recipe.pixels or None,
        classifier=recipe.classifier,
        image_size=recipe.image_size,
        seed=recipe.seed,
        trust=trust,
        reporter=reporter,
    )


def require_head(context: Context, recipe: Recipe) -> None:
    """Raise a UsageError if the recipe is of a run whose head only Python can pass in, and nobody did."""
    source = recipe.head.source
    if is_in_memory(source) and context.in_memory.head is None:
        raise UsageError(
            f"head: {source.removeprefix(IN_MEMORY_PREFIX)} was passed in from Python when this recipe was "
            "written. Pass it in again: train(data, recipe, out, head=...). Or remove source from [head] in "
            "the recipe: then the head that its other settings describe is trained."
        )


def load_and_resolve(context: Context, recipe: Recipe) -> tuple[Backbone, Recipe]:
    """Return the backbone and the final recipe, with plans as text and the backbone's name.

    Raises:
        UsageError, EnvironmentFault, ModelRefused: see `load_backbone` and `resolve_phases`; or the resumed
            run has other arguments.
    """
    from regraft.features.convert import prepare_converter

    require_backend()
    if recipe.needs_gradients or context.in_memory.space is not None:
        require_gradients()
    if allocator := find_preloaded_allocator():
        context.reporter.warn(
            f"OpenVINO cannot run with {allocator}, which LD_PRELOAD names. Keras runs the network instead, "
            "more slowly."
        )
    else:
        prepare_converter()
    in_memory = context.in_memory
    if in_memory.backbone is not None:
        name, size = IN_MEMORY_PREFIX + in_memory.backbone.name, in_memory.backbone.image_size
        recipe = replace(
            recipe, backbone=name, weights="imagenet", pixels="", classifier="auto", image_size=size
        )
    if in_memory.head is not None:
        source = IN_MEMORY_PREFIX + type(in_memory.head).__name__
        recipe = replace(recipe, head=replace(recipe.head, source=source))
    if in_memory.space is not None and len(recipe.networks) > 1:
        raise UsageError(f"backbone: expected one network for a search. Received: {recipe.backbone}.")
    backbone = in_memory.backbone or open_networks(recipe, trust=context.trust, reporter=context.reporter)
    weights = _name_weights(backbone, recipe)
    recipe = replace(recipe, weights=weights, phases=resolve_phases(backbone, recipe.phases))
    if in_memory.space is not None:
        resolve_phases(backbone, tuple(Phase(plan) for plan in in_memory.space.plans))
    settings = asdict(replace(recipe, data="", root=""))
    context.journal.check_inputs(recipe=settings, handed=in_memory.names, version=get_versions())
    for part in list_parts(backbone):
        report_backbone(context.reporter, part)
    return backbone, recipe


def _name_weights(backbone: Backbone, recipe: Recipe) -> str:
    """Return the weights as a recipe records them: own files of networks by their digests."""
    parts = list_parts(backbone)
    items = split_for_each(recipe.weights, len(parts), "weights")
    return join_items(
        [
            (_name_own_weights(part) if item in ("imagenet", "file") else "") or item
            for part, item in zip(parts, items, strict=True)
        ]
    )


def list_parts(backbone: Backbone) -> tuple[Backbone, ...]:
    """Return the networks of a backbone: one, or several of a `JointBackbone`."""
    return getattr(backbone, "parts", (backbone,))


def _name_own_weights(backbone: BackboneInfo) -> str:
    """Return how a recipe records the weights of a user's own file, with its digest; "" for other weights."""
    match = re.fullmatch(r"(?:file|SavedModel folder) .* sha256 ([0-9a-f]{64})", backbone.weights)
    return f"file sha256 {match[1]}" if match else ""


def extract_and_remember(
    context: Context,
    network: keras.Model,
    catalog: Catalog,
    recipe: Recipe,
    decoding: DecodingPool | None = None,
    *,
    keep_pixels: bool = False,
) -> Features:
    """Return the features of a catalog's images, and leave a hint of their key for the next run.

    `keep_pixels` keeps decoded pixels even if the recipe does not need them: another network will.
    """
    from regraft.features.extract import extract_features

    features = extract_features(
        network,
        catalog,
        store=context.store,
        keep_pixels=keep_pixels or recipe.keeps_pixels,
        decoding=decoding,
        precision=recipe.precision,
        reporter=context.reporter,
    )
    context.store.remember(feature_key_hint(recipe), features.key)
    return features


def report_backbone(reporter: Reporter, backbone: BackboneInfo) -> None:
    """Report the backbone, the notes on how it was loaded, and what looks wrong with it."""
    size = backbone.image_size
    reporter.info(f"Backbone {backbone.name} at {size} px, weights: {backbone.short_weights}.")
    report_loading(reporter, backbone)


def report_loading(reporter: Reporter, backbone: BackboneInfo) -> None:
    """Report what loading did to a backbone, and what looks wrong with it."""
    for note in backbone.notes:
        reporter.info(note)
    for caution in backbone.cautions:
        reporter.warn(caution)


def report_refused(reporter: Reporter, catalog: Catalog) -> None:
    """Report the refused files: the first by name, and the number of each reason."""
    refused = catalog.refused
    for item in refused[:MAX_REFUSED]:
        reporter.warn(f"Refused {item.image}: {item.code}, {item.detail}")
    if refused:
        reasons = Counter(item.code for item in refused)
        counts = ", ".join(f"{n} {code}" for code, n in reasons.most_common())
        total = len(refused) + len(catalog)
        reporter.info(f"{len(catalog):,} of {total:,} images used; refused: {counts}.")


class SplitData(NamedTuple):
    """A catalog that was split.

    Attributes:
        catalog: the usable samples, each in a part; copies of an image share one.
        groups: the number of each sample's group, (n,): copies of an image are in one group.
        leaks: part -> how many of its samples are copies of images in an earlier part.
        cautions: warnings about the data.
    """

    catalog: Catalog
    groups: NDArray[np.int64]
    leaks: dict[str, int]
    cautions: list[str]


def split_catalog(context: Context, catalog: Catalog, features: Features, recipe: Recipe) -> SplitData:
    """Drop refused images, split the rest, keep copies of an image in one part, and report all that."""
    from regraft.evaluation.problems import find_data_cautions  # imports scikit-learn

    known_notes = len(catalog.notes)
    catalog = catalog.exclude(features.refused)
    report_refused(context.reporter, catalog)
    if len(catalog.refused) > MAX_REFUSED:
        context.reporter.info("All refused files are in refused.jsonl.")
    catalog = catalog.require_learnable()
    duplicates = NearDuplicates.from_facts(
        features.facts_by_digest(catalog.digests), reporter=context.reporter
    ).digest_pairs
    catalog = split(catalog, fraction=recipe.validation, seed=recipe.seed, duplicates=duplicates)
    report_notes(context.reporter, catalog.notes[known_notes:])
    context.reporter.info(_describe_parts(catalog))
    leaks, leak_warnings = describe_leaks(catalog, duplicates)
    groups = group_samples(catalog.samples, duplicates)
    facts = features.facts(catalog.samples)
    warnings = find_data_cautions(catalog, facts, groups=groups, class_weight=recipe.class_weight)
    if not catalog.part("validation"):
        warnings.append(NO_VALIDATION)
    copies = _describe_copies(groups, leaks)
    context.reporter.info(copies)
    cautions = [*leak_warnings, *warnings]
    return SplitData(replace(catalog, notes=(*catalog.notes, copies)), groups, leaks, cautions)


def _describe_parts(catalog: Catalog) -> str:
    parts = [f"{len(catalog.part(part)):,} {part}" for part in PARTS]
    noun = {"multilabel": "label", "regression": "target"}.get(catalog.task, "classe")
    count = len(catalog.outputs)
    return f"Samples: {', '.join(parts)}; {count} {noun}{'s' if count != 1 else ''}."


def _describe_copies(groups: NDArray[np.int64], leaks: dict[str, int]) -> str:
    """Return how many images are copies of others, and how many of those leak training images."""
    copies = len(groups) - len(set(groups.tolist()))
    summary = f"{copies:,} image{' is a copy' if copies == 1 else 's are copies'} of another"
    if not leaks:
        return f"Copies: {summary}."
    total = sum(leaks.values())
    verb = "is" if total == 1 else "are"
    return f"Copies: {summary}; {total:,} of {' and '.join(leaks)} {verb} also in training."


def resolve_phases(backbone: Backbone, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """Return the phases with their plans as text; refuse impossible plans before any work is done.

    Raises:
        UsageError: see `models.freeze.resolve_plan`.
    """
    from regraft.models.freeze import resolve_plan

    resolved = []
    for phase in phases:
        if phase.unfreeze in ("auto", "none"):
            resolved.append(phase)
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
        resolved.append(phase)
    return tuple(resolved)
