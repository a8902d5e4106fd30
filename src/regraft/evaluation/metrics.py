"""How good the answers are, each number with its 95 % interval.

Top-1 accuracy gets the Wilson score interval, everything else a seeded percentile bootstrap. The
bootstrap of a flawless result has no width: "no mistake was seen", not "none is possible". The Wilson
interval beside it tells how much was seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError

__all__ = [
    "ClassRow",
    "Interval",
    "baseline",
    "classification_scores",
    "confusion_matrix",
    "per_class",
    "wilson_interval",
]

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]

RESAMPLES = 1000
Z95 = 1.959963984540054  # 97.5 % point of the standard normal distribution
SMALLEST_PROBABILITY = 1e-15
DRAWS_AT_ONCE = 500_000  # bounds the bootstrap's memory to some tens of MB, whatever n is


@dataclass(frozen=True)
class Interval:
    """A measured value and the ends of its 95 % interval, all in the value's own unit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassRow:
    """One class's scores, each in 0..1; None where it is a division by zero.

    `n` counts the images truly of the class. Precision is undefined where the class was never
    answered, recall where it has no images, F1 where both hold.
    """

    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class _Answers:
    """What the bootstrap draws from; every array has shape (n,)."""

    labels: Ints
    predicted: Ints
    losses: Floats
    n_classes: int

    def scores(self, draws: Ints) -> Floats:
        """Balanced accuracy, macro F1 and log loss, shape (3, r), of r resamples `draws` (r, n)."""
        labels, predicted = self.labels[draws], self.predicted[draws]
        support = _tally(labels, self.n_classes)
        said = _tally(predicted, self.n_classes)
        # Wrong answers go to one bin more, which is then dropped.
        hit = np.where(labels == predicted, labels, self.n_classes)
        hits = _tally(hit, self.n_classes + 1)[:, :-1]
        present = support > 0  # a class may vanish from a resample: it leaves that resample's mean
        recall = hits / np.maximum(support, 1)
        f1 = np.where(present, 2 * hits / np.maximum(support + said, 1), 0.0)
        occurring = present.sum(axis=1)
        log_loss = self.losses[draws].mean(axis=1)
        return np.stack([recall.sum(axis=1) / occurring, f1.sum(axis=1) / occurring, log_loss])


def wilson_interval(hits: int, n: int) -> Interval:
    """The Wilson score interval, 95 %, of a share of `hits` in `n` trials.

    Unlike the textbook interval it stays inside 0..1 and keeps a width when every trial agrees.
    Source: E. B. Wilson, "Probable inference", J. Am. Stat. Assoc. 22 (1927).

    Raises:
        DataError: if `n` is not positive or `hits` is outside 0..n.

    >>> interval = wilson_interval(9, 10)
    >>> f"{interval.value:.2f} from {interval.low:.2f} to {interval.high:.2f}"
    '0.90 from 0.60 to 0.98'
    """
    if not 0 <= hits <= n or n == 0:
        raise DataError(f"Expected 0 <= hits <= n and n > 0. Received: hits={hits}, n={n}.")
    share, z2 = hits / n, Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # The ends are exactly 0 and 1 in the extreme cases; rounding must not push the value outside.
    return Interval(share, max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share)))


def classification_scores(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, seed: int = 0
) -> dict[str, Interval]:
    """Scores of a classifier on labelled images, each with a 95 % interval.

    `top1`: share of images whose most probable class is the true one (the first class wins a tie).
    `balanced_accuracy`: mean recall over the classes that occur in `labels`.
    `macro_f1`: mean F1 over the classes that occur in `labels`. A class without an image there adds
    no term of its own; images wrongly called so still lower the recall of the class they are of.
    `log_loss`: mean of -ln(probability of the truth), in nats, probabilities clipped at 1e-15.

    The interval of `top1` is Wilson's; the others are percentile bootstraps with 1000 resamples (in a
    resample, too, only the classes that occur count), widened where needed to hold the value. The
    order of the images makes no difference.

    Args:
        labels: true class numbers, integers of shape (n,), 0 <= label < n_classes, n > 0.
        probabilities: shape (n, n_classes), each within 0..1.
        seed: of the bootstrap. Defaults to 0; the same seed gives the same intervals.

    Raises:
        DataError: if shapes disagree, a label is out of range, or a probability is not one.

    >>> scores = classification_scores([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> {name: round(score.value, 2) for name, score in scores.items()}
    {'top1': 0.67, 'balanced_accuracy': 0.75, 'macro_f1': 0.67, 'log_loss': 0.41}
    """
    probabilities = _checked_probabilities(probabilities)
    n, n_classes = probabilities.shape
    labels = _checked_labels(labels, n, n_classes)
    predicted = probabilities.argmax(axis=1)
    losses = -np.log(np.clip(probabilities[np.arange(n), labels], SMALLEST_PROBABILITY, 1.0))
    # Sorted, so that the draws of one seed hit the same answers in whatever order they came.
    order = np.lexsort((losses, predicted, labels))
    answers = _Answers(labels[order], predicted[order], losses[order], n_classes)
    values = answers.scores(np.arange(n)[np.newaxis])[:, 0]
    resampled = np.concatenate([answers.scores(draws) for draws in _draws(n, seed)], axis=1)
    lows, highs = np.quantile(resampled, [0.025, 0.975], axis=1)
    found = {"top1": wilson_interval(int((labels == predicted).sum()), n)}
    names = ("balanced_accuracy", "macro_f1", "log_loss")
    for name, value, low, high in zip(names, values, lows, highs, strict=True):
        found[name] = Interval(float(value), float(min(low, value)), float(max(high, value)))
    return found


def confusion_matrix(
    labels: npt.ArrayLike, predicted: npt.ArrayLike, n_classes: int
) -> npt.NDArray[np.int64]:
    """How often each class (row) was called each class (column).

    Args:
        labels, predicted: true and answered class numbers, each of shape (n,), below `n_classes`.

    Returns:
        Counts of shape (n_classes, n_classes), rows the truth, columns the answer.

    Raises:
        DataError: if the shapes differ or a number is out of range.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    n = np.size(predicted)
    truth, said = _checked_labels(labels, n, n_classes), _checked_labels(predicted, n, n_classes)
    cells = truth.astype(np.int64) * n_classes + said
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.int64)


def per_class(labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[str]) -> list[ClassRow]:
    """Precision, recall and F1 of every class, in the order of `classes`.

    Args:
        labels, predicted: true and answered class numbers, each of shape (n,).
        classes: the names; a class number is a place in this sequence.

    Raises:
        DataError: if the shapes differ or a number is out of range.

    >>> per_class([0, 0, 1], [0, 1, 1], ["cat", "dog"])[1]
    ClassRow(name='dog', n=1, precision=0.5, recall=1.0, f1=0.6666666666666666)
    """
    counts = confusion_matrix(labels, predicted, len(classes))
    hits, support, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return [
        ClassRow(name, int(n), _ratio(hit, answered), _ratio(hit, n), _ratio(2 * hit, n + answered))
        for name, hit, n, answered in zip(classes, hits, support, said, strict=True)
    ]


def baseline(training_labels: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Accuracy, 0..1, on `labels` of always answering the class most frequent in `training_labels`.

    Both are class numbers, of shape (n_training,) and (n,). The smaller number wins a tie.

    Raises:
        DataError: if either is empty.

    >>> baseline([0, 1, 1], [1, 0, 1, 1])
    0.75
    """
    training, evaluated = np.asarray(training_labels), np.asarray(labels)
    if not training.size or not evaluated.size:
        raise DataError(f"Expected labels. Received: {training.size} to train, {evaluated.size} to score.")
    return float((evaluated == np.bincount(training).argmax()).mean())


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _tally(numbers: Ints, n_bins: int) -> npt.NDArray[np.int64]:
    """Row by row, how often each of 0..n_bins-1 occurs: (r, n) -> (r, n_bins)."""
    rows = len(numbers)
    offsets = np.arange(rows)[:, np.newaxis] * n_bins
    return np.bincount((numbers + offsets).ravel(), minlength=rows * n_bins).reshape(rows, n_bins)


def _draws(n: int, seed: int) -> Iterator[Ints]:
    """The bootstrap's resamples of n places, a bounded number of rows at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, DRAWS_AT_ONCE // n)
    for start in range(0, RESAMPLES, rows):
        yield generator.integers(n, size=(min(rows, RESAMPLES - start), n))


def _checked_probabilities(probabilities: npt.ArrayLike) -> npt.NDArray[np.float64]:
    array = np.asarray(probabilities, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise DataError(f"Expected probabilities of shape (n, n_classes), n > 0. Received: {array.shape}.")
    # A little room, for half-precision softmax; logits and NaN do not fit in.
    if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):
        raise DataError(
            "Expected probabilities within 0..1. Received values from "
            f"{array.min():.4g} to {array.max():.4g}: apply softmax to logits first."
        )
    return array


def _checked_labels(labels: npt.ArrayLike, n: int, n_classes: int) -> Ints:
    array = np.asarray(labels)
    if array.shape != (n,) or (n and array.dtype.kind not in "iu"):
        raise DataError(f"Expected {n} whole numbers. Received: shape {array.shape}, dtype {array.dtype}.")
    if n and not (array.min() >= 0 and array.max() < n_classes):
        raise DataError(
            f"Expected class numbers from 0 to {n_classes - 1}. Received: {array.min()} to {array.max()}."
        )
    return array.astype(np.int64)
