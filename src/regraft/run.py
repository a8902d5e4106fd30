"""A recipe, stage by stage: the table of contents of the program.

    catalog -> features of the frozen backbone -> split -> head, solved or trained on them
            -> phases of fine-tuning, each kept if it pays -> scores -> run folder

What needs a deep-learning backend is imported where it is used: listing and decoding begin before that.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.artifacts import claim_folder, versions, write_run
from regraft.console import say
from regraft.data.catalog import Catalog
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead, Job, jobs_for
from regraft.deploy.bundle import Bundle, load
from regraft.errors import DataError, UsageError
from regraft.features.store import Store
from regraft.findings import warnings_of
from regraft.imports import begin_keras
from regraft.outcome import Converted, Outcome
from regraft.prepare import (
    begin_decoding,
    checked_phases,
    enlarged,
    hint,
    open_backbone,
    parted,
    read_catalog,
    recorded,
    say_refused,
)
from regraft.recipe import Phase, Recipe
from regraft.space import Space
from regraft.training.progress import Progress

if TYPE_CHECKING:
    import keras

    from regraft.backbone.cut import Cut
    from regraft.backbone.load import Backbone
    from regraft.backbone.taps import Tap
    from regraft.features.extract import Features
    from regraft.training.heads import FoundHead
    from regraft.training.material import Material
    from regraft.training.phases import AsAsked
    from regraft.training.tuning import Search

__all__ = ["Run", "learn", "search", "train"]

SOME = 4  # samples on which a graph for another engine is compared with the model

Answers = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        model: the trained network, an ordinary `keras.Model`.
        metrics: the content of metrics.json.
        interrupted: training was stopped by Ctrl-C; the model is the best so far.
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
    backbone: Backbone | None = None,
    head: Any = None,
    overwrite: bool = False,
    resume: bool = False,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Run:
    """Train a model on images and write a run folder. What `regraft train` calls.

    Args:
        data: a folder of class folders, a table with the columns that the recipe names, or a catalog.
        recipe: every setting; None for the defaults.
        out: the folder to make.
        backbone: a backbone that is there already, such as one changed by `regraft.backbone.surgery`; None
            for the recipe's.
        head: a Keras layer or model from features to answers, or a scikit-learn estimator; None for the
            recipe's.
        overwrite: replace `out` if it holds an earlier run.
        resume: go on where a run of these very arguments was stopped, whatever stopped it; it ends with the
            same bits. Where nothing was trained yet it begins, with what the store has already.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        store: folder of computed features; None for the user's cache.

    Raises:
        UsageError, DataError, EnvironmentFault, ModelRefused: see `regraft.errors`; then `out` is as it was.
            Among others where `resume` finds the progress of another run.

    Example:
        run = train("photos", Recipe(backbone="mobilenet_v2"), "runs/photos")
        run.model.predict(pixels)
    """
    place = Path(out)
    with Progress.of(place, resume=resume) as progress:
        with claim_folder(place, overwrite=overwrite or progress.may_replace(place)) as folder:
            progress.begin()
            outcome = learn(
                data,
                recipe or Recipe(),
                backbone=backbone,
                head=head,
                trust=trust,
                store=store,
                progress=progress,
            )
            run = _written(outcome, folder, place)
            progress.deliver(folder)
        progress.finished = not run.interrupted
    return run


def search(
    data: Catalog | str | PathLike[str],
    recipe: Recipe | None = None,
    out: str | PathLike[str] = "run",
    *,
    space: Space | None = None,
    backbone: Backbone | None = None,
    overwrite: bool = False,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Run:
    """Find how many layers to train, at which rates, on which head; the run is the best of what was tried.

    What `regraft search` calls. Its `recipe.toml` makes the same model again with `train`; its metrics and
    its report name everything that was tried.

    Args:
        data, out, backbone, overwrite, trust, store: as for `train`.
        recipe: as for `train`, but phases, which are what is looked for. Its budget is that of the search.
        space: what to choose from; None for the defaults.

    Raises:
        UsageError, DataError, EnvironmentFault, ModelRefused: as `train`; or no validation images.

    Example:
        run = search("photos", Recipe(budget=1800), "runs/photos", space=Space(plans=("last:10", "all")))
        run.metrics["search"][0]["val_loss"]
    """
    recipe = replace(recipe or Recipe(), phases=(Phase(),))
    with claim_folder(Path(out), overwrite=overwrite) as folder:
        outcome = learn(data, recipe, backbone=backbone, space=space or Space(), trust=trust, store=store)
        return _written(outcome, folder, Path(out))


def learn(
    data: Catalog | str | PathLike[str],
    recipe: Recipe,
    *,
    backbone: Backbone | None = None,
    head: Any = None,
    space: Space | None = None,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """What `train` does before anything is written, or `search` where there is a space to choose from.

    Arguments and errors are theirs; `progress` is where it is kept how far training came.
    """
    clock, kept, progress = _Clock(), Store(store), progress or Progress()
    with ExitStack() as stack:
        with clock("list"), begin_keras():
            catalog = data.as_task(recipe.task) if isinstance(data, Catalog) else read_catalog(data, recipe)
            recipe = replace(recipe, data=fspath(data.root if isinstance(data, Catalog) else data))
            catalog = catalog.learnable()
            say(_task(catalog, recipe))
            ahead = None if backbone else begin_decoding(catalog, recipe, kept)
            if ahead is not None:
                stack.callback(ahead.close)
        with clock("load"):
            handed = tuple(
                name for name, value in (("backbone", backbone), ("head", head)) if value is not None
            )
            recipe = recorded(recipe, backbone) if backbone else recipe
            backbone = backbone or open_backbone(recipe, trust=trust)
            recipe = replace(recipe, phases=checked_phases(backbone, recipe.phases))
            if space is not None:
                checked_phases(backbone, tuple(Phase(plan) for plan in space.plans))
            progress.expect(recipe=asdict(replace(recipe, data="")), handed=handed, version=versions())
            say(f"Backbone {backbone.name} at {backbone.image_size} px, weights: {backbone.weights_briefly}.")
            for note in backbone.notes:
                say(note)
            taps = _taps(backbone, recipe, head)
            model, whole = _grafted(backbone, catalog, recipe, head, taps)
        with clock("features"):
            features = _extract(whole, catalog, recipe, kept, ahead)
            recipe = replace(recipe, precision=features.precision)
            catalog = catalog.without(features.refused)
            say_refused(catalog)
            catalog, leaks, cautions = parted(catalog.learnable(), features, recipe)
            views = _views(whole, catalog, recipe, kept, features)
        with clock("head"):
            material = _material(backbone, catalog, recipe, store=kept, views=views, names=whole.names)
            if len(taps) > 1:
                taps = _chosen(taps, material)
                model, whole = _grafted(backbone, catalog, recipe, head, taps)
                material = replace(material, names=whole.names)
            progress.expect(samples=_samples(catalog), features=features.key, weights=_shapes(model))
            learning = _learning(space, head, progress)
            found, material = learning.find_head(model, whole, material)
            reference = _from_features(found, material)
        with clock("fine-tune"):
            decision = learning.fine_tune(found, material)
            say(decision.reason)
        with clock("evaluate"):
            final, converted = _final(found, features, material, fine_tuned=decision.fine_tuned)
        outcome = Outcome(
            material.recipe,
            catalog,
            backbone,
            _of_samples(found, whole, catalog),
            features,
            found.words,
            decision,
            {part: (final[part], reference[part]) for part in final},
            clock.seconds,
            kept=found.kept,
            handed=handed,
            leaks=leaks,
            converted=converted,
        )
        small = enlarged(catalog, features, backbone.image_size)
        outcome = replace(outcome, warnings=(*cautions, *filter(None, [small]), *warnings_of(outcome)))
    for warning in outcome.warnings:
        say(warning, style="yellow")
    return outcome


def _written(outcome: Outcome, folder: Path, out: Path) -> Run:
    with _some(outcome) as photographs:
        metrics = write_run(outcome, folder, out, photographs)
    return Run(out, outcome.model, metrics, interrupted=outcome.decision.interrupted)


def _some(outcome: Outcome) -> DecodeAhead:
    """A few of a run's images, being decoded once more."""
    catalog = outcome.catalog
    samples = (catalog.part("validation") or catalog.samples)[:SOME]
    jobs = [Job(catalog.root / photo.path, photo.digest) for s in samples for photo in s.photos]
    return DecodeAhead(jobs, outcome.backbone.image_size, workers=1)


def _taps(backbone: Backbone, recipe: Recipe, head: Any) -> tuple[Tap, ...]:
    """Where the features that the head may see are pooled; nothing where that is the output, as mostly."""
    if recipe.head.taps == "last":
        return ()
    from regraft.backbone.taps import find_taps

    if head is not None or backbone.new_layers:
        what = "a head of your own" if head is not None else "layers that surgery put in"
        raise UsageError(f"head.taps: expected last for {what}. Received: {recipe.head.taps}.")
    return find_taps(backbone, recipe.head.taps)


def _chosen(taps: tuple[Tap, ...], material: Material) -> tuple[Tap, ...]:
    """The taps that the head will see: all of "late", of "auto" those that cross-validation chooses."""
    from regraft.training.heads import tap_numbers

    if material.recipe.head.taps == "auto":
        taps = tuple(taps[number] for number in tap_numbers(material))
    say(f"Taps: {', '.join(tap.layer for tap in taps)}.")
    return taps


def _grafted(
    backbone: Backbone, catalog: Catalog, recipe: Recipe, head: Any, taps: tuple[Tap, ...]
) -> tuple[keras.Model, Cut]:
    """The model with a fresh head, and the same cut where what is not the untouched backbone begins."""
    from regraft.backbone.cut import cut
    from regraft.backbone.freeze import freeze
    from regraft.backbone.head import graft, is_head
    from regraft.backbone.taps import cut_at_taps

    freeze(backbone, "none")  # else its dropout would count as something that acts
    own = hasattr(head, "compute_output_shape")  # a Keras layer or model; not a scikit-learn estimator
    model = graft(
        backbone,
        head if own else recipe.head,
        task=catalog.task,
        outputs=len(catalog.outputs),
        units=_units(catalog),
        taps=[tap.tensor for tap in taps],
        seed=recipe.seed,
    )
    if taps:
        return model, cut_at_taps(model, taps)
    new = set(backbone.new_layers)
    return model, cut(model, lambda layer: is_head(layer) or layer.name in new)


def _units(catalog: Catalog) -> tuple[list[float], list[float]] | None:
    """Deviation and mean of each target of regression where nothing is held out by the user."""
    if catalog.task != "regression":
        return None
    targets = catalog.targets([s for s in catalog.samples if s.part in ("", "train")]).astype(np.float64)
    deviation = targets.std(0)
    return np.where(deviation > 0, deviation, 1.0).tolist(), targets.mean(0).tolist()


def _extract(
    whole: Cut, catalog: Catalog, recipe: Recipe, store: Store, ahead: DecodeAhead | None
) -> Features:
    from regraft.features.extract import extract_features

    features = extract_features(
        whole.prefix,
        catalog,
        store=store,
        keep_pixels=recipe.keeps_pixels,
        ahead=ahead,
        precision=recipe.precision,
    )
    store.remember(hint(recipe), features.key)
    return features


def _views(
    whole: Cut, catalog: Catalog, recipe: Recipe, store: Store, first: Features
) -> tuple[Features, ...]:
    """The features of every view of the training images; the first view is the image as it is."""
    if recipe.view_count == 1:
        return (first,)
    from regraft.data.augment import resolve_augment
    from regraft.data.view import View
    from regraft.features.views import extract_views

    names = resolve_augment(recipe.augment, catalog.task)
    views = [View(number, names, recipe.seed) for number in range(1, recipe.view_count)]
    seen = replace(catalog, samples=catalog.part("train"))
    return extract_views(whole.prefix, seen, first=first, store=store, views=views)


def _task(catalog: Catalog, recipe: Recipe) -> str:
    """What kind of target this is, and how to say otherwise where nobody has said it."""
    if recipe.task != "auto" or not catalog.why:
        return f"Task: {catalog.task}."
    return f"Task: {catalog.task} ({catalog.why}; --task overrules)."


def _material(
    backbone: Backbone,
    catalog: Catalog,
    recipe: Recipe,
    *,
    store: Store,
    views: tuple[Features, ...],
    names: tuple[str, ...],
) -> Material:
    from regraft.training.material import Material

    return Material(recipe, catalog, backbone, store, views, names)


def _samples(catalog: Catalog) -> str:
    """A digest of contents, targets and parts, in their order, on which the order of training depends."""
    rows = ([photo.digest for photo in s.photos] + [s.target, s.part] for s in catalog.samples)
    return f"{len(catalog):,}, digest {_digest(rows)}"


def _shapes(model: keras.Model) -> str:
    """A digest of what a checkpoint of a model holds."""
    return _digest((str(weight.dtype), tuple(weight.shape)) for weight in model.weights)


def _digest(rows: Iterable[Any]) -> str:
    return hashlib.blake2b("\n".join(map(repr, rows)).encode(), digest_size=8).hexdigest()


def _learning(space: Space | None, head: Any, progress: Progress) -> AsAsked | Search:
    """What finds the head and trains: as the recipe asks, or the best of a space."""
    from regraft.training.phases import AsAsked
    from regraft.training.tuning import Search

    return AsAsked(head, progress) if space is None else Search(space)


def _scored(catalog: Catalog) -> list[str]:
    return [part for part in ("test", "validation") if catalog.part(part)]


def _from_features(found: FoundHead, material: Material) -> Answers:
    """The answers of the head on the untouched backbone, for each scored part, (n, units)."""
    catalog = material.catalog
    return {part: found.answers(material, catalog.part(part)) for part in _scored(catalog)}


def _final(
    found: FoundHead, features: Features, material: Material, *, fine_tuned: bool
) -> tuple[Answers, Converted | None]:
    """The answers of the model as it is in the end, for each scored part; and the graph that gave them, or
    their features."""
    if fine_tuned:
        return _from_pixels(found.model, material)
    answers = _from_features(found, material)  # a phase may have trained the head alone
    several = any(sample.more for sample in material.catalog.samples)
    if features.graph is None or found.kept is not None or several:
        return answers, None
    return answers, Converted(features.graph, material.names, found.head)


def _from_pixels(model: keras.Model, material: Material) -> tuple[Answers, Converted | None]:
    """The answers of a model to files, decoded as `predict` does it, for each scored part, (n, units); and
    what gave them."""
    from regraft.deploy.answers import answering, run_engine
    from regraft.features.engine import fingerprint
    from regraft.features.speed import Speed

    catalog = material.catalog
    samples = [sample for part in _scored(catalog) for sample in catalog.part(part)]
    contents = list(dict.fromkeys(sample.digest for sample in samples))
    network = answering(model)
    speed = Speed(network, material.store, fingerprint(network))
    with DecodeAhead(jobs_for(catalog, contents), material.backbone.image_size) as decoding:
        found = dict(zip(contents, run_engine(speed.engine, decoding), strict=True))
    changed = [content for content, answer in found.items() if isinstance(answer, Refusal)]
    if changed:
        names = [sample.path for sample in samples if sample.digest in changed]
        raise DataError(
            f"{len(names)} images changed while the run was reading them, the first: {names[0]}. "
            "Run again once nothing writes to the folder."
        )
    answers = {
        part: np.array([found[sample.digest] for sample in catalog.part(part)]) for part in _scored(catalog)
    }
    return answers, None if speed.graph is None else Converted(speed.graph)


def _of_samples(found: FoundHead, whole: Cut, catalog: Catalog) -> keras.Model:
    """The model as it is shipped: where samples have several images, it takes all of them."""
    from regraft.backbone.photos import over_photos

    photos = len(catalog.samples[0].photos)
    return found.model if photos == 1 else over_photos(whole.prefix, found.head, photos)
