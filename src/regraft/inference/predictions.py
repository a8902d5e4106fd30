"""A prediction, and how it is made of what a model computes of a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.inference.predict import ModelOutput
from regraft.tasks import TASKS
from regraft.uncertainty.conformal import CoverageLimits
from regraft.uncertainty.familiarity import LEVEL
from regraft.uncertainty.file import Uncertainty

if TYPE_CHECKING:
    from regraft.solvers.estimator_io import EstimatorHead

__all__ = ["Prediction", "PredictionMaker", "apply_estimator", "make_row"]


@dataclass(frozen=True)
class Prediction:
    """The prediction for one sample.

    Attributes:
        image: the path of its image, or of all its images.
        task: "multiclass", "binary", "multilabel" or "regression".
        labels: the class; for multi-label, every label that reaches its threshold; for regression, nothing.
        values: by name, the probability of each class or label, or the value of each target in its own unit.
        set: the classes or labels among which the truth is with the asked coverage, the likeliest first; the
            most probable class is always one of them.
        interval: by target, the lowest and highest value between which the truth is with that coverage.
        familiarity: the share of images like those of training that look as strange as this one, in 0..1;
            None if the run cannot tell.
        known: False if the familiarity is below 0.01: the image is not like the training images.
        undecided: whether the set holds several classes.
    """

    image: str
    task: str
    labels: tuple[str, ...]
    values: dict[str, float]
    set: tuple[str, ...] = ()
    interval: dict[str, tuple[float, float]] = field(default_factory=dict)
    familiarity: float | None = None
    known: bool = True
    undecided: bool = False

    @property
    def label(self) -> str:
        """The class, or the labels separated by commas; the empty string for regression."""
        return ", ".join(self.labels)

    @property
    def probability(self) -> float:
        """The probability of the class, or the lowest one among the labels; NaN without labels."""
        return min((self.values[label] for label in self.labels), default=math.nan)


def make_row(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as values for JSON: its fields and its label; an end that is not finite is None."""
    interval = {
        name: [end if math.isfinite(end) else None for end in ends]
        for name, ends in prediction.interval.items()
    }
    return {**asdict(prediction), "label": prediction.label, "interval": interval}


@dataclass(frozen=True)
class PredictionMaker:
    """Makes predictions at one level of coverage.

    Attributes:
        task, outputs, thresholds, uncertainty: those of a `Bundle`.
        coverage: share of images whose set or interval should hold the truth, above 0 and below 1.
    """

    task: str
    outputs: Sequence[str]
    thresholds: dict[str, float]
    uncertainty: Uncertainty | None
    coverage: float

    @cached_property
    def _limits(self) -> CoverageLimits | None:
        conformal = self.uncertainty.conformal if self.uncertainty else None
        return None if conformal is None else CoverageLimits.find(conformal, self.coverage, self.outputs)

    def make(self, image: str, output: ModelOutput) -> Prediction:
        """Return the prediction for a sample, given its name."""
        numbers = TASKS[self.task].expand_binary(output.answer[None].astype(np.float64))[0]
        values, limits = dict(zip(self.outputs, numbers.tolist(), strict=True)), self._limits
        members = limits.list_members(numbers) if limits else ()
        familiarity = self._measure_familiarity(output)
        return Prediction(
            image,
            self.task,
            self._choose_labels(values),
            values,
            set=members,
            interval=limits.find_intervals(numbers, output.features) if limits else {},
            familiarity=familiarity,
            known=familiarity is None or familiarity >= LEVEL,
            undecided=self.task in ("multiclass", "binary") and len(members) > 1,
        )

    def _choose_labels(self, values: dict[str, float]) -> tuple[str, ...]:
        if self.task == "regression":
            return ()
        if self.task == "multilabel":
            return tuple(name for name, value in values.items() if value >= self.thresholds.get(name, 0.5))
        return (max(values, key=lambda name: values[name]),)

    def _measure_familiarity(self, output: ModelOutput) -> float | None:
        """Return the familiarity of a sample, unless it was measured with many others before."""
        familiarity = self.uncertainty.familiarity if self.uncertainty else None
        if output.familiarity is not None or familiarity is None or output.features is None:
            return output.familiarity
        return float(familiarity.measure(output.features[None], output.answer[None])[0])


def apply_estimator(estimator: EstimatorHead | None, output: ModelOutput) -> ModelOutput:
    """Replace a network's output by the answer that an estimator gives to it; None leaves it as it is."""
    if estimator is None:
        return output
    return output._replace(answer=estimator.predict(output.answer[None])[0].astype(np.float32))
