"""The scores of any task, and what each of them is called."""

from __future__ import annotations

from dataclasses import dataclass

import numpy.typing as npt

from regraft.evaluation.classification import binary_scores, classification_scores
from regraft.evaluation.intervals import Interval
from regraft.evaluation.multilabel import multilabel_scores
from regraft.evaluation.regression import regression_scores

__all__ = ["MEASURES", "Measure", "scores", "three_digits"]


@dataclass(frozen=True)
class Measure:
    """What a score is called and means; `is_share`: in 0..1, to be shown as a percentage."""

    label: str
    meaning: str
    is_share: bool = True


MEASURES = {
    "top1": Measure("Top-1 accuracy", "share of images answered right"),
    "balanced_accuracy": Measure("Balanced accuracy", "the same with every class counting alike"),
    "macro_f1": Measure("Macro F1", "precision and recall together, every one counting alike"),
    "micro_f1": Measure("Micro F1", "precision and recall together, over all labels of all images"),
    "f1": Measure("F1", "precision and recall of the second class together"),
    "macro_auc": Measure(
        "Macro AUC", "area under the ROC curve, each against the rest, every one counting alike"
    ),
    "auc": Measure("AUC", "area under the ROC curve; a random answer has 50 %"),
    "average_precision": Measure("Average precision", "of the second class; a random answer has its share"),
    "mAP": Measure("Mean average precision", "mean over the labels; a random answer has a label's share"),
    "log_loss": Measure(
        "Log loss", "how well the probabilities fit, in nats; lower is better", is_share=False
    ),
    "mae": Measure("Mean absolute error", "in the target's unit; lower is better", is_share=False),
    "rmse": Measure("Root mean squared error", "large errors count more; lower is better", is_share=False),
    "r2": Measure("R2", "share of the variance accounted for; 0 for always the mean", is_share=False),
    "median_error": Measure("Median error", "half of the images have a smaller one", is_share=False),
}


def scores(
    task: str,
    targets: npt.ArrayLike,
    answers: npt.ArrayLike,
    *,
    thresholds: npt.ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every score of a task, each with a 95 % interval; the first sums the others up.

    That is `top1`, for multilabel `mAP`, for regression `mae`. Scores that are undefined on these images are
    left out: mAP where no image has a label, R2 where the target does not vary.

    Args:
        targets: shape (n,) class numbers, or (n, labels) of 0 and 1, or (n, targets) numbers.
        answers: of the model, as in `regraft.tasks`.
        thresholds: for multilabel one a label, shape (labels,); None for 0.5.
        seed: of the bootstrap.

    Raises:
        DataError: if targets and answers do not belong together or are not what the task has.

    >>> list(scores("regression", [[1.0], [2.0]], [[1.0], [1.0]]))
    ['mae', 'rmse', 'r2', 'median_error']
    """
    if task == "multilabel":
        return multilabel_scores(targets, answers, thresholds=thresholds, seed=seed)
    of_task = {
        "multiclass": classification_scores,
        "binary": binary_scores,
        "regression": regression_scores,
    }
    return of_task[task](targets, answers, seed=seed)


def three_digits(value: float) -> str:
    """A quantity of unknown size as people write it: three digits that count, all of those before the point.

    >>> three_digits(5), three_digits(0.04567), three_digits(-12345.6)
    ('5.00', '0.0457', '-12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")
