"""The stages of a run after the backbone is loaded: build the model, fit its head, predict."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.images.rejections import Rejection
from regraft.data.samples import Sample
from regraft.errors import DataError, UsageError
from regraft.pipeline.context import Context
from regraft.recipe import Recipe
from regraft.solvers.cross_validation import assign_strata, draw_stratified_sample
from regraft.training.outcome import Decision, TrainedModel
from regraft.training.training_data import TrainingData, compute_target_scale, extract_views
from regraft.uncertainty.held_out import HeldOutAnswers, ReferenceImages

if TYPE_CHECKING:
    import keras

    from regraft.backbones.load import Backbone
    from regraft.features.engine import EngineRunner
    from regraft.features.extract import Features
    from regraft.inference.predict import ModelOutput
    from regraft.metrics.learning_curve import LearningCurve
    from regraft.models.cut import Cut
    from regraft.models.inner_outputs import InnerLayer
    from regraft.models.taps import Tap
    from regraft.training.fine_tuning import RecipeTrainer
    from regraft.training.fit import FittedHead
    from regraft.training.tuning import Tuner

__all__ = [
    "BuiltModel",
    "FinalAnswers",
    "build_model",
    "choose_taps",
    "find_head_taps",
    "fit_head",
    "gather_training_data",
    "measure_learning_curve",
    "package_model",
    "predict_finally",
    "predict_from_features",
]

MAX_REFERENCES = 2000  # training images of which a fine-tuned model computes features, about

Answers = dict[str, NDArray[Any]]


class BuiltModel(NamedTuple):
    """A model with a new head, and the same model cut behind the unchanged part of its backbone."""

    model: keras.Model
    cut: Cut

    def find_inner_layer(self, data: TrainingData) -> InnerLayer:
        """Return the layer that ends the frozen part: the head pools its output, or takes it as it is."""
        from regraft.models.inner_outputs import InnerLayer

        return InnerLayer.from_cut(self.cut, data.recipe.head.pooling)


def find_head_taps(backbone: Backbone, recipe: Recipe, head: Any) -> tuple[Tap, ...]:
    """Return the taps whose features the head may use; none if it uses the output alone, the default.

    Raises:
        UsageError: the recipe asks for taps, but the user passed a head or added layers to the backbone.
    """
    if recipe.head.taps == "last":
        return ()
    from regraft.models.taps import find_taps

    if head is not None or backbone.new_layers:
        reason = "a head of your own" if head is not None else "layers that surgery put in"
        raise UsageError(f"head.taps: expected last for {reason}. Received: {recipe.head.taps}.")
    return find_taps(backbone, recipe.head.taps)


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
    *,
    backbone: Backbone,
    catalog: Catalog,
    recipe: Recipe,
    features: Features,
    groups: NDArray[np.int64],
) -> TrainingData:
    """Compute the features of further views, and return them with the split catalog."""
    views = extract_views(
        built.cut.prefix,
        catalog,
        recipe=recipe,
        count=recipe.view_count,
        first=features,
        store=context.store,
        reporter=context.reporter,
    )
    return TrainingData(recipe, catalog, backbone, context.store, views, built.cut.names, groups)


def choose_taps(
    context: Context, built: BuiltModel, taps: tuple[Tap, ...], data: TrainingData
) -> tuple[BuiltModel, TrainingData]:
    """Rebuild the model with the taps that its head uses, if there are several to choose from.

    The head uses all taps of "late"; of "auto", those that cross-validation chooses.
    """
    if len(taps) < 2:
        return built, data
    from regraft.training.solve_head import choose_tap_numbers

    if data.recipe.head.taps == "auto":
        taps = tuple(taps[number] for number in choose_tap_numbers(data))
    context.reporter.info(f"Taps: {', '.join(tap.layer for tap in taps)}.")
    built = build_model(context, data.backbone, data.catalog, data.recipe, taps)
    return built, replace(data, names=built.cut.names)


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


def _digest(rows: Iterable[Any]) -> str:
    return hashlib.blake2b("\n".join(map(repr, rows)).encode(), digest_size=8).hexdigest()


def _list_scored_parts(catalog: Catalog) -> list[str]:
    return [part for part in ("test", "validation") if catalog.part(part)]


def predict_from_features(head: FittedHead, data: TrainingData) -> Answers:
    """Return the answers of the head on the frozen backbone for each scored part, (n, units)."""
    catalog = data.catalog
    return {part: head.predict(data, catalog.part(part)) for part in _list_scored_parts(catalog)}


@dataclass(frozen=True)
class FinalAnswers:
    """What the final model computes of images.

    Attributes:
        answers: of each scored part, (n, units).
        held_out, reference: see `uncertainty.held_out`; None if there is no such image.
        features: of each scored part, (n, d).
        graph: path of the graph that computed them; None if they come from stored features.
    """

    answers: Answers
    held_out: HeldOutAnswers | None
    reference: ReferenceImages | None
    features: dict[str, NDArray[np.float32]]
    graph: Path | None = None


def predict_finally(
    context: Context, built: BuiltModel, head: FittedHead, data: TrainingData, decision: Decision
) -> FinalAnswers:
    """Return what the final model computes of each scored part, and of images to compare others with.

    If the backbone stayed frozen, all of it comes from stored features.

    Raises:
        DataError: an image has changed since it was listed.
    """
    if decision.fine_tuned:
        return _predict_by_model(context, built, head, data)
    catalog, answers = data.catalog, predict_from_features(head, data)  # a phase may have trained the head
    train = catalog.part("train")
    reference = ReferenceImages(
        train, catalog.targets(train), data.read_pooled_features(train), data.list_groups("train")
    )
    features = {part: data.read_pooled_features(catalog.part(part)) for part in answers}
    if head.held_out is not None and not decision.changed_model:
        rows = head.held_out.rows
        samples = tuple(train[row] for row in rows)
        held_out = HeldOutAnswers(
            samples,
            reference.targets[rows],
            head.held_out.answers,
            reference.features[rows],
            "cross-validation",
            head.held_out.fewer,
            head.held_out.step,
        )
        return FinalAnswers(answers, held_out, reference, features)
    validation = _take_validation(catalog, answers, features.get("validation"))
    return FinalAnswers(answers, validation, reference, features)


def _take_validation(
    catalog: Catalog, answers: Answers, features: NDArray[np.float32] | None
) -> HeldOutAnswers | None:
    samples = catalog.part("validation")
    if not samples:
        return None
    targets = catalog.targets(samples)
    return HeldOutAnswers(samples, targets, answers["validation"], features, "validation")


def _predict_by_model(
    context: Context, built: BuiltModel, head: FittedHead, data: TrainingData
) -> FinalAnswers:
    from regraft.features.engine import EngineRunner
    from regraft.inference.predict import name_outputs

    catalog, parts = data.catalog, _list_scored_parts(data.catalog)
    train, groups = catalog.part("train"), data.list_groups("train")
    strata = assign_strata(catalog.targets(train), catalog.task)
    chosen = np.flatnonzero(draw_stratified_sample(strata, MAX_REFERENCES, data.recipe.seed))
    references = tuple(train[row] for row in chosen)
    samples = [*(sample for part in parts for sample in catalog.part(part)), *references]
    runner = EngineRunner(name_outputs(head.model, built.find_inner_layer(data)), context.store)
    outputs = _compute_outputs(context, runner, data, samples)

    def stack_answers(samples: Sequence[Sample]) -> NDArray[np.float32]:
        return np.array([outputs[sample.digest].answer for sample in samples])

    def stack_features(samples: Sequence[Sample]) -> NDArray[np.float32]:
        return np.array([outputs[sample.digest].features for sample in samples])

    answers = {part: stack_answers(catalog.part(part)) for part in parts}
    features = {part: stack_features(catalog.part(part)) for part in parts}
    held_out = _take_validation(catalog, answers, features.get("validation"))
    reference = ReferenceImages(
        references, catalog.targets(references), stack_features(references), groups[chosen]
    )
    return FinalAnswers(answers, held_out, reference, features, runner.graph)


def _compute_outputs(
    context: Context, runner: EngineRunner, data: TrainingData, samples: list[Sample]
) -> dict[str, ModelOutput]:
    """Return what a model computes of samples, by digest.

    Raises:
        DataError: an image has changed since it was listed.
    """
    from regraft.inference.predict import predict_contents

    size, reporter = data.backbone.image_size, context.reporter
    rows = predict_contents(lambda count: runner.engine, data.catalog, samples, size, reporter=reporter)
    outputs = {digest: output for digest, output in rows.items() if not isinstance(output, Rejection)}
    changed = [sample.path for sample in samples if sample.digest not in outputs]
    if changed:
        raise DataError(
            f"{len(changed)} images changed while the run was reading them, the first: {changed[0]}. "
            "Run again once nothing writes to the folder."
        )
    return outputs


def measure_learning_curve(context: Context, data: TrainingData) -> LearningCurve | None:
    """Measure and report what more images would bring a head on the frozen features of the training part.

    Returns:
        None if the context asks for no forecast, or there are too few images to tell.
    """
    if not context.has_forecast:
        return None
    from regraft.evaluation.learning_curve import compute_learning_curve

    catalog, train = data.catalog, data.catalog.part("train")
    curve = compute_learning_curve(
        data.read_pooled_features(train),
        catalog.targets(train),
        task=catalog.task,
        solver=str(data.recipe.head.solver),
        seed=data.recipe.seed,
        groups=data.list_groups("train"),
        weights=None if data.weights is None else data.weights.mean(1),
    )
    if curve is not None:
        context.reporter.info(curve.describe())
    return curve


def package_model(
    head: FittedHead, built: BuiltModel, data: TrainingData, graph: Path | None
) -> TrainedModel:
    """Return the model to write; if samples have several images, it takes all of them."""
    from regraft.models.head import build_multi_image_model

    images = len(data.catalog.samples[0].images)
    model = head.model if images == 1 else build_multi_image_model(built.cut.prefix, head.head, images)
    return TrainedModel(model, images, head.estimator, graph, built.find_inner_layer(data))
