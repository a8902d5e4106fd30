"""The scores of any task with their names, and the baselines of answers that ignore the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.calibration import Calibration, measure_calibration
from regraft.metrics.classification import score_binary, score_multiclass
from regraft.metrics.intervals import Interval, wilson_interval
from regraft.metrics.multilabel import score_multilabel
from regraft.metrics.ranking import average_over_columns, average_precision
from regraft.metrics.regression import MIN_IMAGES, is_better_than_mean, mean_baseline_error, score_regression
from regraft.tasks import TASKS

__all__ = [
    "BASELINES", "MEASURES", "Measure", "compare_with_baseline", "compute_baseline",
    "compute_calibration", "compute_scores", "format_three_digits",
]  # fmt: skip


@dataclass(frozen=True)
class Measure:
    """The name and meaning of a score; `is_share` if it is in 0..1 and shown as a percentage."""

    label: str
    meaning: str
    is_share: bool = True


MEASURES = {
    "top1": Measure("Top-1 accuracy", "share of images answered correctly"),
    "balanced_accuracy": Measure("Balanced accuracy", "accuracy with every class counting alike"),
    "macro_f1": Measure("Macro F1", "precision and recall combined, every class or label counting alike"),
    "micro_f1": Measure("Micro F1", "precision and recall combined, over all labels of all images"),
    "f1": Measure("F1", "precision and recall of the second class combined"),
    "macro_auc": Measure(
        "Macro AUC", "area under the ROC curve, each against the rest, every one counting alike"
    ),
    "auc": Measure("AUC", "area under the ROC curve; random answers have 50 %"),
    "average_precision": Measure("Average precision", "of the second class; random answers have its share"),
    "mAP": Measure("Mean average precision", "mean over the labels; random answers have a label's share"),
    "log_loss": Measure(
        "Log loss", "how well the probabilities fit, in nats; lower is better", is_share=False
    ),
    "mae": Measure("Mean absolute error", "in the target's unit; lower is better", is_share=False),
    "rmse": Measure("Root mean squared error", "large errors count more; lower is better", is_share=False),
    "r2": Measure("R2", "share of the variance explained; 0 for predicting the mean", is_share=False),
    "median_error": Measure("Median error", "half of the images have a smaller one", is_share=False),
}
BASELINES = {
    "multiclass": "predicting the largest class",
    "binary": "predicting the largest class",
    "multilabel": "random answers",
    "regression": "predicting the mean",
}


def compute_scores(
    task: str,
    targets: npt.ArrayLike,
    answers: npt.ArrayLike,
    *,
    thresholds: npt.ArrayLike | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return every score of a task, each with a 95 % interval; the first is the headline.

    The headline is `top1`, `mAP` for multilabel and `mae` for regression. Scores that are undefined on these
    images are left out: mAP if no image has a label, R2 if the target does not vary.

    Args:
        targets: class numbers (n,), 0 and 1 per label (n, labels), or numbers (n, targets).
        answers: the model's answers, as in `regraft.tasks`.
        thresholds: one per label for multilabel, shape (labels,); None for 0.5.
        seed: random seed of the bootstrap.

    Raises:
        DataError: targets and answers do not fit each other or the task.

    >>> list(compute_scores("regression", [[1.0], [2.0]], [[1.0], [1.0]]))
    ['mae', 'rmse', 'r2', 'median_error']
    """
    if task == "multilabel":
        return score_multilabel(targets, answers, thresholds=thresholds, seed=seed)
    score = {"multiclass": score_multiclass, "binary": score_binary, "regression": score_regression}[task]
    return score(targets, answers, seed=seed)


def compute_calibration(
    task: str, targets: npt.ArrayLike, answers: npt.ArrayLike, *, seed: int = 0
) -> Calibration | None:
    """Return how far a model's probabilities are from what happens; None for numbers.

    Arguments and errors are those of `compute_scores`.

    >>> compute_calibration("regression", [[1.0]], [[1.0]]) is None
    True
    """
    return None if task == "regression" else measure_calibration(targets, answers, seed=seed)


def format_three_digits(value: float) -> str:
    """Format a quantity with three significant digits, and with all digits before the point.

    >>> format_three_digits(5), format_three_digits(0.04567), format_three_digits(-12345.6)
    ('5.00', '0.0457', '-12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


def compute_baseline(task: str, training: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Return the headline score of answers that ignore the images.

    It is the accuracy of the most frequent class in `training`, of equal ones the first; the mAP of random
    answers, which is the mean share of the labels that occur, or 0; or the MAE of the mean of `training`.
    Targets are as in `compute_scores`.

    Raises:
        DataError: there are no targets.

    >>> compute_baseline("regression", [[1.0], [3.0]], [[0.0], [4.0]])
    2.0
    """
    training, targets = np.asarray(training), np.asarray(targets)
    if not training.size or not targets.size:
        raise DataError(f"Expected targets. Received: {training.size} to train, {targets.size} to score.")
    if task == "multilabel":
        shares = targets.mean(axis=0, dtype=np.float64)
        return float(shares[shares > 0].mean()) if shares.any() else 0.0
    if task == "regression":
        return mean_baseline_error(targets, _average_targets(training))
    return float((targets == np.bincount(training).argmax()).mean())


def compare_with_baseline(
    task: str,
    training: npt.ArrayLike,
    targets: npt.ArrayLike,
    answers: npt.ArrayLike,
    *,
    outputs: Sequence[str],
    part: str,
    seed: int = 0,
) -> str:
    """Return a sentence if the answers do not beat the baseline beyond noise, else "".

    The whole 95 % interval of accuracy or mAP has to lie above the baseline; numbers have to be nearer to the
    truth than the mean in a paired comparison, see `is_better_than_mean`.

    Args:
        training: targets of the training part.
        targets, answers: those of the judged part, as in `compute_scores`.
        outputs: names of classes, labels or targets.
        part: name of the judged part.

    >>> labels, answers = [0, 1, 1], [[0.9], [0.9], [0.9]]
    >>> compare_with_baseline("binary", labels, labels, answers, outputs=["cat", "dog"], part="test")
    'No better than predicting the largest class: a top-1 accuracy of 66.7 % against 66.7 %
    on the 3 test images.'
    """
    images = f"on the {len(np.asarray(targets)):,} {part} images"
    if task == "regression":
        return _compare_with_mean(training, targets, answers, outputs=outputs, images=images, seed=seed)
    interval: Interval | None
    if task == "multilabel":
        ranking, name = average_over_columns(average_precision, targets, answers), "mAP"
        interval = ranking.interval if ranking else None
    else:
        predicted, name = TASKS[task].expand_binary(np.asarray(answers)).argmax(axis=1), "top-1 accuracy"
        interval = wilson_interval(int((predicted == targets).sum()), len(predicted))
    baseline = compute_baseline(task, training, targets)
    if interval is None or interval.low > baseline:
        return ""
    verdict = "No better than" if interval.value <= baseline else "Not shown to be better than"
    scores = f"a {name} of {interval.value:.1%} against {baseline:.1%}".replace("%", " %")
    return f"{verdict} {BASELINES[task]}: {scores} {images}."


def _compare_with_mean(
    training: npt.ArrayLike,
    targets: npt.ArrayLike,
    answers: npt.ArrayLike,
    *,
    outputs: Sequence[str],
    images: str,
    seed: int,
) -> str:
    true, predicted = np.asarray(targets, dtype=np.float64), np.asarray(answers, dtype=np.float64)
    means = _average_targets(training)
    if len(true) < MIN_IMAGES:
        return f"Too few images to decide whether this is better than predicting the mean {images}."
    if not is_better_than_mean(true, predicted, means, seed=seed):
        error, baseline = abs(predicted - true).mean(), mean_baseline_error(true, means)
        errors = f"{format_three_digits(error)} against {format_three_digits(baseline)}"
        return f"No better than predicting the mean: a mean absolute error of {errors} {images}."
    behind = [
        name
        for column, name in enumerate(outputs)
        if not is_better_than_mean(true[:, [column]], predicted[:, [column]], means[[column]], seed=seed)
    ]
    if not behind:
        return ""
    return f"No better than predicting the mean {images}, for these targets: {', '.join(behind)}."


def _average_targets(training: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(np.mean(np.asarray(training, dtype=np.float64), axis=0))
