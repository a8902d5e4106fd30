"""Whether one model is better than another on the same images: differences of scores, and McNemar's test.

What makes an image hard makes it hard for both models, so their scores rise and fall together, and the
interval of their difference is much shorter than the intervals of the two scores suggest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regraft.metrics.classification import (
    check_probabilities,
    compute_log_losses,
    score_f1_sums,
    sum_classes,
)
from regraft.metrics.intervals import Interval, WeightedScores, bootstrap_difference
from regraft.metrics.multilabel import (
    DEFAULT_THRESHOLD,
    compute_label_losses,
    score_label_sums,
    sum_labels,
)
from regraft.metrics.ranking import weigh_area_under_roc, weigh_average_precision
from regraft.metrics.regression import score_error_sums, sum_errors

__all__ = ["LOWER_IS_BETTER", "McNemar", "compare_scores", "mcnemar_test"]

Floats = npt.NDArray[np.float64]

LOWER_IS_BETTER = frozenset(("log_loss", "mae", "rmse", "median_error"))
NAMES = {
    "multiclass": ("top1", "balanced_accuracy", "macro_f1", "log_loss"),
    "binary": ("top1", "balanced_accuracy", "f1", "auc", "average_precision", "log_loss"),
    "multilabel": ("mAP", "micro_f1", "macro_f1", "log_loss"),
    "regression": ("mae", "rmse", "r2", "median_error"),
}


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of two accuracies on the same images.

    Attributes:
        gained: images that only the second model answers correctly.
        lost: images that only the first model answers correctly.
        p_value: how probable a split at least as uneven is if both models are equally good; two-sided.
    """

    gained: int
    lost: int
    p_value: float


def mcnemar_test(first: npt.ArrayLike, second: npt.ArrayLike) -> McNemar:
    """Compare which images two models answer correctly, both of shape (n,), true for a correct answer.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12 (1947), with the binomial distribution in place of its normal approximation.

    >>> mcnemar_test([1, 1, 0, 0, 0, 0], [1, 0, 1, 1, 1, 1])
    McNemar(gained=4, lost=1, p_value=0.375)
    """
    from scipy.special import bdtr

    before, after = np.asarray(first, dtype=bool), np.asarray(second, dtype=bool)
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    tail = float(bdtr(min(gained, lost), gained + lost, 0.5)) if gained + lost else 1.0
    return McNemar(gained, lost, min(1.0, 2 * tail))


def compare_scores(
    task: str,
    targets: npt.ArrayLike,
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    *,
    thresholds: tuple[npt.ArrayLike | None, npt.ArrayLike | None] = (None, None),
    seed: int = 0,
) -> dict[str, Interval]:
    """Return by how much each score of the second answers exceeds that of the first, the headline first.

    The scores are those of `score_multiclass`, `score_binary`, `score_multilabel` or `score_regression`,
    without the areas under ROC curves of several classes or labels. Each has the 95 % interval of a paired
    bootstrap. Scores that are undefined on these images are left out.

    Args:
        task: "multiclass", "binary", "multilabel" or "regression".
        targets: class numbers (n,), 0 and 1 per label (n, labels), or numbers (n, targets).
        first, second: answers of two models to the same images, in the same order; as in `regraft.tasks`.
        thresholds: for multilabel, those of either model, (labels,); None for 0.5.
        seed: the same seed and order of images give the same intervals.

    Raises:
        DataError: an answer is not a probability where one is expected.

    >>> better = compare_scores("regression", [[1.0], [4.0]], [[2.0], [3.0]], [[1.0], [3.0]])
    >>> better["mae"].value, better["r2"].value > 0
    (-0.5, True)
    """
    makers: dict[str, Callable[..., WeightedScores]] = {
        "multiclass": _weigh_classes,
        "binary": _weigh_two_classes,
        "multilabel": _weigh_labels,
        "regression": _weigh_numbers,
    }
    truth = np.asarray(targets)
    models = [
        makers[task](truth, np.asarray(answers, np.float64), limits)
        for answers, limits in zip((first, second), thresholds, strict=True)
    ]
    differences = bootstrap_difference(models[0], models[1], len(truth), seed=seed)
    named = zip(NAMES[task], differences, strict=True)
    return {name: difference for name, difference in named if not np.isnan(difference.value)}


def _weigh_classes(truth: npt.NDArray[np.int64], answers: Floats, limits: object) -> WeightedScores:
    table = check_probabilities(answers)
    losses = compute_log_losses(truth, table)
    summands, score_sums = sum_classes(truth, table.argmax(axis=1), losses, table.shape[1])
    return lambda weights: score_sums(weights @ summands)


def _weigh_two_classes(truth: npt.NDArray[np.int64], answers: Floats, limits: object) -> WeightedScores:
    positive = check_probabilities(answers)[:, 0]
    predicted = (positive > 0.5).astype(np.int64)
    losses = compute_log_losses(truth, np.stack([1 - positive, positive], axis=1))
    summands, score_sums = sum_classes(truth, predicted, losses, 2)
    counts = np.stack([truth * predicted, truth + predicted], axis=1)

    def score(weights: Floats) -> Floats:
        top1, balanced, _, loss = score_sums(weights @ summands).T
        area = weigh_area_under_roc(weights, truth, positive)
        precision = weigh_average_precision(weights, truth, positive)
        f1 = score_f1_sums(weights @ counts)[:, 0]
        return np.stack([top1, balanced, f1, area, precision, loss], axis=1)

    return score


def _weigh_labels(truth: Floats, answers: Floats, limits: npt.ArrayLike | None) -> WeightedScores:
    has, table = truth.astype(bool), check_probabilities(answers)
    predicted = table >= (DEFAULT_THRESHOLD if limits is None else np.asarray(limits))
    summands = sum_labels(has, predicted, compute_label_losses(has, table))

    def score(weights: Floats) -> Floats:
        images_first = np.asfortranarray(weights)  # whose rows are picked in another order for each label
        columns = zip(has.T, table.T, strict=True)
        precisions = np.array([weigh_average_precision(images_first, *column) for column in columns])
        occurring = np.isfinite(precisions)  # a label that a resample lacks does not count in its mean
        count = occurring.sum(axis=0)
        means = np.where(occurring, precisions, 0.0).sum(axis=0) / np.maximum(count, 1)
        return np.column_stack([np.where(count > 0, means, np.nan), score_label_sums(weights @ summands)])

    return score


def _weigh_numbers(truth: Floats, answers: Floats, limits: object) -> WeightedScores:
    true = truth.astype(np.float64)
    summands, errors = sum_errors(true, answers), abs(answers - true).mean(axis=1)
    order = np.argsort(errors, kind="stable")

    def score(weights: Floats) -> Floats:
        counts, half = np.cumsum(weights[:, order], axis=1), weights.sum(axis=1, keepdims=True) / 2
        lower, upper = (counts >= half).argmax(axis=1), (counts > half).argmax(axis=1)
        median = (errors[order][lower] + errors[order][upper]) / 2
        return np.column_stack([score_error_sums(weights @ summands), median])

    return score
