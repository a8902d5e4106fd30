"""How well scores put the images that have a label before those that have not.

Each measure comes with its influence function: how much every single image moves it. That gives standard
errors without resampling, and of a mean over labels too: the influence of a mean is the mean influence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.metrics.intervals import Interval, logit_interval

__all__ = ["Curves", "Ranked", "area_under_roc", "average_precision", "curves", "mean_of"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Ranked:
    """A measure in 0..1, and the influence of each image on it, shape (n,), summing to 0."""

    value: float
    influence: Floats

    @property
    def interval(self) -> Interval:
        """With its 95 % interval."""
        return logit_interval(self.value, self.influence)


Measure = Callable[[npt.ArrayLike, npt.ArrayLike], Ranked | None]


@dataclass(frozen=True)
class Curves:
    """Rates in 0..1 at every distinct threshold, falling; each of shape (thresholds,)."""

    false_positive: Floats
    recall: Floats
    precision: Floats


@dataclass(frozen=True)
class _Levels:
    """The distinct scores, rising: which one each image has, and how many images of both kinds have it."""

    of_image: npt.NDArray[np.intp]
    positives: Floats
    negatives: Floats

    @classmethod
    def of(cls, truth: Bools, scores: npt.NDArray[Any]) -> _Levels:
        levels, of_image = np.unique(scores, return_inverse=True)
        positives = np.bincount(of_image[truth], minlength=len(levels)).astype(np.float64)
        negatives = np.bincount(of_image[~truth], minlength=len(levels)).astype(np.float64)
        return cls(of_image, positives, negatives)


def area_under_roc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Ranked | None:
    """Area under the ROC curve: the chance that an image with the label scores higher than one without.

    Args:
        truth: 0 or 1 an image, shape (n,).
        scores: finite, shape (n,); equal ones count half.

    Returns:
        None where `truth` is all 0 or all 1. The standard error is that of E. DeLong et al., "Comparing the
        areas under two or more correlated ROC curves", Biometrics 44 (1988), up to n / (n - 1).

    >>> area_under_roc([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8]).value
    0.75
    """
    has = np.asarray(truth, dtype=bool)
    n, positives = len(has), int(has.sum())
    if positives in (0, n):
        return None
    levels = _Levels.of(has, np.asarray(scores))
    below = (levels.negatives.cumsum() - levels.negatives / 2) / (n - positives)
    above = (positives - levels.positives.cumsum() + levels.positives / 2) / positives
    beaten = np.where(has, below[levels.of_image], above[levels.of_image])
    value = float(beaten[has].mean())
    return Ranked(value, (beaten - value) * n / np.where(has, positives, n - positives))


def average_precision(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Ranked | None:
    """Average precision: the mean, over the images with the label, of the precision down to their score.

    Args and ties as in `area_under_roc`; a random answer has the share of the label.

    Returns:
        None where no image has the label.

    >>> round(average_precision([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8]).value, 4)
    0.8333
    """
    has = np.asarray(truth, dtype=bool)
    n, positives = len(has), int(has.sum())
    if not positives:
        return None
    levels = _Levels.of(has, np.asarray(scores))
    found, answered = _from_above(levels)
    precision = found / answered
    value = float((levels.positives * precision).sum() / positives)
    own = has * (precision[levels.of_image] - value)
    # An image also moves the precision at every level down to which it is answered: all those below its own.
    gained = (levels.positives / answered).cumsum()[levels.of_image]
    lost = (levels.positives * precision / answered).cumsum()[levels.of_image]
    return Ranked(value, (own + has * gained - lost) * n / positives)


def curves(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Curves | None:
    """The points of the ROC and the precision-recall curve, the strictest threshold first.

    Returns:
        None where `truth` is all 0 or all 1.

    >>> curves([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8]).recall.tolist()
    [0.5, 0.5, 1.0, 1.0]
    """
    has = np.asarray(truth, dtype=bool)
    if has.all() or not has.any():
        return None
    found, answered = _from_above(_Levels.of(has, np.asarray(scores)))
    missed = answered - found
    rates = Curves(missed / missed[0], found / found[0], found / answered)
    return Curves(rates.false_positive[::-1], rates.recall[::-1], rates.precision[::-1])


def mean_of(measure: Measure, truth: npt.ArrayLike, scores: npt.ArrayLike) -> Ranked | None:
    """The mean of a measure over the columns of (n, labels) for which it is defined; None if there is none.

    >>> mean_of(area_under_roc, [[0, 1], [1, 1]], [[0.2, 0.9], [0.4, 0.8]]).value
    1.0
    """
    columns = zip(np.asarray(truth).T, np.asarray(scores).T, strict=True)
    defined = [found for column in columns if (found := measure(*column)) is not None]
    if not defined:
        return None
    value = float(np.mean([found.value for found in defined]))
    return Ranked(value, np.mean([found.influence for found in defined], axis=0))


def _from_above(levels: _Levels) -> tuple[Floats, Floats]:
    """For each level, how many images with the label, and how many at all, score that or higher."""
    found = levels.positives[::-1].cumsum()[::-1]
    return found, found + levels.negatives[::-1].cumsum()[::-1]
