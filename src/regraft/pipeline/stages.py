"""The stages of a run after the backbone is loaded: build the model, fit its head, predict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.errors import UsageError
from regraft.pipeline.context import Context, InMemory
from regraft.pipeline.extraction import extract_run_views
from regraft.pipeline.prepare import SplitData, list_parts
from regraft.recipe import TAP_SOLVERS, Recipe
from regraft.training.outcome import Decision, TrainedModel
from regraft.training.training_data import TrainingData, compute_target_scale, merge_validation

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone
    from regraft.features.extract import Features
    from regraft.metrics.learning_curve import LearningCurve
    from regraft.models.cut import Cut
    from regraft.models.inner_outputs import InnerLayer
    from regraft.models.taps import Tap
    from regraft.training.fine_tuning import RecipeTrainer
    from regraft.training.fit import FittedHead
    from regraft.training.tuning import Tuner

__all__ = [
    "BuiltModel",
    "build_model",
    "choose_taps",
    "find_head_taps",
    "fine_tune",
    "fit_head",
    "gather_training_data",
    "measure_learning_curve",
    "package_model",
    "refit_phases",
]

Answers = dict[str, NDArray[Any]]


class BuiltModel(NamedTuple):
    """A model with a new head, and the same model cut behind the unchanged part of its backbone."""

    model: keras.Model
    cut: Cut

    def find_inner_layer(self, data: TrainingData) -> InnerLayer:
        """Return the layer that ends the frozen part: the head pools its output, or takes it as it is."""
        from regraft.models.inner_outputs import InnerLayer

        return InnerLayer.from_cut(self.cut, data.recipe.head.pooling)


def find_head_taps(backbone: Backbone, recipe: Recipe, in_memory: InMemory) -> tuple[Tap, ...]:
    """Return the taps whose features the head may use; none if it can only use the output.

    Raises:
        UsageError: the recipe asks for late taps, but the user passed a head or added layers to the backbone.
    """
    from regraft.backbones.joint import JointBackbone

    if isinstance(backbone, JointBackbone):
        from regraft.models.joint_taps import find_joint_taps

        if in_memory.head is not None:
            name = type(in_memory.head).__name__
            raise UsageError(f"head: expected none of your own for several networks. Received: {name}.")
        return find_joint_taps(backbone, recipe.head)
    from regraft.models.taps import find_taps

    head, taps = in_memory.head, recipe.head.taps
    is_own = head is not None or bool(backbone.new_layers)
    if taps == "late":
        if is_own:
            reason = "a head of your own" if head is not None else "layers that surgery put in"
            raise UsageError(f"head.taps: expected auto or last for {reason}. Received: late.")
        return find_taps(backbone, "late")
    if is_own or not recipe.head.chooses_taps or not _searches_dense_heads(recipe, in_memory):
        return ()
    candidates = find_taps(backbone, "auto")
    return candidates if len(candidates) > 1 else ()


def _searches_dense_heads(recipe: Recipe, in_memory: InMemory) -> bool:
    """Return whether every head that a search tries is one Dense layer; true without a search."""
    if in_memory.space is None or recipe.head.solver != "auto":
        return True
    return set(in_memory.space.solvers) <= set(TAP_SOLVERS)


def build_model(
    context: Context, backbone: Backbone, catalog: Catalog, recipe: Recipe, taps: tuple[Tap, ...]
) -> BuiltModel:
    """Freeze a backbone, put a new head on it, and cut the model in two."""
    from regraft.models.cut import cut
    from regraft.models.freeze import freeze
    from regraft.models.head import graft, is_head
    from regraft.models.taps import cut_at_taps

    freeze(backbone, "none")  # until a phase unfreezes some of it
    head = context.in_memory.head
    is_layer = hasattr(head, "compute_output_shape")  # or a model; not a scikit-learn estimator
    model = graft(
        backbone,
        head if is_layer else recipe.head,
        task=catalog.task,
        outputs=len(catalog.outputs),
        units=compute_target_scale(catalog),
        taps=[tap.tensor for tap in taps],
        seed=recipe.seed,
    )
    if taps:
        return BuiltModel(model, cut_at_taps(model, taps))
    new_layers = set(backbone.new_layers)
    return BuiltModel(model, cut(model, lambda layer: is_head(layer) or layer.name in new_layers))


def gather_training_data(
    context: Context,
    built: BuiltModel,
    backbone: Backbone,
    split: SplitData,
    *,
    recipe: Recipe,
    features: Features,
) -> TrainingData:
    """Compute the features of further views, and return them with the split catalog."""
    catalog = split.catalog
    shown = catalog if recipe.refit == "never" else merge_validation(catalog)
    views = extract_run_views(context, built.cut.prefix, backbone, shown, recipe=recipe, first=features)
    return TrainingData(recipe, catalog, backbone, context.store, views, built.cut.names, split.groups)


def choose_taps(
    context: Context, built: BuiltModel, taps: tuple[Tap, ...], data: TrainingData
) -> tuple[BuiltModel, TrainingData]:
    """Rebuild the model with the taps that its head uses, if there are several to choose from.

    The head uses all taps of "late"; of "auto", those that cross-validation chooses.
    """
    if len(taps) < 2:
        return built, data
    from regraft.training.solve_head import choose_tap_numbers

    if data.recipe.head.chooses_taps:
        taps = tuple(taps[number] for number in choose_tap_numbers(data))
    context.reporter.info(f"Taps: {', '.join(tap.layer for tap in taps)}.")
    for name in _list_unused_networks(data.backbone, taps):
        context.reporter.info(f"{name} does not help beside the others: the model is without it.")
    built = build_model(context, data.backbone, data.catalog, data.recipe, taps)
    return built, replace(data, names=built.cut.names)


def _list_unused_networks(backbone: Backbone, taps: tuple[Tap, ...]) -> list[str]:
    """Return the names of networks that none of the taps belongs to."""
    from regraft.models.joint_taps import name_tensor

    parts = list_parts(backbone)
    if len(parts) == 1:
        return []
    return [
        part.name
        for number, part in enumerate(parts)
        if not any(tap.name.startswith(name_tensor(number, "")) for tap in taps)
    ]


def fit_head(
    context: Context, built: BuiltModel, data: TrainingData
) -> tuple[RecipeTrainer | Tuner, FittedHead]:
    """Solve or train the head; return it with its trainer, which follows the recipe or searches."""
    from regraft.training.fine_tuning import RecipeTrainer
    from regraft.training.tuning import Tuner

    weights = _digest((str(weight.dtype), tuple(weight.shape)) for weight in built.model.weights)
    rows = (
        [image.digest for image in s.images] + [s.target, s.part] + ([] if s.weight == 1 else [s.weight])
        for s in data.catalog.samples
    )
    samples = f"{len(data.catalog):,}, digest {_digest(rows)}"  # their order is that of training
    context.journal.check_inputs(samples=samples, features=data.views[0].key, weights=weights)
    space, head = context.in_memory.space, context.in_memory.head
    trainer: RecipeTrainer | Tuner
    if space is None:
        trainer = RecipeTrainer(head, context.journal, reporter=context.reporter)
    else:
        trainer = Tuner(space, reporter=context.reporter)
    return trainer, trainer.fit_head(built.model, built.cut, data)


def refit_phases(
    context: Context,
    trainer: RecipeTrainer | Tuner,
    built: BuiltModel,
    head: FittedHead,
    data: TrainingData,
    *,
    decision: Decision,
) -> tuple[FittedHead, Decision]:
    """Train a fine-tuned model once more with the validation samples, where the time allows it.

    Returns:
        The head, with the answers of the model before it to the validation samples, and the decision with a
        sentence on that; both as they were without a refit.
    """
    from regraft.training.fine_tuning import RecipeTrainer
    from regraft.training.fit import ValidationAnswers
    from regraft.training.refit import refit

    if not isinstance(trainer, RecipeTrainer) or trainer.runner is None:
        return head, decision
    done = refit(
        head, built.cut, data, decision,
        start=trainer.start, runner=trainer.runner, journal=context.journal, reporter=context.reporter,
    )  # fmt: skip
    if done.sentence:
        context.reporter.info(done.sentence)
    reason = f"{decision.reason} {done.sentence}".strip()
    if done.answers is not None:
        head = replace(head, validation=ValidationAnswers(done.answers, "before refit"))
    return head, replace(decision, reason=reason, refit_interrupted=done.interrupted)


def _digest(rows: Iterable[Any]) -> str:
    return hashlib.blake2b("\n".join(map(repr, rows)).encode(), digest_size=8).hexdigest()


def fine_tune(
    context: Context,
    trainer: RecipeTrainer | Tuner,
    built: BuiltModel,
    head: FittedHead,
    data: TrainingData,
) -> tuple[FittedHead, Decision]:
    """Run the phases, and report what came of them; a head that none changed learns from validation too."""
    decision = trainer.fine_tune(head, data)
    context.reporter.info(decision.reason)
    return _refit_head(context, built, head, data, decision), decision


def _refit_head(
    context: Context, built: BuiltModel, head: FittedHead, data: TrainingData, decision: Decision
) -> FittedHead:
    """Let a solved head that no phase has changed learn from the validation samples as well."""
    from regraft.training.fit import solve_on_all

    is_final = decision.changed_model or head.solved_by is None or head.validation is not None
    if data.recipe.refit == "never" or is_final or not data.catalog.part("validation"):
        return head
    refitted = solve_on_all(
        built.model, built.cut, data=data, solver=head.solved_by, reporter=context.reporter
    )
    return replace(refitted, solver=head.solver)


def measure_learning_curve(context: Context, data: TrainingData, head: FittedHead) -> LearningCurve | None:
    """Measure and report what more images would bring a head on the frozen features that it learnt from.

    Returns:
        None if the context asks for no forecast, or there are too few images to tell.
    """
    if not context.has_forecast:
        return None
    curve = _compute_learning_curve(data if head.validation is None else data.merge_validation())
    if curve is not None:
        context.reporter.info(curve.describe())
    return curve


def _compute_learning_curve(data: TrainingData) -> LearningCurve | None:
    """Compute the learning curve of the training part, or read it from the store."""
    from regraft.evaluation.learning_curve import compute_learning_curve
    from regraft.metrics.learning_curve import LearningCurve
    from regraft.training.stored_results import HEADS, StoredResults, digest_inputs

    catalog, train = data.catalog, data.catalog.part("train")
    features, targets, groups = (
        data.read_pooled_features(train),
        catalog.targets(train),
        data.list_groups("train"),
    )
    weights = None if data.weights is None else data.weights.mean(1)
    settings: dict[str, Any] = {
        "task": catalog.task,
        "solver": str(data.recipe.head.solver),
        "seed": data.recipe.seed,
    }
    results = StoredResults(data.store, HEADS)
    inputs = digest_inputs({"learning curve": settings}, [features, targets, groups, weights])
    if (stored := results.read(inputs)) is not None:
        content = stored[0]["curve"]
        return None if content is None else LearningCurve.from_json(content)
    curve = compute_learning_curve(features, targets, groups=groups, weights=weights, **settings)
    results.write(inputs, ({"curve": None if curve is None else asdict(curve)}, {}))
    return curve


def package_model(
    head: FittedHead, built: BuiltModel, data: TrainingData, graph: Path | None
) -> TrainedModel:
    """Return the model to write; if samples have several images, it takes all of them."""
    from regraft.models.head import build_multi_image_model

    images = len(data.catalog.samples[0].images)
    model = head.model if images == 1 else build_multi_image_model(built.cut.prefix, head.head, images)
    return TrainedModel(model, images, head.estimator, graph, built.find_inner_layer(data))
