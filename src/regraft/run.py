"""A recipe, stage by stage: the table of contents of the program.

    catalog -> features of the frozen backbone -> split -> linear probe -> fine-tuning, if it pays
            -> scores -> run folder

What needs a deep-learning backend is imported where it is used: listing and decoding begin before that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.artifacts import claim_folder, write_run
from regraft.console import duration, say
from regraft.data.catalog import Catalog, Sample
from regraft.data.split import split
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.deploy.bundle import Bundle, load
from regraft.errors import DataError
from regraft.features.store import Entries, Store, pixel_key
from regraft.outcome import Decision, Outcome
from regraft.recipe import Recipe

if TYPE_CHECKING:
    import keras

    from regraft.backbone.load import Backbone
    from regraft.data.batches import Batches
    from regraft.features.extract import Features
    from regraft.training.search import Depth
    from regraft.training.solvers import Probe

__all__ = ["Run", "train"]

FEATURE = "pooled"  # the tensor the head sees


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        model: the trained network, an ordinary `keras.Model`.
        metrics: the content of metrics.json.
        interrupted: fine-tuning was stopped by Ctrl-C; the model is the best so far.
    """

    path: Path
    model: keras.Model
    metrics: dict[str, Any]
    interrupted: bool = False

    @property
    def bundle(self) -> Bundle:
        """The run as `load` opens it."""
        return load(self.path)


@dataclass
class _Clock:
    """Seconds a stage, in the order in which they ran."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[stage] = time.monotonic() - begun


def train(
    data: Catalog | str | PathLike[str],
    recipe: Recipe | None = None,
    out: str | PathLike[str] = "run",
    *,
    overwrite: bool = False,
    store: str | PathLike[str] | None = None,
) -> Run:
    """Train a classifier on images and write a run folder. What `regraft train` calls.

    Args:
        data: a folder of class folders, or a catalog.
        recipe: every setting; None for the defaults.
        out: the folder to make.
        overwrite: replace `out` if it holds an earlier run.
        store: folder of computed features; None for the user's cache.

    Raises:
        UsageError, DataError, EnvironmentFault: see `regraft.errors`; then `out` is as it was.

    Example:
        run = train("photos", Recipe(backbone="mobilenet_v2"), "runs/photos")
        run.model.predict(pixels)
    """
    recipe = recipe or Recipe()
    clock, kept = _Clock(), Store(store)
    with claim_folder(Path(out), overwrite=overwrite) as folder:
        with clock("list"):
            catalog = data if isinstance(data, Catalog) else Catalog.from_folder(data)
            recipe = replace(recipe, data=str(catalog.root))
            catalog = catalog.learnable()
            ahead = _begin_decoding(catalog, recipe, kept)
        with clock("load"):
            backbone = _load(recipe, ahead)
        with clock("features"):
            features = _extract(backbone, catalog, recipe, kept, ahead)
            catalog = catalog.without(features.refused)
            _say_refused(catalog)
            catalog = catalog.learnable()
            catalog = split(catalog, fraction=recipe.validation, seed=recipe.seed)
        with clock("probe"):
            model, probe = _probe(backbone, catalog, features, recipe)
        with clock("fine-tune"):
            decision = _fine_tune(
                model, backbone, catalog=catalog, features=features, recipe=recipe, store=kept
            )
        with clock("evaluate"):
            answers = _answers(
                model,
                probe,
                catalog=catalog,
                features=features,
                decision=decision,
                size=backbone.image_size,
            )
        outcome = Outcome(recipe, catalog, backbone, model, features, probe, decision, answers, clock.seconds)
        metrics = write_run(outcome, folder, Path(out))
    return Run(Path(out), model, metrics, interrupted=decision.stopped == "interrupted")


def _begin_decoding(catalog: Catalog, recipe: Recipe, store: Store) -> DecodeAhead | None:
    """Decode what is probably needed while the backend is still being imported.

    Which images that is depends on the network, which is not there yet; the store's hint tells which key the
    same recipe had before. A wrong guess costs time, never correctness.
    """
    from regraft.backbone.weights import find_weights
    from regraft.backbone.zoo import find

    if recipe.backbone.endswith(".keras"):
        return None  # its size is known when it is loaded
    entry = find(recipe.backbone)
    size = entry.size_at(recipe.image_size)
    find_weights(entry, recipe.weights, size=size, seed=recipe.seed)  # what cannot be had is said at once
    contents = list(dict.fromkeys(sample.digest for sample in catalog.samples))
    key = store.recall(_hint(recipe))
    wanted = set(contents if key is None else store.entries(key).missing(contents))
    if recipe.unfreeze != "none":
        wanted |= set(store.entries(pixel_key(size)).missing(contents))
    return DecodeAhead(jobs_for(catalog, [content for content in contents if content in wanted]), size)


def _hint(recipe: Recipe) -> str:
    network = (recipe.backbone, recipe.weights, recipe.image_size, recipe.head.pooling, recipe.seed)
    return f"key of {network}"


def _load(recipe: Recipe, ahead: DecodeAhead | None) -> Backbone:
    try:
        from regraft.backbone.freeze import first_trained
        from regraft.backbone.load import load_backbone

        backbone = load_backbone(
            recipe.backbone, weights=recipe.weights, image_size=recipe.image_size, seed=recipe.seed
        )
        if recipe.unfreeze != "auto":
            first_trained(backbone, recipe.unfreeze)  # a plan that cannot be is refused before any work
    except BaseException:
        if ahead is not None:
            ahead.close()
        raise
    say(f"Backbone {backbone.name} at {backbone.image_size} px, weights: {backbone.weights_briefly}.")
    return backbone


def _extract(
    backbone: Backbone, catalog: Catalog, recipe: Recipe, store: Store, ahead: DecodeAhead | None
) -> Features:
    import keras

    from regraft.backbone.head import pooled
    from regraft.features.extract import extract_features

    network = keras.Model(backbone.model.inputs[0], {FEATURE: pooled(backbone, recipe.head)})
    features = extract_features(
        network, catalog, store=store, keep_pixels=recipe.unfreeze != "none", ahead=ahead
    )
    store.remember(_hint(recipe), features.key)
    return features


def _say_refused(catalog: Catalog) -> None:
    """Name the files that are not used, the first dozen of them, and count them by reason."""
    refused = catalog.refused
    for item in refused[:12]:
        say(f"Refused {item.image}: {item.code}, {item.detail}", style="yellow")
    if refused:
        reasons = Counter(item.code for item in refused)
        counted = ", ".join(f"{n} {code}" for code, n in reasons.most_common())
        total = len(refused) + len(catalog)
        say(f"{len(catalog):,} of {total:,} images used; refused: {counted}. All are in refused.jsonl.")


def _labels(samples: tuple[Sample, ...]) -> NDArray[np.int64]:
    return np.array([sample.target for sample in samples], np.int64)


def _probe(
    backbone: Backbone, catalog: Catalog, features: Features, recipe: Recipe
) -> tuple[keras.Model, Probe]:
    from regraft.backbone.head import OUTPUT, graft
    from regraft.training.solvers import solve_logistic

    parts = [f"{len(catalog.part(part)):,} {part}" for part in ("train", "validation", "test")]
    say(f"Images: {', '.join(parts)}; {len(catalog.outputs)} classes.")
    samples = catalog.part("train")
    classes = len(catalog.outputs)
    vectors = features.matrix(samples, FEATURE)
    probe = solve_logistic(vectors, _labels(samples), classes=classes, seed=recipe.seed)
    model = graft(backbone, recipe.head, task=recipe.task, outputs=classes, seed=recipe.seed)
    model.get_layer(OUTPUT).set_weights([probe.kernel, probe.bias])
    say(
        f"Linear probe solved on {vectors.shape[1]:,} features, "
        f"penalty {probe.penalty:.2g} by cross-validation."
    )
    return model, probe


def _fine_tune(
    model: keras.Model,
    backbone: Backbone,
    *,
    catalog: Catalog,
    features: Features,
    recipe: Recipe,
    store: Store,
) -> Decision:
    if recipe.unfreeze == "none":
        return Decision("none", "The linear probe, as asked for: nothing of the backbone was trained.")
    if not catalog.part("validation"):
        why = "without validation images nothing shows what fine-tuning gains"
        return Decision("none", f"The linear probe: {why}.")
    from regraft.training.fit import fine_tune

    depth = _depth(backbone, catalog, features, recipe)
    if depth.unfreeze == "none":
        return Decision("none", f"The linear probe: {depth.why}.")
    pixels = store.entries(pixel_key(backbone.image_size))
    fitted = fine_tune(
        model,
        backbone,
        depth.unfreeze,
        recipe.finetune,
        train=_batches(catalog, "train", pixels, recipe),
        validation=_batches(catalog, "validation", pixels, recipe),
        budget=recipe.budget,
        seed=recipe.seed,
    )
    decision = Decision.of(depth.unfreeze, fitted, depth.why)
    say(decision.reason)
    return decision


def _depth(backbone: Backbone, catalog: Catalog, features: Features, recipe: Recipe) -> Depth:
    """What to fine-tune within the budget; says the plan."""
    from regraft.training.search import choose_depth

    images = len(catalog.part("train"))
    depth = choose_depth(
        backbone,
        images=images,
        seconds_per_image=features.seconds_per_image,
        budget=recipe.budget,
        unfreeze=recipe.unfreeze,
    )
    if depth.epochs:
        epochs = recipe.finetune.epochs or depth.epochs
        say(
            f"Plan: fine-tune {depth.unfreeze}, {epochs} passes over {images:,} images, "
            f"about {duration(depth.seconds / depth.epochs * epochs)}, at most {duration(recipe.budget)}."
        )
    return depth


def _batches(catalog: Catalog, part: str, pixels: Entries, recipe: Recipe) -> Batches:
    from regraft.data.batches import Batches

    def read(digests: list[str]) -> NDArray[np.uint8]:
        return pixels.read(digests, "pixels")

    return Batches(catalog.part(part), read, batch_size=recipe.finetune.batch_size, seed=recipe.seed)


def _answers(
    model: keras.Model,
    probe: Probe,
    *,
    catalog: Catalog,
    features: Features,
    decision: Decision,
    size: int,
) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """For each scored part, class probabilities by the model and by the probe, both (n, classes)."""
    from regraft.data.decode import Refusal
    from regraft.deploy.bundle import run_model
    from regraft.training.solvers import probabilities

    parts = {name: catalog.part(name) for name in ("test", "validation") if catalog.part(name)}
    probed = {name: probabilities(features.matrix(part, FEATURE), probe) for name, part in parts.items()}
    if not decision.fine_tuned:
        return {name: (answer, answer) for name, answer in probed.items()}
    samples = [sample for part in parts.values() for sample in part]
    contents = list(dict.fromkeys(sample.digest for sample in samples))
    with DecodeAhead(jobs_for(catalog, contents), size) as decoding:
        found = dict(zip(contents, run_model(model, decoding), strict=True))
    changed = [content for content, answer in found.items() if isinstance(answer, Refusal)]
    if changed:
        names = [sample.path for sample in samples if sample.digest in changed]
        raise DataError(
            f"{len(names)} images changed while the run was reading them, the first: {names[0]}. "
            "Run again once nothing writes to the folder."
        )
    return {
        name: (np.array([found[sample.digest] for sample in part], np.float64), probed[name])
        for name, part in parts.items()
    }
