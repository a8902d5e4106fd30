"""What the final model computes: answers to the scored parts, held-out answers, features of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.images.rejections import Rejection
from regraft.data.samples import Sample
from regraft.errors import DataError
from regraft.pipeline.context import Context
from regraft.solvers.cross_validation import assign_strata, draw_stratified_sample
from regraft.training.outcome import Decision
from regraft.training.training_data import TrainingData
from regraft.uncertainty.held_out import HeldOutAnswers, ReferenceImages

if TYPE_CHECKING:
    from regraft.features.engine import EngineRunner
    from regraft.inference.predict import ModelOutput
    from regraft.models.inner_outputs import InnerLayer
    from regraft.training.fit import FittedHead

__all__ = ["FinalAnswers", "predict_finally", "predict_from_features"]

MAX_REFERENCES = 2000  # training images of which a fine-tuned model computes features, about

Answers = dict[str, NDArray[Any]]


def list_scored_parts(catalog: Catalog) -> list[str]:
    return [part for part in ("test", "validation") if catalog.part(part)]


def predict_from_features(head: FittedHead, data: TrainingData) -> Answers:
    """Return the answers of the head on the frozen backbone for each scored part, (n, units).

    If the head has learnt from the validation part too, heads that have not answer it.
    """
    catalog = data.catalog
    answers = {part: head.predict(data, catalog.part(part)) for part in list_scored_parts(catalog)}
    return answers if head.validation is None else {**answers, "validation": head.validation.answers}


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
    context: Context, head: FittedHead, data: TrainingData, inner: InnerLayer, decision: Decision
) -> FinalAnswers:
    """Return what the final model computes of each scored part, and of images to compare others with.

    If the backbone stayed frozen, all of it comes from stored features. `inner` is the layer before the head.
    A model that has learnt from the validation samples does not answer these: the one before did.

    Raises:
        DataError: an image has changed since it was listed.
    """
    if decision.fine_tuned:
        return _predict_by_model(context, head, data, inner)
    catalog, answers = data.catalog, predict_from_features(head, data)  # a phase may have trained the head
    numbers = np.flatnonzero([sample.part in head.learnt_parts for sample in catalog.samples])
    learnt = tuple(catalog.samples[number] for number in numbers)
    groups = data.list_groups(*head.learnt_parts)
    reference = ReferenceImages(learnt, catalog.targets(learnt), data.read_pooled_features(learnt), groups)
    features = {part: data.read_pooled_features(catalog.part(part)) for part in answers}
    if head.held_out is not None and not decision.changed_model:
        rows = np.searchsorted(numbers, head.held_out.rows)  # they are some of those learnt from
        held_out = HeldOutAnswers(
            tuple(learnt[row] for row in rows),
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
    context: Context, head: FittedHead, data: TrainingData, inner: InnerLayer
) -> FinalAnswers:
    from regraft.features.engine import EngineRunner
    from regraft.inference.predict import name_outputs

    catalog, parts = data.catalog, list_scored_parts(data.catalog)
    train, groups = catalog.part("train"), data.list_groups("train")
    strata = assign_strata(catalog.targets(train), catalog.task)
    chosen = np.flatnonzero(draw_stratified_sample(strata, MAX_REFERENCES, data.recipe.seed))
    references = tuple(train[row] for row in chosen)
    samples = [*(sample for part in parts for sample in catalog.part(part)), *references]
    runner = EngineRunner(name_outputs(head.model, inner), context.store)
    outputs = _compute_outputs(context, runner, data, samples)

    def stack_answers(samples: Sequence[Sample]) -> NDArray[np.float32]:
        return np.array([outputs[sample.digest].answer for sample in samples])

    def stack_features(samples: Sequence[Sample]) -> NDArray[np.float32]:
        return np.array([outputs[sample.digest].features for sample in samples])

    answers = {part: stack_answers(catalog.part(part)) for part in parts}
    if head.validation is not None:
        answers["validation"] = head.validation.answers
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
