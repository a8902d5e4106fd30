"""Scores of answers that name one class for each image, each with its 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.intervals import Interval, bootstrap, wilson_interval
from regraft.metrics.ranking import area_under_roc, average_over_columns, average_precision

__all__ = [
    "ClassRow",
    "check_probabilities",
    "compute_log_losses",
    "confusion_matrix",
    "score_binary",
    "score_classes",
    "score_f1_sums",
    "score_multiclass",
    "sum_classes",
]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SMALLEST_PROBABILITY = 1e-15


@dataclass(frozen=True)
class ClassRow:
    """The scores of one class, each in 0..1; None where undefined.

    `n` counts the images of the class. Precision is undefined if the class was never predicted, recall if it
    has no images, F1 if both are so.
    """

    name: str
    n: int
    precision: float | None
    recall: float | None
    f1: float | None


def score_multiclass(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, seed: int = 0
) -> dict[str, Interval]:
    """Return the scores of a classifier on labelled images, each with a 95 % interval.

    `top1`: share of images whose most probable class is the true one (the first class wins a tie).
    `balanced_accuracy`: mean recall over the classes that occur in `labels`.
    `macro_f1`: mean F1 over the classes that occur in `labels`. Other classes have no term of their own;
    images wrongly predicted as one of them lower the recall of their true class.
    `macro_auc`: mean area under the ROC curve of each class against the rest, over the classes that some
    images have and others do not; left out if there are none.
    `log_loss`: mean of -ln(probability of the true class), in nats, probabilities clipped at 1e-15.

    The interval of `top1` is Wilson's, that of `macro_auc` a logit interval; the others are percentile
    bootstraps, where only classes that occur in a resample count. The order of the images does not matter.

    Args:
        labels: true class numbers, integers of shape (n,), 0 <= label < n_classes, n > 0.
        probabilities: shape (n, n_classes), each within 0..1.
        seed: seed of the bootstrap; the same one gives the same intervals.

    Raises:
        DataError: shapes disagree, a label is out of range, or a probability is not within 0..1.

    >>> scores = score_multiclass([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    >>> {name: round(score.value, 2) for name, score in scores.items()}
    {'top1': 0.67, 'balanced_accuracy': 0.75, 'macro_f1': 0.67, 'macro_auc': 1.0, 'log_loss': 0.41}
    """
    table = check_probabilities(probabilities)
    n, n_classes = table.shape
    truth = _check_labels(labels, n, n_classes)
    predicted = table.argmax(axis=1)
    losses = compute_log_losses(truth, table)
    balanced, f1s, log_loss = _resample(truth, predicted, losses, n_classes=n_classes, seed=seed)
    scores = {
        "top1": wilson_interval(int((truth == predicted).sum()), n),
        "balanced_accuracy": balanced,
        "macro_f1": f1s,
    }
    areas = average_over_columns(area_under_roc, truth[:, None] == np.arange(n_classes), table)
    return scores | ({"macro_auc": areas.interval} if areas else {}) | {"log_loss": log_loss}


def score_binary(labels: npt.ArrayLike, answers: npt.ArrayLike, *, seed: int = 0) -> dict[str, Interval]:
    """Return the scores of a classifier that gives the probability of the second of two classes.

    `top1`: share of correct answers, where more than 0.5 means the second class; `balanced_accuracy` and
    `log_loss` as in `score_multiclass`; `f1`, `auc` and `average_precision`: F1, area under the ROC curve and
    average precision of the second class. Undefined scores are left out.

    Args:
        labels: 0 or 1, integers of shape (n,), n > 0.
        answers: probabilities of class 1, shape (n, 1), each within 0..1.
        seed: seed of the bootstrap.

    Raises:
        DataError: shapes disagree, a label is neither 0 nor 1, or a probability is not within 0..1.

    >>> scores = score_binary([0, 1, 1], [[0.1], [0.8], [0.4]])
    >>> [f"{name} {score.value:.2f}" for name, score in scores.items()][:4]
    ['top1 0.67', 'balanced_accuracy 0.75', 'f1 0.67', 'auc 1.00']
    """
    table = check_probabilities(answers)
    if table.shape[1] != 1:
        raise DataError(f"Expected answers of shape (n, 1) for two classes. Received: {table.shape}.")
    positive = table[:, 0]
    truth = _check_labels(labels, len(positive), 2)
    predicted = (positive > 0.5).astype(np.int64)
    losses = compute_log_losses(truth, np.stack([1 - positive, positive], axis=1))
    balanced, _, log_loss = _resample(truth, predicted, losses, n_classes=2, seed=seed)
    top1 = wilson_interval(int((truth == predicted).sum()), len(truth))
    scores = {"top1": top1, "balanced_accuracy": balanced}
    if truth.any() or predicted.any():
        columns = np.stack([truth * predicted, truth + predicted], axis=1)[np.lexsort((predicted, truth))]
        scores["f1"] = bootstrap(columns, score_f1_sums, seed=seed)[0]
    for name, measure in (("auc", area_under_roc), ("average_precision", average_precision)):
        if ranking := measure(truth, positive):
            scores[name] = ranking.interval
    return scores | {"log_loss": log_loss}


def confusion_matrix(labels: npt.ArrayLike, predicted: npt.ArrayLike, n_classes: int) -> Ints:
    """Return how often each class (row) was predicted as each class (column), shape (n_classes, n_classes).

    Raises:
        DataError: labels and predictions do not have the same shape (n,), or a class number is out of range.

    >>> confusion_matrix([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    n = np.size(predicted)
    cells = _check_labels(labels, n, n_classes) * n_classes + _check_labels(predicted, n, n_classes)
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes).astype(np.int64)


def score_classes(labels: npt.ArrayLike, predicted: npt.ArrayLike, classes: Sequence[str]) -> list[ClassRow]:
    """Return precision, recall and F1 of each class, in the order of `classes`.

    Raises:
        DataError: as in `confusion_matrix`.

    >>> score_classes([0, 0, 1], [0, 1, 1], ["cat", "dog"])[1]
    ClassRow(name='dog', n=1, precision=0.5, recall=1.0, f1=0.6666666666666666)
    """
    counts = confusion_matrix(labels, predicted, len(classes))
    columns = zip(classes, counts.diagonal(), counts.sum(axis=1), counts.sum(axis=0), strict=True)
    return [
        ClassRow(name, int(n), _divide(hits, answered), _divide(hits, n), _divide(2 * hits, n + answered))
        for name, hits, n, answered in columns
    ]


def check_probabilities(probabilities: npt.ArrayLike) -> Floats:
    """Return `probabilities` in double precision, shape (n, m), n > 0.

    Raises:
        DataError: another shape, or values outside 0..1.

    >>> check_probabilities([[0, 1]])
    array([[0., 1.]])
    """
    array = np.asarray(probabilities, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise DataError(f"Expected probabilities of shape (n, n_classes), n > 0. Received: {array.shape}.")
    # A small tolerance for softmax in half precision; logits and NaN fail.
    if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):
        raise DataError(
            "Expected probabilities within 0..1. Received values from "
            f"{array.min():.4g} to {array.max():.4g}: apply softmax to logits first."
        )
    return array


def compute_log_losses(truth: Ints, table: Floats) -> Floats:
    """Return -ln(probability of the true class) of each image, (n,), from probabilities (n, n_classes)."""
    return -np.log(np.clip(table[np.arange(len(truth)), truth], SMALLEST_PROBABILITY, 1.0))


def _resample(truth: Ints, predicted: Ints, losses: Floats, *, n_classes: int, seed: int) -> list[Interval]:
    """Return balanced accuracy, macro F1 and log loss."""
    # Sorted, so that one seed draws the same answers whatever their order.
    order = np.lexsort((losses, predicted, truth))
    table, score_sums = sum_classes(truth[order], predicted[order], losses[order], n_classes)
    return bootstrap(table, score_sums, seed=seed)[1:]


def sum_classes(
    truth: Ints, predicted: Ints, losses: Floats, n_classes: int
) -> tuple[Any, Callable[[Floats], Floats]]:
    """Return what scores of classes are made of, as summands over images.

    Args:
        truth, predicted: class numbers, (n,).
        losses: log loss of each image, (n,).
        n_classes: how many classes there are.

    Returns:
        A sparse table (n, m), and a function from sums of its rows, (r, m), to top-1, balanced accuracy,
        macro F1 and mean loss, (r, 4).

    >>> table, score_sums = sum_classes(np.array([0, 1]), np.array([0, 0]), np.array([0.2, 0.8]), 2)
    >>> score_sums(np.ones((1, 2)) @ table).round(2).tolist()
    [[0.5, 0.5, 0.33, 0.5]]
    """
    from scipy.sparse import csr_array

    n = len(truth)
    hits = (truth == predicted).astype(np.float64)
    ones = np.ones(n)
    columns = np.stack([truth, n_classes + predicted, 2 * n_classes + truth, np.full(n, 3 * n_classes)])
    table = csr_array(
        (np.stack([ones, ones, hits, losses], axis=1).ravel(), columns.T.ravel(), np.arange(0, 4 * n + 1, 4)),
        shape=(n, 3 * n_classes + 1),
    )

    def score_sums(sums: Floats) -> Floats:
        support, answered, correct = np.split(sums[:, :-1], 3, axis=1)
        present = support > 0  # a class that a resample lacks does not count in its mean
        recall = correct / np.maximum(support, 1)
        f1 = np.where(present, 2 * correct / np.maximum(support + answered, 1), 0.0)
        occurring, top1 = present.sum(axis=1), correct.sum(axis=1) / n
        means = [recall.sum(axis=1) / occurring, f1.sum(axis=1) / occurring]
        return np.stack([top1, *means, sums[:, -1] / n], axis=1)

    return table, score_sums


def score_f1_sums(sums: Floats) -> Floats:
    """Return F1 from two sums, hits and images plus answers; NaN for a resample without either."""
    hits, both = sums[:, :1], sums[:, 1:]
    return np.where(both > 0, 2 * hits / np.maximum(both, 1), np.nan)


def _divide(numerator: int, denominator: int) -> float | None:
    return float(numerator / denominator) if denominator else None


def _check_labels(labels: npt.ArrayLike, n: int, n_classes: int) -> Ints:
    array: npt.NDArray[Any] = np.asarray(labels)
    if array.shape != (n,) or (n and array.dtype.kind not in "iu"):
        raise DataError(f"Expected {n} whole numbers. Received: shape {array.shape}, dtype {array.dtype}.")
    if n and not (array.min() >= 0 and array.max() < n_classes):
        raise DataError(
            f"Expected class numbers from 0 to {n_classes - 1}. Received: {array.min()} to {array.max()}."
        )
    return array.astype(np.int64)
