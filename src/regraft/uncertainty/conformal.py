"""Conformal prediction for every task: sets of classes or labels, intervals of numbers, and their coverage.

`fit_conformal` takes the held-out answers of a run and returns `ClassSets`, `LabelSets` or `NumberIntervals`.
`measure_coverage_of` tries them on other images with targets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.metrics.coverage import (
    LEVELS,
    Coverage,
    LimitTrial,
    chance_band,
    mean_band,
    measure_coverage,
)
from regraft.tasks import TASKS
from regraft.uncertainty.held_out import HeldOutAnswers
from regraft.uncertainty.intervals import NumberIntervals
from regraft.uncertainty.prediction_sets import ClassSets, LabelSets, find_rank

__all__ = [
    "ClassCoverage", "Conformal", "CoverageLimits", "fit_conformal", "measure_class_coverages",
    "measure_coverages", "restore_conformal",
]  # fmt: skip

Conformal = ClassSets | LabelSets | NumberIntervals
Matrix = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]
Features = NDArray[np.float32]

MIN_IMAGES = 2  # held-out images with which anything is fitted


def fit_conformal(held_out: HeldOutAnswers | None, *, task: str, seed: int) -> Conformal | None:
    """Fit sets or intervals on answers to images that the model has not learnt from.

    Args:
        held_out: the answers; None if there are none.
        task: one of `tasks.TASKS`.
        seed: random seed.

    Returns:
        None without held-out images.
    """
    if held_out is None or len(held_out.targets) < MIN_IMAGES:
        return None
    targets, step = held_out.targets, held_out.step
    if task == "regression":
        return NumberIntervals.fit(
            held_out.answers, targets, held_out.features, fewer=held_out.fewer, step=step, seed=seed
        )
    if task == "multilabel":
        return LabelSets.fit(held_out.answers, targets, fewer=held_out.fewer, step=step, seed=seed)
    expand = TASKS[task].expand_binary
    fewer = None if held_out.fewer is None else expand(held_out.fewer)
    return ClassSets.fit(expand(held_out.answers), targets, fewer=fewer, step=step, seed=seed)


def restore_conformal(arrays: dict[str, NDArray[Any]]) -> Conformal | None:
    """Return what the arrays of `to_arrays` hold; None if they are none of these."""
    for kind, name in (
        (ClassSets, "class_scores"),
        (LabelSets, "label_shares"),
        (NumberIntervals, "number_scores"),
    ):
        if name in arrays:
            restored: Conformal = kind.from_arrays(arrays)
            return restored
    return None


# --- one image


@dataclass(frozen=True)
class CoverageLimits:
    """The limits of sets or intervals at one coverage.

    Attributes:
        conformal: the sets or intervals.
        values: of `find_limits`.
        names: of classes, labels or targets.
    """

    conformal: Conformal
    values: Matrix
    names: Sequence[str]

    @classmethod
    def find(cls, conformal: Conformal, coverage: float, names: Sequence[str]) -> CoverageLimits:
        """Find the limits of a coverage above 0 and below 1."""
        return cls(conformal, conformal.find_limits(coverage), names)

    def list_members(self, numbers: Floats) -> tuple[str, ...]:
        """Return the names in the set of an image with these probabilities, (names,), the likeliest first."""
        if isinstance(self.conformal, NumberIntervals):
            return ()
        is_member = self.conformal.select(numbers[None], self.values)[0]
        order = np.argsort(-numbers, kind="stable")
        return tuple(self.names[one] for one in order[is_member[order]])

    def find_intervals(self, numbers: Floats, features: Features | None) -> dict[str, tuple[float, float]]:
        """Return the interval of each target of an image with these answers, (names,), and features (d,)."""
        if not isinstance(self.conformal, NumberIntervals):
            return {}
        rows = None if features is None else features[None]
        ends = self.conformal.find_ends(numbers[None], rows, self.values)[0].tolist()
        return {name: (low, high) for name, (low, high) in zip(self.names, ends, strict=True)}


# --- coverage on images with targets


def measure_coverages(
    conformal: Conformal,
    targets: NDArray[Any],
    answers: Floats,
    features: Features | None,
    *,
    names: Sequence[str],
) -> list[Coverage]:
    """Return how often sets or intervals hold the truth, at each of `LEVELS` and for each target of numbers.

    Args:
        conformal: sets or intervals from `fit_conformal`.
        targets: class numbers (n,), 0 and 1 per label (n, labels), or numbers (n, targets); n > 0.
        answers: the model's answers to the same images, as in `regraft.tasks`.
        features: of the same images, (n, d); None if the model has none.
        names: of classes, labels or targets.
    """
    if isinstance(conformal, ClassSets):
        table = answers if answers.shape[1] > 1 else TASKS["binary"].expand_binary(answers)
        return [_measure_classes(conformal, targets, table, level) for level in LEVELS]
    if isinstance(conformal, LabelSets):
        return [_measure_labels(conformal, targets, answers, level) for level in LEVELS]
    return [
        one
        for level in LEVELS
        for one in _measure_numbers(conformal, targets, answers, features, level=level, names=names)
    ]


def _measure_classes(sets: ClassSets, labels: NDArray[Any], answers: Floats, level: float) -> Coverage:
    limits, rows = sets.find_limits(level), np.arange(len(labels))
    members = sets.select(answers, limits)
    trials = [
        LimitTrial(int(np.isin(labels, classes).sum()), rank, scores)
        for classes, rank, scores in sets.list_ranks(level)
    ]
    return measure_coverage(
        level,
        members[rows, labels],
        members.sum(1),
        band=chance_band(trials),
        within_limits=sets.are_within(answers, limits)[rows, labels],
    )


def _measure_labels(sets: LabelSets, targets: NDArray[Any], answers: Floats, level: float) -> Coverage:
    has = targets > 0
    members = sets.select(answers, sets.find_limits(level))
    has_label = has.any(1)
    shares = (members & has)[has_label].sum(1) / has[has_label].sum(1)
    if not len(shares):
        shares = np.array([math.nan])
    return measure_coverage(level, shares, members.sum(1), band=mean_band(level, shares, sets.images))


def _measure_numbers(
    intervals: NumberIntervals,
    targets: NDArray[Any],
    answers: Floats,
    features: Features | None,
    *,
    level: float,
    names: Sequence[str],
) -> list[Coverage]:
    low, high = np.moveaxis(intervals.find_ends(answers, features, intervals.find_limits(level)), -1, 0)
    covered, images = (low <= targets) & (targets <= high), len(intervals.scores)
    band = chance_band([LimitTrial(len(targets), find_rank(images, level), images)])
    return [
        measure_coverage(level, covered[:, column], (high - low)[:, column], band=band, target=name)
        for column, name in enumerate(names)
    ]


@dataclass(frozen=True)
class ClassCoverage:
    """The coverage of the sets of one class's images, as in `Coverage`; NaN where nothing is known."""

    name: str
    images: int
    coverage: float
    low: float
    high: float
    mean_size: float


def measure_class_coverages(
    sets: ClassSets, labels: NDArray[Any], answers: Floats, *, level: float, names: Sequence[str]
) -> list[ClassCoverage]:
    """Return how often sets hold the true class, for the images of each class.

    Arguments are those of `measure_coverages`. Only classes with a limit of their own have a band.
    """
    table = answers if answers.shape[1] > 1 else TASKS["binary"].expand_binary(answers)
    members = sets.select(table, sets.find_limits(level))
    own = {
        int(classes[0]): (rank, scores)
        for classes, rank, scores in sets.list_ranks(level)
        if len(classes) == 1
    }
    rows = []
    for number, name in enumerate(names):
        is_class = labels == number
        images, (low, high) = int(is_class.sum()), (math.nan, math.nan)
        if images and number in own:
            low, high = chance_band([LimitTrial(images, *own[number])])
        covered = float(members[is_class, number].mean()) if images else math.nan
        size = float(members[is_class].sum(1).mean()) if images else math.nan
        rows.append(ClassCoverage(name, images, covered, low, high, size))
    return rows
