"""A recipe, stage by stage: the table of contents of the program.

    catalog -> features of the frozen backbone -> split -> head, solved or trained on them
            -> phases of fine-tuning, each kept if it pays -> scores -> run folder

What needs a deep-learning backend is imported where it is used: listing and decoding begin before that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft import known
from regraft.answered import final_answers, from_features
from regraft.artifacts import claim_folder, write_run
from regraft.clock import Clock
from regraft.console import TERMINAL, say
from regraft.data.catalog import Catalog
from regraft.data.workers import DecodeAhead, Job
from regraft.deploy.built import Built
from regraft.deploy.bundle import Bundle, load
from regraft.features.store import Store
from regraft.findings import warned
from regraft.grafting import choose_taps, grafted, of_samples, taps_for
from regraft.imports import begin
from regraft.outcome import Outcome
from regraft.prepare import (
    begin_decoding,
    checked_phases,
    extracted,
    open_backbone,
    parted,
    read_catalog,
    recorded,
    say_backbone,
)
from regraft.recipe import Phase, Recipe
from regraft.space import Space
from regraft.training.progress import Progress
from regraft.versions import versions

if TYPE_CHECKING:
    import keras

    from regraft.backbone.cut import Cut
    from regraft.backbone.load import Backbone
    from regraft.features.extract import Features
    from regraft.training.material import Material
    from regraft.training.phases import AsAsked
    from regraft.training.tuning import Search

__all__ = ["Run", "learn", "search", "train"]

IMPORTED = ("scipy.optimize", "sklearn.tree")  # what takes long of that which every run comes to need
SOME = 4  # samples on which a graph for another engine is compared with the model


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: its folder.
        metrics: the content of metrics.json.
        interrupted: training was stopped by Ctrl-C; the model is the best so far.
    """

    path: Path
    metrics: dict[str, Any]
    interrupted: bool = False
    _model: keras.Model | None = field(default=None, repr=False)

    @cached_property
    def model(self) -> keras.Model:
        """The trained network, an ordinary `keras.Model`; read from its file where no backend was needed."""
        return self.bundle.model if self._model is None else self._model

    @property
    def bundle(self) -> Bundle:
        """The run as `load` opens it."""
        return load(self.path)


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
    with Progress.of(place, resume=resume, reporter=TERMINAL) as progress:
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
    its report name everything that was tried. One that was killed begins anew, with what the store has.

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
    place = Path(out)
    with (  # nothing is resumed, but the place belongs to one process
        Progress.of(place, resume=False, reporter=TERMINAL) as progress,
        claim_folder(place, overwrite=overwrite) as folder,
    ):
        progress.begin()
        outcome = learn(data, recipe, backbone=backbone, space=space or Space(), trust=trust, store=store)
        return _written(outcome, folder, place)


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
    clock, kept, progress = Clock(), Store.open(store), progress or Progress()
    ours = backbone is None and head is None and space is None
    soon = ours and known.expected(recipe, kept)
    with ExitStack() as stack:
        with clock("list"), begin(*(() if soon else ("keras",)), *IMPORTED):
            catalog, recipe = _listed(data, recipe)
            listed = catalog
            ahead = None if backbone else begin_decoding(catalog, recipe, kept)
            if ahead is not None:
                stack.callback(ahead.close)
            template = known.find_template(catalog, recipe, kept) if soon else None
        if template is not None:
            return known.learn_head(
                template, catalog, recipe, store=kept, ahead=ahead, clock=clock, progress=progress
            )
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
            say_backbone(backbone)
            taps = taps_for(backbone, recipe, head)
            model, whole = grafted(backbone, catalog, recipe, head, taps)
        with clock("features"):
            features = extracted(whole.prefix, catalog, recipe, kept, ahead)
            recipe = replace(recipe, precision=features.precision)
            catalog, leaks, cautions = parted(catalog, features, recipe)
            views = _views(whole, catalog, recipe, kept, features)
        with clock("head"):
            material = _material(backbone, catalog, recipe, store=kept, views=views, names=whole.names)
            if len(taps) > 1:
                taps = choose_taps(taps, material)
                model, whole = grafted(backbone, catalog, recipe, head, taps)
                material = replace(material, names=whole.names)
            progress.expect(samples=_samples(catalog), features=features.key, weights=_shapes(model))
            learning = _learning(space, head, progress)
            found, material = learning.find_head(model, whole, material)
            reference = from_features(found, material)
        with clock("fine-tune"):
            decision = learning.fine_tune(found, material)
            say(decision.reason)
        with clock("evaluate"):
            final, converted = final_answers(found, features, material, fine_tuned=decision.fine_tuned)
        keep = known.keeper(listed, whole, found, material, features) if ours and converted else None
        network = Built(
            of_samples(found, whole, catalog), len(catalog.samples[0].photos), found.kept, converted, keep
        )
        outcome = Outcome(
            material.recipe,
            catalog,
            backbone,
            network,
            features,
            found.words,
            decision,
            {part: (final[part], reference[part]) for part in final},
            clock.seconds,
            handed=handed,
            leaks=leaks,
        )
        return warned(outcome, cautions)


def _listed(data: Catalog | str | PathLike[str], recipe: Recipe) -> tuple[Catalog, Recipe]:
    """What can be learned of the data, its task said; and the recipe that names the data."""
    catalog = data.as_task(recipe.task) if isinstance(data, Catalog) else read_catalog(data, recipe)
    recipe = replace(recipe, data=fspath(data.root if isinstance(data, Catalog) else data))
    catalog = catalog.learnable()
    say(_task(catalog, recipe))
    return catalog, recipe


def _written(outcome: Outcome, folder: Path, out: Path) -> Run:
    metrics = write_run(outcome, folder, out, lambda: _some(outcome))
    model = outcome.network.model if isinstance(outcome.network, Built) else None
    return Run(out, metrics, outcome.decision.interrupted, model)


def _some(outcome: Outcome) -> DecodeAhead:
    """A few of a run's images, being decoded once more."""
    catalog = outcome.catalog
    samples = (catalog.part("validation") or catalog.samples)[:SOME]
    jobs = [Job(catalog.root / photo.path, photo.digest) for s in samples for photo in s.photos]
    return DecodeAhead(jobs, outcome.backbone.image_size, workers=1)


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
    return extract_views(whole.prefix, seen, first=first, store=store, views=views, reporter=TERMINAL)


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

    if space is None:
        return AsAsked(head, progress, reporter=TERMINAL)
    return Search(space, reporter=TERMINAL)
