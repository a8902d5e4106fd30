"""How well scores rank the images that have a label above those that do not.

Each measure comes with its influence function: how much each image moves it. That gives standard errors
without resampling, also of a mean over labels, whose influence is the mean of the influences.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.metrics.intervals import Interval, logit_interval

__all__ = [
    "Curves",
    "RankingScore",
    "area_under_roc",
    "average_over_columns",
    "average_precision",
    "compute_curves",
    "weigh_area_under_roc",
    "weigh_average_precision",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class RankingScore:
    """A measure in 0..1 and the influence of each image on it, shape (n,), which sums to 0."""

    value: float
    influence: Floats

    @property
    def interval(self) -> Interval:
        """The measure with its 95 % interval."""
        return logit_interval(self.value, self.influence)


Measure = Callable[[npt.ArrayLike, npt.ArrayLike], RankingScore | None]


@dataclass(frozen=True)
class Curves:
    """Rates in 0..1 at the distinct thresholds, in falling order; each of shape (thresholds,)."""

    false_positive: Floats
    recall: Floats
    precision: Floats


@dataclass(frozen=True)
class _Levels:
    """The distinct scores in rising order: each image's index, and how many images of both kinds have it."""

    of_image: npt.NDArray[np.intp]
    positives: Floats
    negatives: Floats

    @classmethod
    def from_scores(cls, truth: Bools, scores: npt.NDArray[Any]) -> _Levels:
        levels, of_image = np.unique(scores, return_inverse=True)
        positives = np.bincount(of_image[truth], minlength=len(levels)).astype(np.float64)
        negatives = np.bincount(of_image[~truth], minlength=len(levels)).astype(np.float64)
        return cls(of_image, positives, negatives)


def area_under_roc(truth: npt.ArrayLike, scores: npt.ArrayLike) -> RankingScore | None:
    """Return the area under the ROC curve: how probably an image with the label outscores one without.

    Args:
        truth: 0 or 1 for each image, shape (n,).
        scores: finite, shape (n,); ties count half.

    Returns:
        None if `truth` is all 0 or all 1. The standard error is that of E. DeLong et al., "Comparing the
        areas under two or more correlated ROC curves", Biometrics 44 (1988), up to n / (n - 1).

    >>> area_under_roc([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8]).value
    0.75
    """
    has = np.asarray(truth, dtype=bool)
    n, positives = len(has), int(has.sum())
    if positives in (0, n):
        return None
    levels = _Levels.from_scores(has, np.asarray(scores))
    below = (levels.negatives.cumsum() - levels.negatives / 2) / (n - positives)
    above = (positives - levels.positives.cumsum() + levels.positives / 2) / positives
    shares = np.where(has, below[levels.of_image], above[levels.of_image])
    value = float(shares[has].mean())
    return RankingScore(value, (shares - value) * n / np.where(has, positives, n - positives))


def average_precision(truth: npt.ArrayLike, scores: npt.ArrayLike) -> RankingScore | None:
    """Return the average precision: the mean over the images with the label of the precision at their score.

    Arguments are as in `area_under_roc`; a random answer scores the share of the label.

    Returns:
        None if no image has the label.

    >>> round(average_precision([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8]).value, 4)
    0.8333
    """
    has = np.asarray(truth, dtype=bool)
    n, positives = len(has), int(has.sum())
    if not positives:
        return None
    levels = _Levels.from_scores(has, np.asarray(scores))
    hits, answered = _count_from_above(levels)
    precision = hits / answered
    value = float((levels.positives * precision).sum() / positives)
    own = has * (precision[levels.of_image] - value)
    # An image also moves the precision at every level below its own, where it is answered too.
    gained = (levels.positives / answered).cumsum()[levels.of_image]
    lost = (levels.positives * precision / answered).cumsum()[levels.of_image]
    return RankingScore(value, (own + has * gained - lost) * n / positives)


def weigh_average_precision(weights: Floats, truth: npt.ArrayLike, scores: npt.ArrayLike) -> Floats:
    """Return the average precision under each of r weightings of the images, as a bootstrap needs it.

    Args:
        weights: how often each image counts, (r, n).
        truth, scores: as in `area_under_roc`.

    Returns:
        Shape (r,), NaN where no image with the label counts.

    >>> weigh_average_precision(np.array([[1, 1, 1, 1], [1, 1, 0, 1]]), [0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8])
    array([0.83333333, 1.        ])
    """
    values, has = np.asarray(scores), np.asarray(truth, dtype=bool)
    order = np.argsort(-values, kind="stable")
    ordered, labelled = values[order], np.flatnonzero(has[order])
    if not len(labelled):
        return np.full(len(weights), np.nan)
    # Of each image with the label: the last image, and the last one with the label, that score as high.
    last = np.searchsorted(-ordered, -ordered[labelled], side="right") - 1
    last_labelled = np.searchsorted(labelled, last, side="right") - 1
    rows = np.asarray(weights, np.float64).T[order]  # (n, r)
    own = rows[labelled]
    hits = np.cumsum(own, axis=0)
    answered = np.cumsum(rows, axis=0)[last]
    summed = (own * hits[last_labelled] / np.maximum(answered, 1)).sum(axis=0)
    return np.asarray(np.where(hits[-1] > 0, summed / np.maximum(hits[-1], 1), np.nan))


def weigh_area_under_roc(weights: Floats, truth: npt.ArrayLike, scores: npt.ArrayLike) -> Floats:
    """Return the area under the ROC curve under each of r weightings, as `weigh_average_precision` does.

    >>> weigh_area_under_roc(np.array([[1, 1, 1, 1], [1, 1, 0, 1]]), [0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8])
    array([0.75, 1.  ])
    """
    positives, counts = _sum_levels(weights, truth, scores)
    negatives = counts - positives
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    return np.where(pairs > 0, (positives * below).sum(axis=1) / np.maximum(pairs, 1), np.nan)


def compute_curves(truth: npt.ArrayLike, scores: npt.ArrayLike) -> Curves | None:
    """Return the points of the ROC and the precision-recall curve, from the strictest threshold on.

    Returns:
        None if `truth` is all 0 or all 1.

    >>> compute_curves([0, 1, 0, 1], [0.1, 0.3, 0.4, 0.8]).recall.tolist()
    [0.5, 0.5, 1.0, 1.0]
    """
    has = np.asarray(truth, dtype=bool)
    if has.all() or not has.any():
        return None
    hits, answered = _count_from_above(_Levels.from_scores(has, np.asarray(scores)))
    wrong = answered - hits
    rates = Curves(wrong / wrong[0], hits / hits[0], hits / answered)
    return Curves(rates.false_positive[::-1], rates.recall[::-1], rates.precision[::-1])


def average_over_columns(
    measure: Measure, truth: npt.ArrayLike, scores: npt.ArrayLike
) -> RankingScore | None:
    """Return the mean of a measure over the columns of (n, labels) where it is defined; None if it never is.

    >>> average_over_columns(area_under_roc, [[0, 1], [1, 1]], [[0.2, 0.9], [0.4, 0.8]]).value
    1.0
    """
    columns = zip(np.asarray(truth).T, np.asarray(scores).T, strict=True)
    defined = [score for column in columns if (score := measure(*column)) is not None]
    if not defined:
        return None
    value = float(np.mean([score.value for score in defined]))
    return RankingScore(value, np.mean([score.influence for score in defined], axis=0))


def _sum_levels(weights: Floats, truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """Return the weights of the images with the label and of all images, (r, levels), in rising order."""
    values = np.asarray(scores)
    order = np.argsort(values, kind="stable")
    first = np.flatnonzero(np.diff(values[order], prepend=-np.inf) > 0)
    ordered, has = np.asarray(weights, np.float64)[:, order], np.asarray(truth, dtype=bool)[order]
    return np.add.reduceat(ordered * has, first, axis=1), np.add.reduceat(ordered, first, axis=1)


def _count_from_above(levels: _Levels) -> tuple[Floats, Floats]:
    """Return for each level how many images with the label, and how many in all, score that or higher."""
    hits = levels.positives[::-1].cumsum()[::-1]
    return hits, hits + levels.negatives[::-1].cumsum()[::-1]
