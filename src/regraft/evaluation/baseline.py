"""What a model has to beat: the score of answers that do not look at the images, and whether it does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.evaluation.intervals import wilson_interval
from regraft.evaluation.ranking import average_precision, mean_of
from regraft.evaluation.regression import FEWEST, beats_the_mean, error_of_the_mean
from regraft.evaluation.scores import three_digits
from regraft.tasks import TASKS

__all__ = ["BASELINES", "baseline", "no_better"]

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
