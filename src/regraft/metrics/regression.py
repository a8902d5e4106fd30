"""Scores of answers that are numbers, in the targets' own units, and what they are worth beside the mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from regraft.errors import DataError
from regraft.metrics.intervals import Interval, bootstrap, median_interval

__all__ = ["TargetRow", "beats_the_mean", "error_of_the_mean", "per_target", "regression_scores"]

Floats = npt.NDArray[np.float64]

FEWEST = 6  # of fewer images all may be better by luck: 2 ** -5 is more than the 2.5 % an interval leaves


@dataclass(frozen=True)
class TargetRow:
    """One target's scores, in its own unit; R2 has none, and is None where the target does not vary.

    `error_of_the_mean` is the MAE of always answering the mean of the training part, `better` whether the
    model's MAE is lower beyond noise.
    """

    name: str
    error_of_the_mean: float
    better: bool
    mae: Interval
    rmse: Interval
    median_error: Interval
    r2: Interval | None = None


def regression_scores(truth: npt.ArrayLike, answers: npt.ArrayLike, *, seed: int = 0) -> dict[str, Interval]:
    """Scores of numbers answered for images, each with a 95 % interval; the mean over the targets of several.

    `mae`: mean absolute error. `rmse`: root of the mean squared error.
    `r2`: share of the targets' variance that the answers account for, at most 1, 0 for always answering the
    mean of these very images; targets that do not vary are left out, and `r2` if none does.
    `median_error`: median of the absolute errors, of an image's mean error where there are several targets.

    Truth and answers are of shape (n, targets), n > 0, in the same units; `seed` is that of the bootstrap.

    Raises:
        DataError: if the shapes disagree or a number is not finite.

    >>> scores = regression_scores([[1.0], [2.0], [6.0]], [[1.0], [3.0], [4.0]])
    >>> {name: round(score.value, 2) for name, score in scores.items()}
    {'mae': 1.0, 'rmse': 1.29, 'r2': 0.64, 'median_error': 1.0}
    """
    true, said = _checked(truth, answers)
    order = np.lexsort(np.concatenate([said, true], axis=1).T)  # as in `classification_scores`
    true, said = true[order], said[order]
    # Centred, so that the variance is not the difference of two large numbers.
    centred, errors = true - true.mean(axis=0), said - true
    columns = np.concatenate([np.ones((len(true), 1)), abs(errors), errors**2, centred, centred**2], axis=1)
    found = dict(zip(("mae", "rmse", "r2"), bootstrap(columns, _of_sums, seed=seed), strict=True))
    if np.isnan(found["r2"].value):
        del found["r2"]
    return found | {"median_error": median_interval(abs(errors).mean(axis=1))}


def per_target(
    truth: npt.ArrayLike,
    answers: npt.ArrayLike,
    targets: Sequence[str],
    *,
    means: npt.ArrayLike,
    seed: int = 0,
) -> list[TargetRow]:
    """A row for every target, in the order of their names `targets`.

    `means`, shape (targets,), are those of the training part; all else is as in `regression_scores`.

    >>> row = per_target([[1.0], [2.0], [6.0]], [[1.0], [3.0], [4.0]], ["weight"], means=[3.0])[0]
    >>> row.name, row.mae.value, row.error_of_the_mean, row.better
    ('weight', 1.0, 2.0, False)
    """
    true, said = _checked(truth, answers)
    rows = []
    for at, (name, mean) in enumerate(zip(targets, np.atleast_1d(means), strict=True)):
        one, other = true[:, at : at + 1], said[:, at : at + 1]
        scores = regression_scores(one, other, seed=seed)
        floor, better = error_of_the_mean(one, mean), beats_the_mean(one, other, mean, seed=seed)
        rows.append(TargetRow(name, floor, better, **scores))
    return rows


def error_of_the_mean(truth: npt.ArrayLike, means: npt.ArrayLike) -> float:
    """The MAE on `truth`, shape (n, targets), of always answering `means`, those of the training part.

    >>> error_of_the_mean([[1.0], [2.0], [6.0]], [3.0])
    2.0
    """
    differences = np.asarray(truth, dtype=np.float64) - np.asarray(means, dtype=np.float64)
    return float(abs(differences).mean())


def beats_the_mean(
    truth: npt.ArrayLike, answers: npt.ArrayLike, means: npt.ArrayLike, *, seed: int = 0
) -> bool:
    """Whether the answers are nearer the truth than "always the mean of the training part", beyond noise.

    A bootstrap of the paired differences in absolute error: the whole 95 % interval of the mean gain must be
    above zero. With several targets each error counts in units of that target's error of the mean.

    Of fewer than 6 images nothing follows: False. Arguments and errors are as in `per_target`.

    >>> truth = np.arange(20.0).reshape(20, 1)
    >>> beats_the_mean(truth, truth + 1, [9.5]), beats_the_mean(truth, truth * 0 + 9, [9.5])
    (True, False)
    """
    true, said = _checked(truth, answers)
    without = abs(true - np.asarray(means, dtype=np.float64))
    unit = without.mean(axis=0)
    gains = ((without - abs(true - said)) / np.where(unit > 0, unit, 1.0)).mean(axis=1)
    if len(gains) < FEWEST:
        return False
    ordered = np.sort(gains)[:, np.newaxis]
    return bootstrap(ordered, lambda sums: sums / len(ordered), seed=seed)[0].low > 0


def _of_sums(sums: Floats) -> Floats:
    """MAE, RMSE and R2, (r, 3), from sums over images: ones, |errors|, errors^2, truth, truth^2."""
    n, rest = sums[:, :1], sums[:, 1:]
    absolute, squared, true, true_squared = np.split(rest, 4, axis=1)
    variance = true_squared - true**2 / n
    # Rounding leaves a constant target, in full or in a resample, a little variance: not enough to divide by.
    varies = variance > 1e-12 * np.maximum(true_squared, np.finfo(np.float64).tiny)
    share = np.where(varies, 1 - squared / np.where(varies, variance, 1.0), 0.0).sum(axis=1)
    defined = varies.sum(axis=1)
    r2 = np.where(defined > 0, share / np.maximum(defined, 1), np.nan)
    return np.stack([(absolute / n).mean(axis=1), np.sqrt(squared / n).mean(axis=1), r2], axis=1)


def _checked(truth: npt.ArrayLike, answers: npt.ArrayLike) -> tuple[Floats, Floats]:
    true, said = np.asarray(truth, dtype=np.float64), np.asarray(answers, dtype=np.float64)
    if true.ndim != 2 or true.shape != said.shape or not true.size:
        raise DataError(
            "Expected numbers of shape (n, targets), n > 0, for truth and answers. "
            f"Received: {true.shape} and {said.shape}."
        )
    if not (np.isfinite(true).all() and np.isfinite(said).all()):
        raise DataError("Expected finite numbers. Received NaN or infinity among targets or answers.")
    return true, said
