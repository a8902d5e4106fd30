"""Intervals that hold the truth as often as is asked, from the errors of answers to held-out images.

The score of an image is its absolute error over the spread that `uncertainty.spread` expects of its errors. A
new answer, plus and minus its spread times the conformal quantile of the scores, holds the truth with the
asked coverage, for each target on its own (Papadopoulos et al., Normalized nonconformity measures for
regression conformal prediction, 2008; Barber et al., Predictive inference with the jackknife+, 2021, for
scores from cross-validation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.uncertainty.prediction_sets import conformal_quantile, count_least, draw_rows, extrapolate
from regraft.uncertainty.spread import Spread, fit_spread

__all__ = ["NumberIntervals"]

Matrix = NDArray[np.float64]
Features = NDArray[np.float32]
Floats = NDArray[np.floating[Any]]

SMALLEST = 1e-9  # of the median score: smaller scores count as this large where logarithms are taken


@dataclass(frozen=True)
class NumberIntervals:
    """Intervals around answers in the targets' own units.

    Attributes:
        scores: absolute errors over their spread, of held-out images, (n, targets).
        spread: of the errors on an image.

    Example:
        >>> truth = np.arange(20.0)[:, None]
        >>> intervals = NumberIntervals.fit(truth + np.tile([[1.0], [-3.0]], (10, 1)), truth)
        >>> intervals.find_ends(np.array([[50.0]]), None, intervals.find_limits(0.9)).tolist()
        [[[47.0, 53.0]]]
    """

    scores: Matrix
    spread: Spread

    @classmethod
    def fit(
        cls,
        answers: Floats,
        targets: NDArray[Any],
        features: Features | None = None,
        *,
        fewer: Floats | None = None,
        step: float = 0.0,
        seed: int = 0,
    ) -> NumberIntervals:
        """Fit the spread of errors on held-out images, and take their scores.

        Args:
            answers, targets: numbers, (n, targets).
            features: of the same images, (n, d); None for intervals of one width.
            fewer, step: answers to the same images by heads of fewer images, see `extrapolate`.
            seed: random seed of the folds and of the samples.
        """
        truth = np.asarray(targets, np.float64)
        errors = np.abs(answers - truth)
        spread, values = fit_spread(features, errors, seed=seed)
        scores = errors / values
        if fewer is not None:
            larger = np.abs(fewer - truth) / values
            columns = zip(scores.T, larger.T, strict=True)
            scores = np.stack([_extrapolate_scores(one, other, step) for one, other in columns], 1)
        return cls(scores[draw_rows(len(scores), seed, width=scores.shape[1])], spread)

    def find_limits(self, coverage: float) -> Matrix:
        """Return half the width of an interval over its spread, (targets,); infinite for too few images."""
        return np.array([conformal_quantile(column, coverage) for column in self.scores.T])

    def find_ends(self, answers: Floats, features: Features | None, limits: Matrix) -> Matrix:
        """Return the ends of the intervals around answers (m, targets), shape (m, targets, 2).

        Args:
            answers: in the targets' units.
            features: of the same images, (m, d); None if every spread is constant.
            limits: from `find_limits`.
        """
        if features is None or self.spread.is_constant.all():
            features = np.zeros((len(answers), len(self.spread.weights)), np.float32)
        with np.errstate(invalid="ignore"):
            half = np.where(np.isinf(limits), np.inf, self.spread(features) * limits)
        return np.stack([answers - half, answers + half], -1)

    def describe(self, coverage: float, names: Sequence[str]) -> str:
        """Return a sentence on the widths of the intervals."""
        images, least = len(self.scores), count_least(coverage)
        if images < least:
            return (
                f"A coverage of {100 * coverage:g} % takes {least} held-out images, and there are {images}: "
                "intervals have no ends."
            )
        constant = [name for name, is_it in zip(names, self.spread.is_constant, strict=True) if is_it]
        if not constant:
            return "The width of an interval depends on the image."
        which = "" if len(constant) == len(names) else f" of {', '.join(constant)}"
        return f"All intervals{which} are equally wide: no image's error can be foretold."

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the content as arrays by name."""
        return {
            "number_scores": self.scores,
            "spread_weights": self.spread.weights,
            "spread_bias": self.spread.bias,
            "spread_bounds": self.spread.bounds,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> NumberIntervals:
        """Return what `to_arrays` was called on."""
        spread = Spread(arrays["spread_weights"], arrays["spread_bias"], arrays["spread_bounds"])
        return cls(arrays["number_scores"], spread)


def _extrapolate_scores(scores: Matrix, fewer: Matrix, step: float) -> Matrix:
    """Do what `extrapolate` does to scores (n,) that are not negative, by their logarithms."""
    smallest = SMALLEST * float(np.median(scores))
    if smallest <= 0:
        return scores
    logarithms, of_fewer = (np.log(np.maximum(one, smallest)) for one in (scores, fewer))
    moved: Matrix = np.exp(extrapolate(logarithms, of_fewer, step))
    return moved
