"""A recipe, stage by stage: the table of contents of the program.

    catalog -> features of the frozen backbone -> split -> head, solved or trained on them
            -> phases of fine-tuning, each kept if it pays -> scores -> run folder

What needs a deep-learning backend is imported where it is used: listing and decoding begin before that.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.data.catalog import Catalog
from regraft.inference.bundle import Bundle, load
from regraft.pipeline.context import Context, InMemory
from regraft.pipeline.prepare import (
    begin_decoding,
    extract,
    list_data,
    load_and_resolve,
    split_catalog,
)
from regraft.pipeline.run_folder import claim_folder, open_sample_images, write_run
from regraft.pipeline.stages import (
    answer_from_features,
    build_model,
    choose_taps,
    evaluate,
    find_taps_for,
    fit_head,
    ship_model,
)
from regraft.recipe import Phase, Recipe, Space
from regraft.report.build import add_warnings
from regraft.system.console import TERMINAL
from regraft.system.imports import begin
from regraft.training.journal import Progress
from regraft.training.outcome import Outcome
from regraft.training.training_data import Material, extract_views

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone

__all__ = ["Run", "run_stages", "search", "train"]

# What takes long of that which a run comes to need.
SLOW_IMPORTS = ("keras", "scipy.optimize")


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
        """The trained network, an ordinary `keras.Model`."""
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
        backbone: a backbone that is there already, such as one changed by `regraft.models.surgery`; None
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
    target, given = Path(out), InMemory(backbone, head)
    with Progress.of(target, resume=resume, reporter=TERMINAL) as journal:
        with claim_folder(target, overwrite=overwrite or journal.may_replace(target)) as folder:
            journal.begin()
            context = Context.open(store, journal=journal, in_memory=given, trust=trust)
            run = _write_run_folder(context, run_stages(context, data, recipe or Recipe()), folder, target)
            journal.deliver(folder)
        journal.finished = not run.interrupted
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
    target, given = Path(out), InMemory(backbone, space=space or Space())
    recipe = replace(recipe or Recipe(), phases=(Phase(),))
    with (  # nothing is resumed, but the place belongs to one process
        Progress.of(target, resume=False, reporter=TERMINAL) as journal,
        claim_folder(target, overwrite=overwrite) as folder,
    ):
        journal.begin()
        context = Context.open(store, in_memory=given, trust=trust)
        return _write_run_folder(context, run_stages(context, data, recipe), folder, target)


def run_stages(context: Context, data: Catalog | str | PathLike[str], recipe: Recipe) -> Outcome:
    """Do everything that `train` and `search` do before the run folder is written.

    Arguments and errors are those of `train`. The recipe is final once the backbone is loaded.
    """
    with ExitStack() as stack:
        with context.stage("list"), begin(*SLOW_IMPORTS):
            listed, recipe = list_data(context, data, recipe)
            decoding = begin_decoding(context, listed, recipe, stack)
        with context.stage("load"):
            backbone, recipe = load_and_resolve(context, recipe)
            taps = find_taps_for(backbone, recipe, context.in_memory.head)
            built = build_model(context, backbone, listed, recipe, taps)
        with context.stage("features"):
            features = extract(context, built.cut.prefix, listed, recipe, decoding)
            parts = split_catalog(context, listed, features, recipe)
            views = extract_views(
                built.cut.prefix,
                parts.catalog,
                recipe=recipe,
                count=recipe.view_count,
                first=features,
                store=context.store,
                reporter=context.reporter,
            )
        with context.stage("head"):
            material = Material(recipe, parts.catalog, backbone, context.store, views, built.cut.names)
            built, material = choose_taps(context, built, taps, material)
            trainer, found = fit_head(context, built, material)
            reference = answer_from_features(found, material)
        with context.stage("fine-tune"):
            decision = trainer.fine_tune(found, material)
            context.reporter.info(decision.reason)
        with context.stage("evaluate"):
            final, graph = evaluate(context, found, material, fine_tuned=decision.fine_tuned)
        outcome = Outcome(
            recipe,
            parts.catalog,
            backbone,
            ship_model(found, built.cut, parts.catalog, graph),
            features,
            found.words,
            decision,
            {part: (final[part], reference[part]) for part in final},
            context.seconds,
            handed=context.in_memory.names,
            leaks=parts.leaks,
            solver=found.solver,
        )
        return add_warnings(outcome, parts.cautions, context.reporter)


def _write_run_folder(context: Context, outcome: Outcome, folder: Path, out: Path) -> Run:
    metrics = write_run(outcome, folder, out, lambda: open_sample_images(outcome), context.reporter)
    return Run(out, metrics, outcome.decision.interrupted, outcome.network.model)
