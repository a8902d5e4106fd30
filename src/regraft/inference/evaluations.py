"""The scores of a trained model on a part of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.samples import RejectedFile
from regraft.evaluation.scores import compute_calibration, compute_scores
from regraft.inference.predict import ModelOutput
from regraft.metrics.calibration import Calibration
from regraft.metrics.coverage import Coverage
from regraft.metrics.intervals import Interval
from regraft.uncertainty.conformal import measure_coverages
from regraft.uncertainty.file import Uncertainty

__all__ = ["Evaluation", "PartScorer"]


@dataclass(frozen=True)
class Evaluation:
    """The scores on one part of a data set with `n` samples, and the files that were refused.

    `calibration` tells what its probabilities are worth; None for numbers. `coverage` is how often the
    sets or intervals of 80, 90 and 95 % hold the truth; empty if there are none.
    """

    part: str
    n: int
    scores: dict[str, Interval]
    refused: tuple[RejectedFile, ...]
    calibration: Calibration | None = None
    coverage: tuple[Coverage, ...] = ()


@dataclass(frozen=True)
class PartScorer:
    """Scores the answers to a part; the attributes are those of a `Bundle`."""

    task: str
    outputs: Sequence[str]
    thresholds: dict[str, float]
    uncertainty: Uncertainty | None

    def score(
        self,
        part: str,
        targets: NDArray[Any],
        outputs: Sequence[ModelOutput],
        refused: tuple[RejectedFile, ...],
    ) -> Evaluation:
        """Return the scores of a part.

        Args:
            part: its name; "" if the data have no parts.
            targets: of its samples, see `compute_scores`.
            outputs: what the model computes of them.
            refused: the files of the whole data set that were refused.
        """
        answers = np.stack([output.answer for output in outputs])
        limits = np.array([self.thresholds.get(name, 0.5) for name in self.outputs])
        return Evaluation(
            part or "all",
            len(answers),
            compute_scores(self.task, targets, answers, thresholds=limits),
            refused,
            compute_calibration(self.task, targets, answers),
            self._measure_coverage(targets, answers.astype(np.float64), outputs),
        )

    def _measure_coverage(
        self, targets: NDArray[Any], answers: NDArray[np.float64], outputs: Sequence[ModelOutput]
    ) -> tuple[Coverage, ...]:
        conformal = self.uncertainty.conformal if self.uncertainty else None
        if conformal is None:
            return ()
        rows = [output.features for output in outputs if output.features is not None]
        features = np.stack(rows) if len(rows) == len(outputs) else None
        return tuple(measure_coverages(conformal, targets, answers, features, names=self.outputs))
