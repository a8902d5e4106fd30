"""What a report says, as values: of the run, of each part of the data, of the images answered worst."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regraft.data.catalog import Refused
from regraft.metrics.classification import ClassRow
from regraft.metrics.intervals import Interval
from regraft.metrics.multilabel import LabelRow
from regraft.metrics.ranking import Curves
from regraft.metrics.regression import TargetRow

if TYPE_CHECKING:
    from regraft.training.fit import Fitted
    from regraft.training.outcome import Attempt

__all__ = [
    "ClassFindings",
    "Epoch",
    "LabelFindings",
    "NumberFindings",
    "PartScores",
    "Report",
    "WrongImage",
    "WrongLabels",
    "WrongNumbers",
]


@dataclass(frozen=True)
class WrongImage:
    """An image answered wrongly; probabilities in 0..1, `thumbnail` a small JPEG file's bytes or b""."""

    image: str
    truth: str
    said: str
    probability: float
    truth_probability: float
    thumbnail: bytes


@dataclass(frozen=True)
class WrongLabels:
    """An image with labels missed or added, each with its probability in 0..1, and the labels got right."""

    image: str
    missed: list[tuple[str, float]]
    added: list[tuple[str, float]]
    right: list[str]
    thumbnail: bytes


@dataclass(frozen=True)
class WrongNumbers:
    """An image with large errors: for each target its name, the truth and the answer."""

    image: str
    values: list[tuple[str, float, float]]
    thumbnail: bytes


@dataclass(frozen=True)
class ClassFindings:
    """Where one class an image was to be named.

    `confusion`: counts of shape (n_classes, n_classes), rows the truth; `rows`: one a class; `curves`: of the
    second of two classes.
    """

    confusion: npt.NDArray[np.integer[Any]]
    rows: list[ClassRow]
    wrong: list[WrongImage]
    curves: Curves | None = None


@dataclass(frozen=True)
class LabelFindings:
    """Where every label was to be answered: `rows`, one a label."""

    rows: list[LabelRow]
    wrong: list[WrongLabels]


@dataclass(frozen=True)
class NumberFindings:
    """Where numbers were to be answered: `rows`, one a target; `truth` and `answers`, shape (n, targets)."""

    rows: list[TargetRow]
    truth: npt.NDArray[np.floating[Any]]
    answers: npt.NDArray[np.floating[Any]]
    wrong: list[WrongNumbers]


@dataclass(frozen=True)
class PartScores:
    """How the model did on one part of the data ("validation" or "test") of `n` samples.

    Attributes:
        scores: as `evaluation.scores.scores` gives them, the headline first.
        baseline: what the headline comes to without looking at the images.
        caution: a sentence where the model is no better than that; "" where it is.
        probe: the headline score of the head alone on the untouched backbone, where that is not the model.
        findings: what is particular to the task.
    """

    name: str
    n: int
    scores: dict[str, Interval]
    baseline: float
    caution: str
    probe: Interval | None
    findings: ClassFindings | LabelFindings | NumberFindings


@dataclass(frozen=True)
class Epoch:
    """One epoch; epoch 0 is what was there before training. A loss or score of NaN was not measured."""

    phase: str
    epoch: int
    loss: float
    val_loss: float
    val_score: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything the page says.

    Attributes:
        title, created, command: heading, time of making and the command that made it.
        task: "multiclass", "binary", "multilabel" or "regression".
        summary: facts as (label, value).
        decision: what was decided about the model, and why, in sentences.
        warnings: what must be known before the model is used, a sentence each.
        outputs: names of classes, labels or targets, in the order of every array and list about them.
        counts: part -> number of images of each class or with each label; empty for regression.
        parts: scored parts, the most trustworthy (test) first; may be empty.
        history: the epochs in order; may be empty.
        score_name: what `Epoch.val_score` is called.
        phases: what each phase of training did, in order; may be empty.
        attempts: what a search tried, the model first; empty where nothing was searched for.
        new_layers: layers of the backbone that have no pre-trained weights.
        images_used, refused, notes: what became of the data.
        seconds: stage -> time spent.
        usage_python, usage_shell: how to use the model, as code.

    Raises:
        ValueError: if counts or findings are not about `outputs`.
    """

    title: str
    created: str
    command: str
    task: str
    summary: list[tuple[str, str]]
    decision: str
    outputs: list[str]
    counts: dict[str, list[int]]
    parts: list[PartScores]
    history: list[Epoch]
    score_name: str
    images_used: int
    refused: list[Refused]
    notes: list[str]
    seconds: dict[str, float]
    usage_python: str
    usage_shell: str
    warnings: list[str] = field(default_factory=list)
    phases: Sequence[Fitted] = ()
    attempts: Sequence[Attempt] = ()
    new_layers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.outputs)
        for part, counts in self.counts.items():
            if len(counts) != n:
                raise ValueError(f"Expected {n} counts of {part}, one an output. Received: {len(counts)}.")
        for scored in self.parts:
            if len(scored.findings.rows) != n:
                raise ValueError(
                    f"Expected findings of {scored.name} for {n} outputs. "
                    f"Received: {len(scored.findings.rows)} rows."
                )
