"""Scores of regression answers in the targets' own units, and whether they beat predicting the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.intervals import Interval, bootstrap, median_interval

__all__ = [
    "MIN_IMAGES",
    "TargetRow",
    "is_better_than_mean",
    "mean_baseline_error",
    "score_error_sums",
    "score_regression",
    "score_targets",
    "sum_errors",
]

Floats = npt.NDArray[np.float64]

MIN_IMAGES = 6  # with fewer, all may be better by luck: 2 ** -5 is more than the 2.5 % outside an interval


@dataclass(frozen=True)
class TargetRow:
    """The scores of one target, in its own unit; R2 has no unit, and is None if the target does not vary.

    `error_of_the_mean` is the MAE of predicting the mean of the training part; `better` is whether the
    model's MAE is lower by more than noise.
    """

    name: str
    error_of_the_mean: float
    better: bool
    mae: Interval
    rmse: Interval
    median_error: Interval
    r2: Interval | None = None


def score_regression(truth: npt.ArrayLike, answers: npt.ArrayLike, *, seed: int = 0) -> dict[str, Interval]:
    """Return the scores of regression answers, each with a 95 % interval and averaged over the targets.

    `mae`: mean absolute error. `rmse`: root of the mean squared error.
    `r2`: share of the targets' variance that the answers explain: at most 1, and 0 for predicting the mean of
    these images. Targets that do not vary are left out, and so is `r2` if none does.
    `median_error`: median over the images of the absolute error, averaged over the targets.

    Truth and answers have shape (n, targets), n > 0, and the same units; `seed` is that of the bootstrap.

    Raises:
        DataError: if the shapes disagree or a number is not finite.

    >>> scores = score_regression([[1.0], [2.0], [6.0]], [[1.0], [3.0], [4.0]])
    >>> {name: round(score.value, 2) for name, score in scores.items()}
    {'mae': 1.0, 'rmse': 1.29, 'r2': 0.64, 'median_error': 1.0}
    """
    true, predicted = _check(truth, answers)
    order = np.lexsort(np.concatenate([predicted, true], axis=1).T)  # as in `score_multiclass`
    true, predicted = true[order], predicted[order]
    columns = sum_errors(true, predicted)
    scores = dict(zip(("mae", "rmse", "r2"), bootstrap(columns, score_error_sums, seed=seed), strict=True))
    if np.isnan(scores["r2"].value):
        del scores["r2"]
    return scores | {"median_error": median_interval(abs(predicted - true).mean(axis=1))}


def score_targets(
    truth: npt.ArrayLike,
    answers: npt.ArrayLike,
    targets: Sequence[str],
    *,
    means: npt.ArrayLike,
    seed: int = 0,
) -> list[TargetRow]:
    """Return a row for each target, in the order of the names `targets`.

    `means`, shape (targets,), are those of the training part; the rest is as in `score_regression`.

    >>> row = score_targets([[1.0], [2.0], [6.0]], [[1.0], [3.0], [4.0]], ["weight"], means=[3.0])[0]
    >>> row.name, row.mae.value, row.error_of_the_mean, row.better
    ('weight', 1.0, 2.0, False)
    """
    true, predicted = _check(truth, answers)
    rows = []
    for number, (name, mean) in enumerate(zip(targets, np.atleast_1d(means), strict=True)):
        one, other = true[:, [number]], predicted[:, [number]]
        scores = score_regression(one, other, seed=seed)
        baseline, better = mean_baseline_error(one, mean), is_better_than_mean(one, other, mean, seed=seed)
        rows.append(TargetRow(name, baseline, better, **scores))
    return rows


def mean_baseline_error(truth: npt.ArrayLike, means: npt.ArrayLike) -> float:
    """Return the MAE on `truth`, shape (n, targets), of predicting `means`, those of the training part.

    >>> mean_baseline_error([[1.0], [2.0], [6.0]], [3.0])
    2.0
    """
    differences = np.asarray(truth, dtype=np.float64) - np.asarray(means, dtype=np.float64)
    return float(abs(differences).mean())


def is_better_than_mean(
    truth: npt.ArrayLike, answers: npt.ArrayLike, means: npt.ArrayLike, *, seed: int = 0
) -> bool:
    """Return whether the answers are nearer the truth than the training part's mean, by more than noise.

    A bootstrap of the paired differences in absolute error decides: the 95 % interval of the mean gain must
    lie above zero. With several targets, each error is divided by that target's `mean_baseline_error`.

    Fewer than 6 images show nothing: False. Arguments and errors are as in `score_targets`.

    >>> truth = np.arange(20.0).reshape(20, 1)
    >>> is_better_than_mean(truth, truth + 1, [9.5]), is_better_than_mean(truth, truth * 0 + 9, [9.5])
    (True, False)
    """
    true, predicted = _check(truth, answers)
    baseline = abs(true - np.asarray(means, dtype=np.float64))
    unit = baseline.mean(axis=0)
    gains = ((baseline - abs(true - predicted)) / np.where(unit > 0, unit, 1.0)).mean(axis=1)
    if len(gains) < MIN_IMAGES:
        return False
    ordered = np.sort(gains)[:, np.newaxis]
    return bootstrap(ordered, lambda sums: sums / len(ordered), seed=seed)[0].low > 0


def sum_errors(true: Floats, predicted: Floats) -> Floats:
    """Return the summands of `score_error_sums`, a row for each image.

    Its columns are ones and, for each target, |error|, error^2, truth and truth^2.
    """
    # Centred, so that the variance is not the difference of two large numbers.
    centred, errors = true - true.mean(axis=0), predicted - true
    return np.concatenate([np.ones((len(true), 1)), abs(errors), errors**2, centred, centred**2], axis=1)


def score_error_sums(sums: Floats) -> Floats:
    """Return MAE, RMSE and R2, (r, 3), from sums of the rows of `sum_errors`; R2 is NaN if none varies."""
    n, rest = sums[:, :1], sums[:, 1:]
    absolute, squared, true, true_squared = np.split(rest, 4, axis=1)
    variance = true_squared - true**2 / n
    # Rounding gives a constant target a tiny variance, which must not be divided by.
    varies = variance > 1e-12 * np.maximum(true_squared, np.finfo(np.float64).tiny)
    share = np.where(varies, 1 - squared / np.where(varies, variance, 1.0), 0.0).sum(axis=1)
    defined = varies.sum(axis=1)
    r2 = np.where(defined > 0, share / np.maximum(defined, 1), np.nan)
    return np.stack([(absolute / n).mean(axis=1), np.sqrt(squared / n).mean(axis=1), r2], axis=1)


def _check(truth: npt.ArrayLike, answers: npt.ArrayLike) -> tuple[Floats, Floats]:
    true, predicted = np.asarray(truth, dtype=np.float64), np.asarray(answers, dtype=np.float64)
    if true.ndim != 2 or true.shape != predicted.shape or not true.size:
        raise DataError(
            "Expected numbers of shape (n, targets), n > 0, for truth and answers. "
            f"Received: {true.shape} and {predicted.shape}."
        )
    if not (np.isfinite(true).all() and np.isfinite(predicted).all()):
        raise DataError("Expected finite numbers. Received NaN or infinity among targets or answers.")
    return true, predicted
