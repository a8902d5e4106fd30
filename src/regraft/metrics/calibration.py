"""Whether probabilities mean what they say: of the answers given 80 %, about 80 % should be true.

The expected calibration error (ECE) sorts answers into bins by their probability and averages, over the
answers, how far each bin's mean probability is from its share of true answers. A perfectly calibrated model
does not score 0: with few images a bin's share misses its probability by chance. So an ECE is worth nothing
without the one that chance alone gives, which is simulated here for the same probabilities.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.classification import check_probabilities

__all__ = ["BINS", "Calibration", "Chance", "ReliabilityBin", "compute_brier", "measure_calibration"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 15
LEVELS = 100  # in a bin, to which probabilities are rounded for the simulation
DRAWS = 1000  # simulated sets of answers


@dataclass(frozen=True)
class Chance:
    """What a perfectly calibrated model would score: the mean, and the range of 95 % of the draws."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The answers with probabilities in one bin.

    Attributes:
        n: how many there are.
        probability: their mean probability.
        share: the share of them that is true.
        low, high: 95 % range of that share by chance, if the probabilities were right.
    """

    n: int
    probability: float
    share: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How far probabilities are from what happens.

    Attributes:
        n: number of answers: images; of labels, images times labels.
        ece: expected calibration error, in 0..1.
        chance: the error that a perfectly calibrated model would have by chance.
        brier: mean squared error of the probabilities, see `compute_brier`.
        bins: those that hold answers, by rising probability.
    """

    n: int
    ece: float
    chance: Chance
    brier: float
    bins: tuple[ReliabilityBin, ...]

    def to_metrics(self) -> dict[str, Any]:
        """Return what metrics.json holds of it: `ece`, `ece_chance` (mean, low, high) and `brier`."""
        return {"ece": self.ece, "ece_chance": asdict(self.chance), "brier": self.brier}


def measure_calibration(
    targets: npt.ArrayLike, answers: npt.ArrayLike, *, bins: int = BINS, seed: int = 0
) -> Calibration:
    """Measure the calibration of probabilities, in bins of equal width.

    Of several classes it is that of the class that is answered, the most probable one: is it right as often
    as it says? Of two classes it is that of the second one, and of labels that of all labels together.

    Args:
        targets: class numbers (n,), or 0 and 1 per label (n, labels).
        answers: probabilities: of each class (n, classes), of the second class (n, 1), or of each label
            (n, labels).
        bins: number of bins.
        seed: of the simulation.

    Raises:
        DataError: shapes disagree, or an answer is not a probability.

    >>> found = measure_calibration([[1], [1], [0], [1]], [[0.9], [0.9], [0.9], [0.9]], bins=10)
    >>> round(found.ece, 3), round(found.brier, 3), [(one.n, one.share) for one in found.bins]
    (0.15, 0.21, [(4, 0.75)])
    """
    table, truth = check_probabilities(answers), np.asarray(targets)
    probabilities, is_true = _list_claims(truth, table)
    numbers = np.minimum((probabilities * bins).astype(np.int64), bins - 1)
    counts, sums, hits = (
        np.bincount(numbers, weights, minlength=bins) for weights in (None, probabilities, is_true)
    )
    draws = _simulate_hits(probabilities, numbers, bins=bins, seed=seed)  # (draws, bins)
    errors = np.abs(draws - sums).sum(1) / len(probabilities)
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return Calibration(
        n=len(probabilities),
        ece=float(np.abs(hits - sums).sum() / len(probabilities)),
        chance=Chance(float(errors.mean()), *(float(edge) for edge in np.quantile(errors, (0.025, 0.975)))),
        brier=compute_brier(truth, table),
        bins=tuple(
            ReliabilityBin(int(count), *(float(total / count) for total in totals))
            for count, *totals in zip(counts, sums, hits, low, high, strict=True)
            if count
        ),
    )


def compute_brier(targets: npt.ArrayLike, answers: npt.ArrayLike) -> float:
    """Return the Brier score, 0 for certain and correct answers; arguments as in `measure_calibration`.

    It is the mean squared error of the probability of the second class or of each label. Of several classes
    it is the sum over the classes, as Brier defined it: 2 for certain and wrong answers.

    >>> compute_brier([0], [[0.5, 0.25, 0.25]]), compute_brier([1], [[0.5]])
    (0.375, 0.25)
    """
    table, truth = check_probabilities(answers), np.asarray(targets)
    if table.shape[1] > 1 and truth.ndim == 1:
        _check_labels(truth, *table.shape)
        return float(((table - np.eye(table.shape[1])[truth]) ** 2).sum(1).mean())
    return float(((table - _check_shape(truth, table)) ** 2).mean())


def _list_claims(truth: npt.NDArray[Any], table: Floats) -> tuple[Floats, Floats]:
    """Return the probability of every claim that the answers make, and 1 for the true ones, both (n,)."""
    if table.shape[1] > 1 and truth.ndim == 1:
        _check_labels(truth, *table.shape)
        return table.max(1), (table.argmax(1) == truth).astype(np.float64)
    return table.ravel(), _check_shape(truth, table).ravel()


def _check_labels(truth: npt.NDArray[Any], count: int, classes: int) -> None:
    if truth.shape != (count,) or truth.dtype.kind not in "iu" or truth.min() < 0 or truth.max() >= classes:
        raise DataError(
            f"Expected {count} class numbers in 0..{classes - 1}. "
            f"Received: shape {truth.shape}, dtype {truth.dtype}."
        )


def _check_shape(truth: npt.NDArray[Any], table: Floats) -> Floats:
    columns = truth.reshape(len(truth), -1)
    if columns.shape != table.shape or not np.isin(columns, (0, 1)).all():
        raise DataError(
            f"Expected 0 or 1 for each of {table.shape[0]} images and {table.shape[1]} answers. "
            f"Received: shape {truth.shape}, dtype {truth.dtype}."
        )
    return columns.astype(np.float64)


def _simulate_hits(probabilities: Floats, numbers: Ints, *, bins: int, seed: int) -> Floats:
    """Draw how many answers of each bin are true if the probabilities are right, (DRAWS, bins).

    Answers of nearly the same probability are drawn at once, so that a million of them are as fast as a
    thousand.
    """
    cells = bins * LEVELS
    levels = np.clip((probabilities * cells).astype(np.int64), numbers * LEVELS, (numbers + 1) * LEVELS - 1)
    present, level_of_answer = np.unique(levels, return_inverse=True)
    counts = np.bincount(level_of_answer)
    means = np.minimum(np.bincount(level_of_answer, probabilities) / counts, 1.0)
    draws = np.random.default_rng(seed).binomial(counts, means, (DRAWS, len(counts)))
    starts = np.searchsorted(present // LEVELS, np.arange(bins + 1))
    edges = np.concatenate([np.zeros((DRAWS, 1)), draws.cumsum(1)], 1)
    return np.diff(edges[:, starts], axis=1)
