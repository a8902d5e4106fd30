"""What a run starts from: the catalog that its recipe names, and its backbone, decoding meanwhile."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.backbone.facts import BackboneFacts
from regraft.console import say
from regraft.data.catalog import Catalog
from regraft.data.leaks import Copies, groups_of, leaks_of
from regraft.data.split import split
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.errors import UsageError
from regraft.features.facts import facts_key
from regraft.features.store import Store, pixel_key
from regraft.recipe import Phase, Recipe

if TYPE_CHECKING:
    import keras

    from regraft.backbone.load import Backbone
    from regraft.features.extract import Features
    from regraft.features.network import Network

__all__ = [
    "begin_decoding",
    "checked_phases",
    "enlarged",
    "extracted",
    "hint",
    "is_name",
    "open_backbone",
    "parted",
    "read_catalog",
    "recorded",
    "say_backbone",
    "say_refused",
]

HANDED = "python:"  # before the name of a backbone that no recipe can hold
TABLES = (".csv", ".tsv", ".txt", ".parquet")


def read_catalog(data: str | os.PathLike[str], recipe: Recipe) -> Catalog:
    """The catalog of a folder, or of a table with the columns that the recipe names.

    Raises:
        UsageError, DataError, EnvironmentFault: see `Catalog.from_folder` and `Catalog.from_table`.
    """
    path = Path(data)
    columns = {"image": recipe.image, "target": recipe.target}
    if path.suffix.lower() in TABLES and not path.is_dir():
        missing = [f"--{name} COLUMN" for name, value in columns.items() if not value]
        if missing:
            raise UsageError(f"{path} is a table: say {' and '.join(missing)}.")
        return Catalog.from_table(
            path,
            image=recipe.image,
            target=recipe.target,
            group=recipe.group,
            split=recipe.split,
            separator=recipe.separator,
            task=recipe.task,
        )
    named = [f"--{name}" for name, value in columns.items() if value]
    if named:
        raise UsageError(f"{', '.join(named)} name columns of a table. Received: {path}, which is no table.")
    return Catalog.from_folder(path).as_task(recipe.task)


def begin_decoding(catalog: Catalog, recipe: Recipe, store: Store) -> DecodeAhead | None:
    """Decode what is probably needed while the backend is still being imported.

    Which images that is depends on the network, which is not there yet; the store's hint tells which key the
    same recipe had before. A wrong guess costs time, never correctness.
    """
    from regraft.backbone.weights import find_weights
    from regraft.backbone.zoo import find

    if not is_name(recipe.backbone):
        return None  # its size is known when it is loaded
    entry = find(recipe.backbone)
    size = entry.size_at(recipe.image_size)
    find_weights(entry, recipe.weights, size=size, seed=recipe.seed)  # what cannot be had is said at once
    contents = catalog.contents
    key = store.recall(hint(recipe))
    wanted = set(contents if key is None else store.entries(key).missing(contents))
    wanted |= set(store.entries(facts_key(size)).missing(contents))
    if recipe.keeps_pixels:
        wanted |= set(store.entries(pixel_key(size)).missing(contents))
    return DecodeAhead(jobs_for(catalog, [content for content in contents if content in wanted]), size)


def is_name(backbone: str) -> bool:
    """Whether this is meant as a name of the table, not as a file, folder, handle or preset."""
    return not Path(backbone).exists() and not any(mark in backbone for mark in "/:.")


def hint(recipe: Recipe) -> str:
    """The question to the store: under which key did such a recipe's features lie?"""
    head = (recipe.head.pooling, recipe.head.taps)
    network = (recipe.backbone, recipe.weights, recipe.image_size, *head, recipe.seed, recipe.precision)
    return f"key of {network}"


def open_backbone(recipe: Recipe, *, trust: bool = False) -> Backbone:
    """The backbone of a recipe; `trust` is as in `load_backbone`.

    Raises:
        UsageError, EnvironmentFault, ModelRefused: see `load_backbone`.
    """
    if recipe.backbone.startswith(HANDED):
        raise UsageError(
            f"backbone: {recipe.backbone.removeprefix(HANDED)} was handed over in Python when this recipe "
            "was written. Hand it over again: train(data, recipe, out, backbone=...)."
        )
    from regraft.backbone.load import load_backbone

    return load_backbone(
        recipe.backbone,
        weights=recipe.weights,
        pixels=recipe.pixels or None,
        image_size=recipe.image_size,
        seed=recipe.seed,
        trust=trust,
    )


def extracted(
    network: keras.Model | Network, catalog: Catalog, recipe: Recipe, store: Store, ahead: DecodeAhead | None
) -> Features:
    """The features of a catalog's images, and a hint of where they lie for the next run; see
    `features.extract`."""
    from regraft.features.extract import extract_features

    features = extract_features(
        network,
        catalog,
        store=store,
        keep_pixels=recipe.keeps_pixels,
        ahead=ahead,
        precision=recipe.precision,
    )
    store.remember(hint(recipe), features.key)
    return features


def say_backbone(facts: BackboneFacts) -> None:
    """Which backbone it is, and what was done to it on the way."""
    say(f"Backbone {facts.name} at {facts.image_size} px, weights: {facts.weights_briefly}.")
    for note in facts.notes:
        say(note)


def say_refused(catalog: Catalog) -> None:
    """Name what is not used, the first dozen, and count it by reason."""
    refused = catalog.refused
    for item in refused[:12]:
        say(f"Refused {item.image}: {item.code}, {item.detail}", style="yellow")
    if refused:
        reasons = Counter(item.code for item in refused)
        counted = ", ".join(f"{n} {code}" for code, n in reasons.most_common())
        total = len(refused) + len(catalog)
        say(f"{len(catalog):,} of {total:,} images used; refused: {counted}. All are in refused.jsonl.")


def parted(catalog: Catalog, features: Features, recipe: Recipe) -> tuple[Catalog, dict[str, int], list[str]]:
    """What can be used of the catalog, in parts, copies of a picture on one side. What is refused is said,
    what the user's own cut leaks is counted.

    Returns:
        The catalog; part -> how many of its samples show a picture of a part before it; warnings.
    """
    from regraft.evaluation.problems import cautions  # it takes scikit-learn, which predicting does not

    catalog = catalog.without(features.refused)
    say_refused(catalog)
    catalog = catalog.learnable()
    ties = find_copies(catalog, features).ties
    catalog = split(catalog, fraction=recipe.validation, seed=recipe.seed, ties=ties)
    say(_parts(catalog))
    leaks, said_of_leaks = leaks_of(catalog, ties)
    groups = groups_of(catalog.samples, ties)
    facts = features.facts(catalog.samples)
    told = cautions(catalog, facts, groups=groups, class_weight=recipe.class_weight)
    said = _copies(groups, leaks)
    say(said)
    return replace(catalog, notes=(*catalog.notes, said)), leaks, [*said_of_leaks, *told]


def find_copies(catalog: Catalog, features: Features) -> Copies:
    """Which of a catalog's images show one picture."""
    return Copies.of(features.facts_of(catalog.contents))


def _parts(catalog: Catalog) -> str:
    parts = [f"{len(catalog.part(part)):,} {part}" for part in ("train", "validation", "test")]
    kind = {"multilabel": "label", "regression": "target"}.get(catalog.task, "classe")
    count = len(catalog.outputs)
    return f"Samples: {', '.join(parts)}; {count} {kind}{'s' if count != 1 else ''}."


def _copies(groups: NDArray[np.int64], leaks: dict[str, int]) -> str:
    """How many images show a picture that another one shows, and what became of it."""
    copies = len(groups) - len(set(groups.tolist()))
    said = f"{copies:,} image{' is a copy' if copies == 1 else 's are copies'} of another"
    if not leaks:
        return f"Copies: {said}."
    total = sum(leaks.values())
    return f"Copies: {said}; {total:,} of {' and '.join(leaks)} show{'s' * (total == 1)} what is trained on."


def recorded(recipe: Recipe, backbone: Backbone) -> Recipe:
    """The recipe with a backbone that was handed over in Python: its name, which alone does not load it."""
    size = backbone.image_size
    return replace(recipe, backbone=HANDED + backbone.name, weights="imagenet", pixels="", image_size=size)


def enlarged(catalog: Catalog, features: Features, size: int) -> str:
    """A warning where most images have far fewer pixels than the backbone takes; empty otherwise."""
    sides = sorted(max(facts.width, facts.height) for facts in features.facts(catalog.samples))
    middle = sides[len(sides) // 2]
    if middle * 2 > size:
        return ""
    return (
        f"Most images are small: {middle} pixels on the longer side are enlarged to {size}. It works, but "
        f"what the backbone knows of detail is of no use; --image-size {max(32, middle)} is faster."
    )


def checked_phases(backbone: Backbone, phases: tuple[Phase, ...]) -> tuple[Phase, ...]:
    """The phases, their plans in words; a plan that the backbone cannot have is refused before any work.

    Raises:
        UsageError: see `backbone.freeze.resolve_plan`.
    """
    from regraft.backbone.freeze import resolve_plan

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
