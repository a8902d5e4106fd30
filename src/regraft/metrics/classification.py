"""Scores of answers that name one class an image, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.intervals import Interval, bootstrap, wilson_interval
from regraft.metrics.ranking import area_under_roc, average_precision, mean_of

__all__ = [
    "ClassRow",
    "binary_scores",
    "checked_probabilities",
    "classification_scores",
    "confusion_matrix",
    "per_class",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-15


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


def classification_scores(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, seed: int = 0
) -> dict[str, Interval]:
    """Scores of a classifier on labelled images, each with a 95 % interval.

    `top1`: share of images whose most probable class is the true one (the first class wins a tie).
    `balanced_accuracy`: mean recall over the classes that occur in `labels`.
    `macro_f1`: mean F1 over the classes that occur in `labels`. A class without an image there adds
    no term of its own; images wrongly called so still lower the recall of the class they are of.
    `macro_auc`: mean over the classes of the area under the ROC curve of that class against the rest, over
    those with images of both kinds; left out where there is none.
    `log_loss`: mean of -ln(probability of the truth), in nats, probabilities clipped at 1e-15.

    The interval of `top1` is Wilson's, of `macro_auc` a logit interval; the others are percentile bootstraps
    (in a resample, too, only the classes that occur count). The order of the images makes no difference.

    Args:
        labels: true class numbers, integers of shape (n,), 0 <= label < n_classes, n > 0.
        probabilities: shape (n, n_classes), each within 0..1.
        seed: of the bootstrap; the same one gives the same intervals.

    Raises:
        DataError: if shapes disagree, a label is out of range, or a probability is not one.

    >>> scores = classification_scores([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> {name: round(score.value, 2) for name, score in scores.items()}
    {'top1': 0.67, 'balanced_accuracy': 0.75, 'macro_f1': 0.67, 'macro_auc': 1.0, 'log_loss': 0.41}
    """
    table = checked_probabilities(probabilities)
    n, n_classes = table.shape
    truth = _checked_labels(labels, n, n_classes)
    said = table.argmax(axis=1)
    balanced, f1s, log_loss = _resampled(truth, said, _losses(truth, table), n_classes=n_classes, seed=seed)
    found = {
        "top1": wilson_interval(int((truth == said).sum()), n),
        "balanced_accuracy": balanced,
        "macro_f1": f1s,
    }
    areas = mean_of(area_under_roc, truth[:, None] == np.arange(n_classes), table)
    return found | ({"macro_auc": areas.interval} if areas else {}) | {"log_loss": log_loss}


def binary_scores(labels: npt.ArrayLike, answers: npt.ArrayLike, *, seed: int = 0) -> dict[str, Interval]:
    """Scores of a classifier of two classes that gives the probability of the second one.

    `top1`: share of images answered right, where more than 0.5 means the second class; `balanced_accuracy`
    and `log_loss` as in `classification_scores`; `f1`: of the second class; `auc`: area under its ROC curve;
    `average_precision`: mean precision over its images. What is undefined is left out.

    Args:
        labels: 0 or 1, integers of shape (n,), n > 0.
        answers: shape (n, 1), probability of class 1, each within 0..1.
        seed: of the bootstrap.

    Raises:
        DataError: if shapes disagree, a label is neither 0 nor 1, or a probability is not one.

    >>> scores = binary_scores([0, 1, 1], [[0.1], [0.8], [0.4]])
    >>> [f"{name} {score.value:.2f}" for name, score in scores.items()][:4]
    ['top1 0.67', 'balanced_accuracy 0.75', 'f1 0.67', 'auc 1.00']
    """
    answered = checked_probabilities(answers)
    if answered.shape[1] != 1:
        raise DataError(f"Expected answers of shape (n, 1) for two classes. Received: {answered.shape}.")
    positive = answered[:, 0]
    truth = _checked_labels(labels, len(positive), 2)
    said = (positive > 0.5).astype(np.int64)
    losses = _losses(truth, np.stack([1 - positive, positive], axis=1))
    balanced, _, log_loss = _resampled(truth, said, losses, n_classes=2, seed=seed)
    found = {"top1": wilson_interval(int((truth == said).sum()), len(truth)), "balanced_accuracy": balanced}
    if truth.any() or said.any():
        columns = np.stack([truth * said, truth + said], axis=1)[np.lexsort((said, truth))]
        found["f1"] = bootstrap(columns, _f1_of_sums, seed=seed)[0]
    for name, measure in (("auc", area_under_roc), ("average_precision", average_precision)):
        ranked = measure(truth, positive)
        if ranked:
            found[name] = ranked.interval
    return found | {"log_loss": log_loss}


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, n_classes: int) -> Ints:
    """How often each class (row) was called each class (column), shape (n_classes, n_classes).

    Raises:
        DataError: if the two are not of one shape (n,), or a class number is out of range.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    n = np.size(predicted)
    truth, said = _checked_labels(labels, n, n_classes), _checked_labels(predicted, n, n_classes)
    cells = truth * n_classes + said
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.int64)


def per_class(labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[str]) -> list[ClassRow]:
    """Precision, recall and F1 of every class, in the order of `classes`; errors as in `confusion_matrix`.

    >>> per_class([0, 0, 1], [0, 1, 1], ["cat", "dog"])[1]
    ClassRow(name='dog', n=1, precision=0.5, recall=1.0, f1=0.6666666666666666)
    """
    counts = confusion_matrix(labels, predicted, len(classes))
    hits, support, said = counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0)
    return [
        ClassRow(name, int(n), _ratio(hit, answered), _ratio(hit, n), _ratio(2 * hit, n + answered))
        for name, hit, n, answered in zip(classes, hits, support, said, strict=True)
    ]


def checked_probabilities(probabilities: npt.ArrayLike) -> Floats:
    """`probabilities` in double precision, shape (n, m), n > 0.

    Raises:
        DataError: another shape, or values outside 0..1.

    >>> checked_probabilities([[0, 1]])
    array([[0., 1.]])
    """
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


def _losses(truth: Ints, table: Floats) -> Floats:
    return -np.log(np.clip(table[np.arange(len(truth)), truth], SMALLEST_PROBABILITY, 1.0))


def _resampled(truth: Ints, said: Ints, losses: Floats, *, n_classes: int, seed: int) -> list[Interval]:
    """Balanced accuracy, macro F1 and log loss, from sums: images, answers and hits a class, and losses."""
    from scipy.sparse import csr_array

    # Sorted, so that the draws of one seed hit the same answers in whatever order they came.
    order = np.lexsort((losses, said, truth))
    truth, said, losses = truth[order], said[order], losses[order]
    n = len(truth)
    hits = (truth == said).astype(np.float64)
    ones = np.ones(n)
    columns = np.stack([truth, n_classes + said, 2 * n_classes + truth, np.full(n, 3 * n_classes)])
    table = csr_array(
        (np.stack([ones, ones, hits, losses], axis=1).ravel(), columns.T.ravel(), np.arange(0, 4 * n + 1, 4)),
        shape=(n, 3 * n_classes + 1),
    )

    def statistic(sums: Floats) -> Floats:
        support, answered, right = np.split(sums[:, :-1], 3, axis=1)
        present = support > 0  # a class may vanish from a resample: it leaves that resample's mean
        recall = right / np.maximum(support, 1)
        f1 = np.where(present, 2 * right / np.maximum(support + answered, 1), 0.0)
        occurring = present.sum(axis=1)
        return np.stack([recall.sum(axis=1) / occurring, f1.sum(axis=1) / occurring, sums[:, -1] / n], axis=1)

    return bootstrap(table, statistic, seed=seed)


def _f1_of_sums(sums: Floats) -> Floats:
    """F1 from the sums of hits, and of images and answers together; a resample with neither has none."""
    hits, both = sums[:, :1], sums[:, 1:]
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), np.nan)


def _ratio(part: int, whole: int) -> float | None:
    return float(part / whole) if whole else None


def _checked_labels(labels: npt.ArrayLike, n: int, n_classes: int) -> Ints:
    array: npt.NDArray[Any] = np.asarray(labels)
    if array.shape != (n,) or (n and array.dtype.kind not in "iu"):
        raise DataError(f"Expected {n} whole numbers. Received: shape {array.shape}, dtype {array.dtype}.")
    if n and not (array.min() >= 0 and array.max() < n_classes):
        raise DataError(
            f"Expected class numbers from 0 to {n_classes - 1}. Received: {array.min()} to {array.max()}."
        )
    return array.astype(np.int64)
