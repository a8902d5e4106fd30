"""Scores of answers that give each label a probability of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.classification import SMALLEST_PROBABILITY, check_probabilities
from regraft.metrics.intervals import Interval, bootstrap
from regraft.metrics.ranking import area_under_roc, average_over_columns, average_precision

__all__ = [
    "LabelRow",
    "choose_thresholds",
    "compute_label_losses",
    "score_label_sums",
    "score_labels",
    "score_multilabel",
    "sum_labels",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelRow:
    """The scores of one label, each in 0..1; None where undefined.

    `n` counts the images that have the label; `share` is their share of all images, which is the average
    precision of a random answer. Precision, recall and F1 are those of predicting it at `threshold` or above.
    """

    name: str
    n: int
    share: float
    average_precision: float | None
    auc: float | None
    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None


def choose_thresholds(truth: npt.ArrayLike, answers: npt.ArrayLike) -> Floats:
    """Return the threshold with the highest F1 for each label; choose them on validation, never on test.

    A threshold lies half-way between two answers that occur, so that the last digits of an engine do not
    matter. Of equally good ones, the one nearest to 0.5 is chosen, and 0.5 for a label that no image has.

    Truth (0 or 1) and probabilities have shape (n, labels), the thresholds have shape (labels,) and lie in
    0..1. A label is predicted if its probability is at least the threshold.

    Raises:
        DataError: shapes disagree, or an answer is not a probability.

    >>> choose_thresholds([[0, 0], [1, 0], [1, 0]], [[0.1, 0.2], [0.3, 0.1], [0.7, 0.1]])
    array([0.2, 0.5])
    """
    has, table = _check(truth, answers)
    return np.array([_choose_threshold(*column) for column in zip(has.T, table.T, strict=True)])


def score_multilabel(
    truth: npt.ArrayLike, answers: npt.ArrayLike, *, thresholds: npt.ArrayLike | None = None, seed: int = 0
) -> dict[str, Interval]:
    """Return the scores of predicted labels, each with a 95 % interval; undefined scores are left out.

    `mAP`: mean average precision over the labels that occur.
    `micro_f1`: F1 over all labels of all images together; `macro_f1`: mean F1 over the labels that occur.
    `macro_auc`: mean area under the ROC curve over the labels that some images have and others do not.
    `log_loss`: mean binary cross-entropy over labels and images, in nats.

    The intervals of `mAP` and `macro_auc` are logit intervals, the others percentile bootstraps.

    Args:
        truth: 0 or 1, shape (n, labels), n > 0.
        answers: probabilities, shape (n, labels).
        thresholds: one for each label, shape (labels,); see `choose_thresholds`. None means 0.5.
        seed: seed of the bootstrap.

    Raises:
        DataError: shapes disagree, or an answer is not a probability.

    >>> scores = score_multilabel([[1, 0], [0, 1], [1, 1]], [[0.9, 0.3], [0.4, 0.2], [0.6, 0.8]])
    >>> {name: round(score.value, 2) for name, score in scores.items()}
    {'mAP': 0.92, 'micro_f1': 0.86, 'macro_f1': 0.83, 'macro_auc': 0.75, 'log_loss': 0.55}
    """
    has, table = _check(truth, answers)
    order = np.lexsort(np.concatenate([table, has], axis=1).T)  # as in `score_multiclass`
    has, table = has[order], table[order]
    predicted = table >= _check_thresholds(thresholds, table.shape[1])
    columns = sum_labels(has, predicted, compute_label_losses(has, table))
    micro, macro, log_loss = bootstrap(columns, score_label_sums, seed=seed)
    precision, area = (
        average_over_columns(average_precision, has, table),
        average_over_columns(area_under_roc, has, table),
    )
    scores = {
        "mAP": precision and precision.interval,
        "micro_f1": micro,
        "macro_f1": macro,
        "macro_auc": area and area.interval,
        "log_loss": log_loss,
    }
    return {name: score for name, score in scores.items() if score and not math.isnan(score.value)}


def score_labels(
    truth: npt.ArrayLike,
    answers: npt.ArrayLike,
    labels: Sequence[str],
    *,
    thresholds: npt.ArrayLike | None = None,
) -> list[LabelRow]:
    """Return a row for each label, in the order of `labels`; arguments and errors as in `score_multilabel`.

    >>> row = score_labels([[1], [0], [0], [1]], [[0.9], [0.3], [0.6], [0.7]], ["dog"])[0]
    >>> row.n, row.share, row.average_precision, row.precision, row.recall
    (2, 0.5, 1.0, 0.6666666666666666, 1.0)
    """
    has, table = _check(truth, answers)
    limits = _check_thresholds(thresholds, len(labels))
    rows = []
    for name, label, answer, limit in zip(labels, has.T, table.T, limits, strict=True):
        predicted = answer >= limit
        hits, n, answered = int((predicted & label).sum()), int(label.sum()), int(predicted.sum())
        precision, area = average_precision(label, answer), area_under_roc(label, answer)
        rows.append(
            LabelRow(
                name,
                n,
                n / len(label),
                precision.value if precision else None,
                area.value if area else None,
                float(limit),
                hits / answered if answered else None,
                hits / n if n else None,
                2 * hits / (n + answered) if n + answered else None,
            )
        )
    return rows


def compute_label_losses(has: Bools, table: Floats) -> Floats:
    """Return the mean binary cross-entropy of each image, (n,), from probabilities (n, labels)."""
    return np.asarray(
        -np.log(np.clip(np.where(has, table, 1 - table), SMALLEST_PROBABILITY, 1.0)).mean(axis=1)
    )


def sum_labels(has: Bools, predicted: Bools, losses: Floats) -> Any:
    """Return the summands of `score_label_sums`, a sparse table of a row for each image.

    Its columns are, for each label, images with it, answers, hits; then ones and losses.
    """
    from scipy.sparse import csr_array

    # Most images lack most labels: as a sparse array, a thousand resamples are summed seconds faster.
    return csr_array(np.column_stack([has, predicted, has & predicted, np.ones(len(has)), losses]))


def score_label_sums(sums: Floats) -> Floats:
    """Return micro F1, macro F1 and mean loss, (r, 3), from sums of the rows of `sum_labels`."""
    has, answered, hits = np.split(sums[:, :-2], 3, axis=1)
    occurring = has > 0  # as with classes: a label that a resample lacks does not count in its mean
    total, count = (has + answered).sum(axis=1), occurring.sum(axis=1)
    micro = np.where(total > 0, 2 * hits.sum(axis=1) / np.maximum(total, 1), np.nan)
    f1 = np.where(occurring, 2 * hits / np.maximum(has + answered, 1), 0.0).sum(axis=1)
    macro = np.where(count > 0, f1 / np.maximum(count, 1), np.nan)
    return np.stack([micro, macro, sums[:, -1] / sums[:, -2]], axis=1)


def _choose_threshold(label: Bools, answer: Floats) -> float:
    if not label.any():
        return DEFAULT_THRESHOLD
    levels, index = np.unique(answer, return_inverse=True)
    hits = np.bincount(index, label, minlength=len(levels))[::-1].cumsum()[::-1]
    answered = np.bincount(index, minlength=len(levels))[::-1].cumsum()[::-1]
    f1 = 2 * hits / (label.sum() + answered)
    between = (levels + np.concatenate([[0.0], levels[:-1]])) / 2
    best = between[f1 >= f1.max() - 1e-12]
    return float(best[np.abs(best - DEFAULT_THRESHOLD).argmin()])


def _check(truth: npt.ArrayLike, answers: npt.ArrayLike) -> tuple[Bools, Floats]:
    has, table = np.asarray(truth), check_probabilities(answers)
    if has.shape != table.shape or not np.isin(has, (0, 1)).all():
        raise DataError(
            f"Expected 0 or 1 for each of {table.shape[0]} images and {table.shape[1]} labels. "
            f"Received: shape {has.shape}, dtype {has.dtype}."
        )
    return has.astype(bool), table


def _check_thresholds(thresholds: npt.ArrayLike | None, labels: int) -> Floats:
    if thresholds is None:
        return np.full(labels, DEFAULT_THRESHOLD)
    limits = np.asarray(thresholds, dtype=np.float64)
    if limits.shape != (labels,):
        raise DataError(f"Expected {labels} thresholds, one for each label. Received: shape {limits.shape}.")
    return limits
