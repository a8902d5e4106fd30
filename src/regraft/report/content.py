"""The content of a report as values: the run, the scores of each part, and the worst mistakes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regraft.data.catalog import RejectedFile
from regraft.metrics.calibration import Calibration
from regraft.metrics.classification import ClassRow
from regraft.metrics.coverage import Coverage
from regraft.metrics.groups import GroupRow
from regraft.metrics.intervals import Interval
from regraft.metrics.learning_curve import LearningCurve
from regraft.metrics.multilabel import LabelRow
from regraft.metrics.ranking import Curves
from regraft.metrics.regression import TargetRow
from regraft.uncertainty.conformal import ClassCoverage

if TYPE_CHECKING:
    from regraft.training.loop import PhaseResult
    from regraft.training.outcome import Attempt

__all__ = [
    "ClassFindings",
    "CoverageFindings",
    "Epoch",
    "FamiliarityFindings",
    "LabelFindings",
    "NumberFindings",
    "PartScores",
    "Report",
    "RightImage",
    "StrangeImage",
    "WrongImage",
    "WrongLabels",
    "WrongNumbers",
]


@dataclass(frozen=True)
class WrongImage:
    """A misclassified image. Probabilities are in 0..1; `thumbnail` holds a small JPEG file, or b"".

    So does `heat`: the thumbnail with a map of what speaks for the predicted class rather than the true one.
    """

    image: str
    truth: str
    predicted: str
    probability: float
    truth_probability: float
    thumbnail: bytes
    heat: bytes = b""


@dataclass(frozen=True)
class RightImage:
    """A correctly classified image; `heat` is a JPEG file with a map of what speaks for its class."""

    image: str
    truth: str
    probability: float
    thumbnail: bytes
    heat: bytes


@dataclass(frozen=True)
class WrongLabels:
    """An image with labels missed or added, each with its probability in 0..1, and its correct labels.

    `heat` is the thumbnail with a map of what speaks for and against `heat_label`, one of the wrong labels.
    """

    image: str
    missed: list[tuple[str, float]]
    added: list[tuple[str, float]]
    right: list[str]
    thumbnail: bytes
    heat: bytes = b""
    heat_label: str = ""


@dataclass(frozen=True)
class WrongNumbers:
    """An image with large errors: the name, truth and answer of each target.

    `heat` is the thumbnail with a map of what raises and lowers `heat_label`, one of the targets.
    """

    image: str
    values: list[tuple[str, float, float]]
    thumbnail: bytes
    heat: bytes = b""
    heat_label: str = ""


@dataclass(frozen=True)
class ClassFindings:
    """The results of a classification with one class per image.

    Attributes:
        confusion: counts of shape (n_classes, n_classes); a row is the true class.
        rows: the scores of each class.
        wrong: the worst mistakes.
        curves: those of the second class, where there are two.
        right: for each class its surest correct answer and its least sure one, if they have heat maps.
    """

    confusion: npt.NDArray[np.integer[Any]]
    rows: list[ClassRow]
    wrong: list[WrongImage]
    curves: Curves | None = None
    right: list[RightImage] = field(default_factory=list)


@dataclass(frozen=True)
class LabelFindings:
    """The results of a multi-label classification; `rows` holds the scores of each label."""

    rows: list[LabelRow]
    wrong: list[WrongLabels]


@dataclass(frozen=True)
class NumberFindings:
    """The results of a regression: `rows` for each target, `truth` and `answers` of shape (n, targets)."""

    rows: list[TargetRow]
    truth: npt.NDArray[np.floating[Any]]
    answers: npt.NDArray[np.floating[Any]]
    wrong: list[WrongNumbers]


@dataclass(frozen=True)
class CoverageFindings:
    """How often sets or intervals hold the truth.

    Attributes:
        levels: the coverage at each of several levels, for each target of numbers.
        classes: that of each class at a level of 90 %; empty unless there are classes.
        limits: a sentence on the limits that make the sets or intervals.
    """

    levels: list[Coverage]
    classes: list[ClassCoverage]
    limits: str


@dataclass(frozen=True)
class StrangeImage:
    """An image with its familiarity in 0..1 and its target; `thumbnail` holds a small JPEG file, or b""."""

    image: str
    truth: str
    familiarity: float
    thumbnail: bytes


@dataclass(frozen=True)
class FamiliarityFindings:
    """How many images of a part are not like those of training.

    Attributes:
        level: familiarity below which an image is not like them.
        unfamiliar: number of such images.
        expected: how many there should be at most.
        is_surprising: whether there are far more.
        strangest: the least familiar images.
    """

    level: float
    unfamiliar: int
    expected: int
    is_surprising: bool
    strangest: list[StrangeImage]


@dataclass(frozen=True)
class PartScores:
    """The scores on one part of the data ("validation" or "test") with `n` samples.

    Attributes:
        scores: see `evaluation.scores`; the headline comes first.
        baseline: the headline score of answers that ignore the images.
        caution: a sentence if the model is no better than that, else "".
        probe: the headline score of the head alone on the untouched backbone, if the model is another one.
        findings: the results specific to the task.
        calibration: what the probabilities are worth; None for numbers.
        coverage: how often sets or intervals hold the truth; None if that is not known.
        familiarity: which images are not like those of training; None if that is not known.
        source: how the answers were made, if the model has learnt from this part since: "cross-validation" or
            "before refit"; "" if it has not.
    """

    name: str
    n: int
    scores: dict[str, Interval]
    baseline: float
    caution: str
    probe: Interval | None
    findings: ClassFindings | LabelFindings | NumberFindings
    calibration: Calibration | None = None
    coverage: CoverageFindings | None = None
    familiarity: FamiliarityFindings | None = None
    source: str = ""


@dataclass(frozen=True)
class Epoch:
    """One epoch; epoch 0 is the state before training. A loss or score of NaN was not measured."""

    phase: str
    epoch: int
    loss: float
    val_loss: float
    val_score: float
    learning_rate: float
    seconds: float
    val_loss_calibrated: float = math.nan


@dataclass(frozen=True)
class Report:
    """The content of the page.

    Attributes:
        title, created, command: the heading, the time, and the command that made the report.
        task: "multiclass", "binary", "multilabel" or "regression".
        summary: facts as (label, value).
        decision: which model was kept and why, in sentences.
        warnings: what to know before using the model, one sentence each.
        outputs: names of classes, labels or targets, in the order of every array and list about them.
        counts: part -> number of images with each class or label; empty for regression.
        parts: scored parts, the most trustworthy (test) first; may be empty.
        history: the epochs in order; may be empty.
        score_name: the name of `Epoch.val_score`.
        phases: the results of each phase of training, in order; may be empty.
        attempts: the trials of a search, the chosen one first; empty without a search.
        new_layers: layers of the backbone without pre-trained weights.
        images_used, refused, notes: how many images were used, the refused files, and notes on the data.
        seconds: stage -> time spent.
        slices: scores of groups of images of the first part, the worse ones first; may be empty.
        slice_measure: the name of their score.
        usage_python, usage_shell: code that uses the model.
        learning_curve: what more images would bring; None if it was not measured.

    Raises:
        ValueError: counts or findings do not match `outputs`.
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
    refused: list[RejectedFile]
    notes: list[str]
    seconds: dict[str, float]
    usage_python: str
    usage_shell: str
    warnings: list[str] = field(default_factory=list)
    phases: Sequence[PhaseResult] = ()
    attempts: Sequence[Attempt] = ()
    new_layers: list[str] = field(default_factory=list)
    slices: Sequence[GroupRow] = ()
    slice_measure: str = "top1"
    learning_curve: LearningCurve | None = None

    def __post_init__(self) -> None:
        n = len(self.outputs)
        for part, counts in self.counts.items():
            if len(counts) != n:
                raise ValueError(f"Expected {n} counts of {part}, one per output. Received: {len(counts)}.")
        for part_scores in self.parts:
            row_count = len(part_scores.findings.rows)
            if row_count != n:
                raise ValueError(
                    f"Expected findings of {part_scores.name} for {n} outputs. Received: {row_count} rows."
                )
