"""The outcome of a run: its data, its model, what was decided, and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.backbones.info import BackboneInfo
from regraft.data.catalog import Catalog
from regraft.metrics.groups import GroupRow
from regraft.metrics.intervals import Interval
from regraft.recipe import Recipe, Solver
from regraft.uncertainty.file import Uncertainty, fit_uncertainty
from regraft.uncertainty.held_out import HeldOutAnswers, ReferenceImages

if TYPE_CHECKING:
    import keras

    from regraft.features.extract import Features
    from regraft.metrics.learning_curve import LearningCurve
    from regraft.models.inner_outputs import InnerLayer
    from regraft.solvers.estimator_io import EstimatorHead
    from regraft.training.loop import PhaseResult

__all__ = ["Attempt", "Decision", "Outcome", "TrainedModel"]

_ENDS = {
    "budget": "the budget ran out",
    "interrupted": "it was interrupted",
    "diverged": "the loss became NaN or infinite",
}


@dataclass(frozen=True)
class Attempt:
    """One attempt of a search, judged on validation at its best epoch.

    Attributes:
        head: the solver of its head.
        unfreeze: the freeze plan; "none" for the head alone.
        learning_rate, backbone_rate: of its phase; None for the head alone.
        epochs: how many it was to train; 0 for a solved head.
        val_loss, val_score: see `tasks`; of answers that are calibrated on the validation part.
        seconds: what it took.
        stopped: see `training.loop.PhaseResult`; "done" for a solved head.
        kept: whether the model is this one.
    """

    head: str
    unfreeze: str
    learning_rate: float | None
    backbone_rate: float | None
    epochs: int
    val_loss: float
    val_score: float
    seconds: float
    stopped: str = "done"
    kept: bool = False

    @property
    def pretrained_rate(self) -> float | None:
        """The rate of the pre-trained layers; None for the head alone."""
        if self.learning_rate is None or self.backbone_rate is None:
            return None
        return self.learning_rate * self.backbone_rate


@dataclass(frozen=True)
class Decision:
    """What was trained, what was kept, and why.

    Attributes:
        reason: sentences for the user.
        phases: what each phase of training by gradient did, in order.
        attempts: what a search tried, in order.
        refit_interrupted: whether the user stopped the refit; the model is then the one before it.
    """

    reason: str
    phases: tuple[PhaseResult, ...] = field(default=())
    attempts: tuple[Attempt, ...] = field(default=())
    refit_interrupted: bool = False

    @property
    def fine_tuned(self) -> bool:
        """Whether any part of the backbone was trained and kept."""
        return any(phase.best > 0 and phase.unfreeze != "none" for phase in self.phases)

    @property
    def changed_model(self) -> bool:
        """Whether training by gradient changed anything, be it the head alone."""
        return any(phase.best > 0 for phase in self.phases)

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped a phase or a refit."""
        return self.refit_interrupted or "interrupted" in {
            *(phase.stopped for phase in self.phases),
            *(a.stopped for a in self.attempts),
        }

    @classmethod
    def from_phases(cls, phases: tuple[PhaseResult, ...], score_name: str) -> Decision:
        """Return the decision that follows from finished phases."""
        return cls(" ".join(_describe(phase, score_name) for phase in phases), phases)


def _describe(result: PhaseResult, score_name: str) -> str:
    """Return a sentence on what a phase gained."""
    first, best, last = result.history[0], result.final, result.history[-1].epoch
    end = f"; {_ENDS[result.stopped]} in epoch {last}" if result.stopped in _ENDS else ""
    if result.stopped == "diverged":
        end += f", so try a tenth of its rate: --learning-rate {result.phase.learning_rate / 10:g}"
    title = "The head, trained by gradient" if result.unfreeze == "none" else f"Fine-tuning {result.unfreeze}"
    title += f" ({result.remark})" if result.remark else ""
    score = f"{'an' if score_name[0] in 'Rm' else 'a'} {score_name}"  # an R2, an mAP, a top-1
    note = f" Its probabilities are not calibrated: {result.uncalibrated}." if result.uncalibrated else ""
    if result.best:
        weights = f"after epoch {result.best}" if result.mixture is None else f"with {result.mixture}"
        return (
            f"{title}, kept: on validation a loss of {best.judged_loss:.3g} against {first.judged_loss:.3g} "
            f"before and {score} of {best.val_score:.3f} against {first.val_score:.3f}"
            f"{_describe_gain(result.gain, score_name)}, {weights} of {last}{end}.{note}"
        )
    tried = min(result.history[1:], key=lambda record: record.judged_loss, default=first)
    return (
        f"{title}, not kept: it did not beat what was there before on validation, with a loss of "
        f"{tried.judged_loss:.3g} against {first.judged_loss:.3g} and {score} of {tried.val_score:.3f} "
        f"against {first.val_score:.3f} at its best{end}."
    )


def _describe_gain(gain: Interval | None, score_name: str) -> str:
    """Return by how much a score rose, with its interval: in points of 100 unless it is an R2.

    >>> _describe_gain(Interval(0.065, 0.03, 0.101), "top-1"), _describe_gain(Interval(0.5, 0.25, 0.75), "R2")
    (', better by 6.5 points (95 % 3.0 to 10.1)', ', better by 0.500 (95 % 0.250 to 0.750)')
    """
    if gain is None:
        return ""
    unit, digits = (1, 3) if score_name == "R2" else (100, 1)
    value, low, high = (f"{unit * number:.{digits}f}" for number in (gain.value, gain.low, gain.high))
    interval = f"(95 % {low} to {high})"
    if gain.value <= 0:  # only the loss is lower
        return f", no better {interval}"
    return f", better by {value}{' points' if unit == 100 else ''} {interval}"


@dataclass(frozen=True)
class TrainedModel:
    """The network that a run trained.

    Attributes:
        model: RGB pixels 0..255 to answers, or to the features that `estimator` answers from.
        images_per_sample: how many images make a sample.
        estimator: scikit-learn estimators that answer from the model's output, if they are the head.
        graph: path of the model in OpenVINO's format, if the store has it.
        inner: the layer whose output the head sees.
    """

    model: keras.Model
    images_per_sample: int = 1
    estimator: EstimatorHead | None = None
    graph: Path | None = None
    inner: InnerLayer | None = None

    @property
    def parameters(self) -> int:
        """How many numbers the model holds."""
        return int(self.model.count_params())


@dataclass(frozen=True)
class Outcome:
    """Everything that a run made.

    Attributes:
        head: how the head was found, as a phrase: "logistic regression, penalty 0.01 by cross-validation".
        answers: part -> answers of the model and of the head on the untouched backbone, shapes as in `tasks`.
        warnings: what the user must know about the model, for console and report.
        slices: scores of groups of images of the first part in `answers`; see `evaluation.slices`.
        leaks: part -> how many of its samples also show in an earlier part; see `data.duplicates`.
        solver: of the head, if a search chose it; None if the recipe sets it.
        in_memory_objects: what was passed in Python, which no recipe can hold: "backbone", "head".
        part_features: part -> pooled features of the final model, (n, d), of the scored parts.
        held_out, reference: what the uncertainty of answers is measured on, see `uncertainty.held_out`.
        learning_curve: what more images would bring; None if it was not measured.
        validation_source: how the answers to the validation part were made, if the model has learnt from it
            since, see `training.fit.ValidationAnswers`; "" if it has not.
    """

    recipe: Recipe
    catalog: Catalog
    backbone: BackboneInfo
    network: TrainedModel
    features: Features
    head: str
    decision: Decision
    answers: dict[str, tuple[NDArray[Any], NDArray[Any]]]
    seconds: dict[str, float]
    warnings: tuple[str, ...] = ()
    in_memory_objects: tuple[str, ...] = ()
    leaks: dict[str, int] = field(default_factory=dict)
    solver: Solver | None = None
    part_features: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    held_out: HeldOutAnswers | None = None
    reference: ReferenceImages | None = None
    learning_curve: LearningCurve | None = None
    slices: tuple[GroupRow, ...] = ()
    validation_source: str = ""

    @cached_property
    def uncertainty(self) -> Uncertainty:
        """What the run knows about the reliability of its answers."""
        return self._fit_uncertainty(self.held_out, self.reference)

    def judge_uncertainty(self, part: str) -> Uncertainty | None:
        """Return what the run would know without the images of a part, so that these can judge it.

        Returns:
            None if that is not known: the answers to this part are all that it was fitted to.
        """
        held_out = self.held_out
        if held_out is not None and held_out.source == part:
            return None
        if held_out is None or part != "validation" or not self.validation_source:
            return self.uncertainty
        return self._without_validation

    @cached_property
    def _without_validation(self) -> Uncertainty:
        held_out, reference = self.held_out, self.reference
        return self._fit_uncertainty(
            None if held_out is None else held_out.leave_out("validation"),
            None if reference is None else reference.leave_out("validation"),
        )

    def _fit_uncertainty(
        self, held_out: HeldOutAnswers | None, reference: ReferenceImages | None
    ) -> Uncertainty:
        samples = () if reference is None else reference.samples
        return fit_uncertainty(
            held_out,
            reference,
            task=self.catalog.task,
            labels=[self.catalog.describe_target(sample) for sample in samples],
            seed=self.recipe.seed,
        )
