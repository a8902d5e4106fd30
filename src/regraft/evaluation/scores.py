"""The scores of any task, and what each of them is called.

What a model has to beat: the score of answers that do not look at the images, and whether it does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.classification import binary_scores, classification_scores
from regraft.metrics.intervals import Interval, wilson_interval
from regraft.metrics.multilabel import multilabel_scores
from regraft.metrics.ranking import average_precision, mean_of
from regraft.metrics.regression import FEWEST, beats_the_mean, error_of_the_mean, regression_scores
from regraft.tasks import TASKS

__all__ = ["BASELINES", "MEASURES", "Measure", "baseline", "no_better", "scores", "three_digits"]


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


BASELINES = {
    "multiclass": "always the largest class",
    "binary": "always the largest class",
    "multilabel": "random answers",
    "regression": "always the mean",
}


def baseline(task: str, training: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """What a task's first score comes to without looking at the images.

    The accuracy of the class most frequent in `training`, of equal ones the first; the mAP of random answers,
    which is the mean share of the labels that occur, or 0; or the MAE of the mean of `training`.
    Targets as in `evaluation.scores.scores`.

    Raises:
        DataError: there are no targets.

    >>> baseline("regression", [[1.0], [3.0]], [[0.0], [4.0]])
    2.0
    """
    before, now = np.asarray(training), np.asarray(targets)
    if not before.size or not now.size:
        raise DataError(f"Expected targets. Received: {before.size} to train, {now.size} to score.")
    if task == "multilabel":
        shares = now.mean(axis=0, dtype=np.float64)
        return float(shares[shares > 0].mean()) if shares.any() else 0.0
    if task == "regression":
        return error_of_the_mean(now, _means(before))
    return float((now == np.bincount(before).argmax()).mean())


def no_better(
    task: str,
    training: npt.ArrayLike,
    targets: npt.ArrayLike,
    answers: npt.ArrayLike,
    *,
    outputs: Sequence[str],
    part: str,
    seed: int = 0,
) -> str:
    """A sentence where the answers are no better than the baseline beyond noise; "" where they are.

    Accuracy and mAP have to have their whole 95 % interval above the baseline; numbers have to be nearer the
    truth than the mean in a paired comparison, see `beats_the_mean`.

    Args:
        training: targets of the training part.
        targets, answers: of the part that is judged, whose name is `part`, as in `evaluation.scores.scores`.
        outputs: names of classes, labels or targets.

    >>> no_better("binary", [0, 1, 1], [0, 1, 1], [[0.9], [0.9], [0.9]], outputs=["cat", "dog"], part="test")
    'No better than always the largest class: a top-1 accuracy of 66.7 % against 66.7 % on the 3 test images.'
    """
    where = f"on the {len(np.asarray(targets)):,} {part} images"
    if task == "regression":
        return _of_numbers(training, targets, answers, outputs=outputs, where=where, seed=seed)
    if task == "multilabel":
        ranked, name = mean_of(average_precision, targets, answers), "mAP"
        found = ranked.interval if ranked else None
    else:
        said = TASKS[task].complete(np.asarray(answers)).argmax(axis=1)
        found, name = wilson_interval(int((said == targets).sum()), len(said)), "top-1 accuracy"
    floor = baseline(task, training, targets)
    if found is None or found.low > floor:
        return ""
    verdict = "No better than" if found.value <= floor else "Not shown to be better than"
    return (
        f"{verdict} {BASELINES[task]}: a {name} of {found.value:.1%} against {floor:.1%} {where}."
    ).replace("%", " %")


def _of_numbers(
    training: npt.ArrayLike,
    targets: npt.ArrayLike,
    answers: npt.ArrayLike,
    *,
    outputs: Sequence[str],
    where: str,
    seed: int,
) -> str:
    true, said = np.asarray(targets, dtype=np.float64), np.asarray(answers, dtype=np.float64)
    means = _means(training)
    if len(true) < FEWEST:
        return f"Whether this is better than always the mean cannot be told {where}: they are too few."
    if not beats_the_mean(true, said, means, seed=seed):
        error, floor = abs(said - true).mean(), error_of_the_mean(true, means)
        against = f"a mean absolute error of {three_digits(error)} against {three_digits(floor)}"
        return f"No better than always the mean: {against} {where}."
    behind = [
        name
        for at, name in enumerate(outputs)
        if not beats_the_mean(true[:, [at]], said[:, [at]], means[[at]], seed=seed)
    ]
    return f"No better than always the mean {where}, of these targets: {', '.join(behind)}." if behind else ""


def _means(training: npt.ArrayLike) -> npt.NDArray[np.float64]:
    return np.asarray(np.mean(np.asarray(training, dtype=np.float64), axis=0))
