"""Train or search, stage by stage: the table of contents of the program.

    catalog -> features of the frozen backbone -> split -> head, solved or trained on them
            -> phases of fine-tuning, each kept if it improves the model -> scores -> run folder

Whatever needs a deep-learning backend is imported where it is used, so that listing and decoding start first.
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
from regraft.pipeline.backbone_ranking import choose_backbone
from regraft.pipeline.context import Context, InMemory
from regraft.pipeline.extraction import extract_run_features
from regraft.pipeline.final_answers import predict_finally, predict_from_features
from regraft.pipeline.outputs import claim_folder, require_inputs_outside
from regraft.pipeline.prepare import (
    begin_decoding,
    list_data,
    load_and_resolve,
    require_head,
    split_catalog,
)
from regraft.pipeline.run_folder import open_sample_images, write_run
from regraft.pipeline.stages import (
    build_model,
    choose_taps,
    find_head_taps,
    fine_tune,
    fit_head,
    gather_training_data,
    measure_learning_curve,
    package_model,
    refit_phases,
)
from regraft.recipe import Phase, Recipe, SearchSpace
from regraft.report.build import add_warnings
from regraft.system.console import TERMINAL, Reporter
from regraft.system.imports import import_in_background
from regraft.training.journal import RunJournal
from regraft.training.outcome import Outcome

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone

__all__ = ["Run", "run_stages", "search", "train"]

SLOW_IMPORTS = ("keras", "scipy.optimize")  # imported while images are listed


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        path: the run folder, an absolute path.
        metrics: the content of metrics.json.
        interrupted: whether Ctrl-C stopped training; the model is then the best so far.
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
        """The run as opened by `load`."""
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
    reporter: Reporter = TERMINAL,
) -> Run:
    """Train a model on images and write a run folder, as the command `regraft train` does.

    Args:
        data: a folder of class folders, a table with the columns that the recipe names, or a catalog.
        recipe: every setting; None for the defaults.
        out: the run folder to write.
        backbone: a loaded backbone, such as one changed by `regraft.surgery`; None for the recipe's.
        head: a Keras layer or model from features to answers, or a scikit-learn estimator; None for the
            recipe's.
        overwrite: replace `out` if it holds an earlier run and nothing else.
        resume: continue a run that was stopped, for whatever reason; all other arguments must be the same.
            The result is bit-identical to that of an uninterrupted run. If nothing was trained yet, the run
            starts from the beginning with the results in the store.
        trust: you know where a SavedModel comes from; see `load_backbone`.
        store: the folder of computed features; None for the user's cache.
        reporter: receives messages, warnings and progress.

    Raises:
        UsageError, DataError, EnvironmentFault, ModelRefused: see `regraft.errors`, for example if `resume`
            finds the journal of another run, or `out` is or contains anything that the run reads. `out` is
            then unchanged.

    Example:
        run = train("photos", Recipe(backbone="mobilenet_v2"), "runs/photos")
        run.model.predict(pixels)
    """
    target, in_memory, recipe = Path(out), InMemory(backbone, head), recipe or Recipe()
    require_inputs_outside(target, data, recipe, store=store)
    with RunJournal.open(target, resume=resume, reporter=reporter) as journal:
        with claim_folder(target, overwrite=overwrite or journal.can_replace(target)) as folder:
            journal.begin()
            context = Context.open(
                store, reporter=reporter, journal=journal, in_memory=in_memory, trust=trust
            )
            run = _write_run_folder(context, run_stages(context, data, recipe), folder, target)
            journal.record_delivery(folder)
        journal.finished = not run.interrupted
    return run


def search(
    data: Catalog | str | PathLike[str],
    recipe: Recipe | None = None,
    out: str | PathLike[str] = "run",
    *,
    space: SearchSpace | None = None,
    backbone: Backbone | None = None,
    overwrite: bool = False,
    trust: bool = False,
    store: str | PathLike[str] | None = None,
) -> Run:
    """Search for the best head, number of layers to train, and learning rates, as `regraft search` does.

    The run folder holds the best model. With its `recipe.toml`, `train` makes that model again; its metrics
    and report list every attempt. A killed search starts from the beginning; features already computed are
    reused.

    Args:
        data, out, backbone, overwrite, trust, store: as for `train`.
        recipe: as for `train`, except its phases, which are searched for. Its budget is that of the search.
        space: the values to choose from; None for the defaults.

    Raises:
        UsageError, DataError, EnvironmentFault, ModelRefused: as `train`; or there are no validation images.

    Example:
        space = SearchSpace(plans=("last:10", "all"))
        run = search("photos", Recipe(budget=1800), "runs/photos", space=space)
        run.metrics["search"][0]["val_loss"]
    """
    target, in_memory = Path(out), InMemory(backbone, space=space or SearchSpace())
    recipe = replace(recipe or Recipe(), phases=(Phase(),))
    require_inputs_outside(target, data, recipe, store=store)
    with (  # nothing is resumed, but only one process may write to the folder
        RunJournal.open(target, resume=False, reporter=TERMINAL) as journal,
        claim_folder(target, overwrite=overwrite) as folder,
    ):
        journal.begin()
        context = Context.open(store, in_memory=in_memory, trust=trust)
        return _write_run_folder(context, run_stages(context, data, recipe), folder, target)


def run_stages(context: Context, data: Catalog | str | PathLike[str], recipe: Recipe) -> Outcome:
    """Run every stage of `train` and `search` up to the run folder.

    Arguments and errors are those of `train`. The recipe is final once the backbone is loaded.
    """
    require_head(context, recipe)
    with ExitStack() as stack:
        with context.time_stage("list"), import_in_background(*SLOW_IMPORTS):
            catalog, recipe = list_data(context, data, recipe)
            recipe = choose_backbone(context, catalog, recipe)
            decoding = begin_decoding(context, catalog, recipe, stack)
        with context.time_stage("load"):
            backbone, recipe = load_and_resolve(context, recipe)
            taps = find_head_taps(backbone, recipe, context.in_memory)
            built = build_model(context, backbone, catalog, recipe, taps)
        with context.time_stage("features"):
            features = extract_run_features(
                context, built.cut.prefix, backbone, catalog, recipe=recipe, decoding=decoding
            )
            split = split_catalog(context, catalog, features, recipe)
            training_data = gather_training_data(
                context, built, backbone, split, recipe=recipe, features=features
            )
        with context.time_stage("head"):
            built, training_data = choose_taps(context, built, taps, training_data)
            trainer, head = fit_head(context, built, training_data)
            frozen_answers = predict_from_features(head, training_data)
        with context.time_stage("fine-tune"):
            head, decision = fine_tune(context, trainer, built, head, training_data)
        with context.time_stage("refit"):
            head, decision = refit_phases(context, trainer, built, head, training_data, decision=decision)
        with context.time_stage("evaluate"):
            inner = built.find_inner_layer(training_data)
            final = predict_finally(context, head, training_data, inner, decision)
            learning_curve = measure_learning_curve(context, training_data, head)
        outcome = Outcome(
            recipe, split.catalog, backbone, package_model(head, built, training_data, final.graph),
            features, head.description, decision,
            {part: (final.answers[part], frozen_answers[part]) for part in final.answers},
            context.seconds, in_memory_objects=context.in_memory.names, leaks=split.leaks,
            solver=head.solver, part_features=final.features, held_out=final.held_out,
            reference=final.reference, learning_curve=learning_curve,
            validation_source="" if head.validation is None else head.validation.source,
        )  # fmt: skip
        return add_warnings(outcome, split.cautions, context.reporter)


def _write_run_folder(context: Context, outcome: Outcome, folder: Path, out: Path) -> Run:
    metrics = write_run(outcome, folder, out, lambda: open_sample_images(outcome), context.reporter)
    return Run(out.absolute(), metrics, outcome.decision.interrupted, outcome.network.model)
