"""Scores of features: which taps a head should see, and how well features suit targets without training.

**Taps** are chosen by forward selection over blocks of features, with cross-validated ridge regression.
Starting from the backbone's output, the block that lowers the held-out loss most is added, until no block
lowers it by a share worth its width. A few hundred rows tell which blocks are worth a try on all. The output
alone stays where the chosen blocks lower the loss by less than a standard error. The Gram matrix of blocks
side by side is the sum of theirs, so a candidate costs an addition and a Cholesky factor per fold, whatever
its width (`kernel_probe`).

Poolings other than the average were tried on 1,000 photographs of clothes with MobileNetV2, in 5 folds. With
the standard deviations of all late taps as well, logistic regression gains 0.6 +- 0.9 points of top-1 (4
seeds) and ridge 0.1 +- 0.9 (5 seeds); chosen taps lose 0.3 (2 seeds): not worth features twice as wide.

**LogME** (You, Liu, Wang, Long: LogME, Practical Assessment of Pre-trained Models for Transfer Learning, ICML
2021) models the targets as a linear function of the features with Gaussian weights of precision alpha and
noise of precision beta. The score is the log evidence log p(y | F, alpha, beta) / n, maximised over both and
averaged over the columns of targets. With F = U diag(s) V^T, x = U^T y and t = alpha / beta,

    q(t) = y^T (I + F F^T / t)^-1 y = sum_i x_i^2 / (1 + s_i^2 / t) + |y|^2 - |x|^2
    log p / n = (log(n / q) - 1 - log(2 pi)) / 2 - sum_i log(1 + s_i^2 / t) / (2 n)    at beta = n / q,

so only t has to be searched for. The paper's fixed-point iteration ends at the same maximum.

**H-score** (Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer Learning, ICIP
2019) is tr(cov(F)^-1 cov(E[F | y])), the spread of the classes' means relative to that of all features. With
fewer images than features cov(F) has no inverse, so it is shrunk towards a multiple of the identity by Ledoit
and Wolf's share, as in Ibrahim, Ponomareva, Mazumder: Newer is not always better, 2021. For labels and
numbers, E[F | y] is the linear regression on the targets, which for classes gives their means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from regraft.metrics.intervals import exceeds_standard_error
from regraft.solvers.cross_validation import Mask, TrainingRows, draw_folds
from regraft.solvers.kernel_probe import PENALTIES, HeldOutLoss, make_gram, measure_loss

__all__ = ["choose_taps", "h_score", "logme"]

Matrix = NDArray[Any]

MAX_ROWS = 1_200  # rows that taps are chosen on
SCREENING_ROWS = 500  # rows on which each block is tried once
MIN_GAIN = 0.01  # share of the loss that a block has to save
MAX_TAPS = 6
FINALISTS = 6  # blocks that are tried on all rows
MIN_SQUARE = 1e-10  # share of the longest axis' square below which an axis has no length
RATIOS = np.logspace(-12, 6, 18 * 40)  # alpha / beta, in units of the longest axis' square


# --- taps


def choose_taps(
    blocks: Sequence[NDArray[np.floating[Any]]],
    rows: TrainingRows,
    *,
    groups: NDArray[np.int64] | None = None,
) -> tuple[int, ...]:
    """Return the numbers of the blocks that improve a linear head, ascending; the last is always among them.

    Args:
        blocks: features of the same rows, each (n, d) with a d of its own; the last are those of the output.
        rows: targets and weights of these rows; their features are ignored.
        groups: shape (n,); rows of one group are held out together.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(90) % 3
        >>> noise, useful = rng.normal(size=(90, 8)), np.eye(3)[labels] + rng.normal(size=(90, 3)) / 2
        >>> rows = TrainingRows(noise, np.eye(3)[labels], np.ones(90), "multiclass")
        >>> choose_taps([noise, useful, rng.normal(size=(90, 8))], rows)
        (1, 2)
    """
    sample, folds = draw_folds(rows, max_rows=MAX_ROWS, count=5, groups=groups)
    rows, groups = rows.select_targets(sample), None if groups is None else groups[sample]
    chosen = [len(blocks) - 1]
    if not folds or len(blocks) == 1:
        return tuple(chosen)
    import scipy.linalg  # noqa: F401, limits hold only for libraries that are loaded

    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        grams = list(pool.map(lambda block: make_gram(block[sample]), blocks))
        total = grams[-1]
        alone = best = _find_best_penalty(pool, total, rows, folds)
        candidates = _select_finalists(pool, grams, rows, penalty=best.penalty, groups=groups)
        while candidates and len(chosen) < MAX_TAPS:
            measure = partial(measure_loss, penalty=best.penalty, rows=rows, folds=folds)
            tried = list(pool.map(measure, (total + grams[number] for number in candidates)))
            order = np.argsort([held_out.loss for held_out in tried], kind="stable")
            number = candidates[order[0]]
            held_out = _find_best_penalty(pool, total + grams[number], rows, folds, near=best.penalty)
            if held_out.loss > best.loss * (1 - MIN_GAIN):
                break
            best, total = held_out, total + grams[number]
            chosen.append(number)
            candidates.remove(number)
    return tuple(sorted(chosen)) if _is_better(best, alone) else (len(blocks) - 1,)


def _select_finalists(
    pool: ThreadPoolExecutor,
    grams: Sequence[Matrix],
    rows: TrainingRows,
    *,
    penalty: float,
    groups: NDArray[np.int64] | None,
) -> list[int]:
    """Return the numbers of the blocks that help the last one most on a part of the rows, ascending."""
    every = list(range(len(grams) - 1))
    if len(every) <= FINALISTS:
        return every
    sample, folds = draw_folds(rows, max_rows=SCREENING_ROWS, count=5, groups=groups)
    if not folds:
        return every
    part, numbers = rows.select_targets(sample), np.flatnonzero(sample)
    square = np.ix_(numbers, numbers)
    last, measure = grams[-1][square], partial(measure_loss, penalty=penalty, rows=part, folds=folds)
    tried = list(pool.map(measure, (last + gram[square] for gram in grams[:-1])))
    order = np.argsort([held_out.loss for held_out in tried], kind="stable")
    return sorted(order[:FINALISTS].tolist())


def _is_better(one: HeldOutLoss, other: HeldOutLoss) -> bool:
    """Return whether losses are lower by more than a standard error of their paired differences."""
    return exceeds_standard_error(other.rows - one.rows)


def _find_best_penalty(
    pool: ThreadPoolExecutor, gram: Matrix, rows: TrainingRows, folds: list[Mask], near: float | None = None
) -> HeldOutLoss:
    """Return the losses with the best penalty: of all, or downhill from the one that was the best before."""
    centre = None if near is None else PENALTIES.index(near)
    tried: dict[int, HeldOutLoss] = {}
    while True:
        first, last = (0, len(PENALTIES)) if centre is None else (max(0, centre - 1), centre + 2)
        numbers = [number for number in range(first, min(last, len(PENALTIES))) if number not in tried]
        losses = pool.map(lambda number: measure_loss(gram, PENALTIES[number], rows, folds), numbers)
        tried.update(zip(numbers, losses, strict=True))
        best = min(tried, key=lambda number: tried[number].loss)
        if centre in (None, best):
            return tried[best]
        centre = best


# --- closed-form scores


def logme(features: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
    """Return the mean log evidence of targets given features, per image; higher is better.

    Args:
        features: shape (n, d).
        targets: shape (n, units): one-hot, 0/1 per label, or numbers, which are best standardised. Constant
            columns are left out.

    Returns:
        An unbounded number, comparable between features of the same images but not between data sets.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.eye(3)[np.arange(60) % 3]
        >>> noise = rng.normal(size=(60, 8))
        >>> logme(noise + 5 * labels @ rng.normal(size=(3, 8)), labels) > logme(noise, labels)
        True
    """
    n = len(features)
    truth = _drop_constant_columns(targets)
    squares, axes = _find_axes(np.asarray(features, np.float64))
    explained = (axes.T @ truth) ** 2
    total = (truth**2).sum(0)
    ratios = RATIOS[:, None] * max(float(squares.max(initial=0.0)), 1e-300)
    gains = squares / ratios
    rest = (1 / (1 + gains)) @ explained + np.maximum(total - explained.sum(0), 0)
    rest = np.maximum(rest, 1e-12 * total)
    evidence = (np.log(n / rest) - 1 - np.log(2 * np.pi)) / 2 - np.log1p(gains).sum(1)[:, None] / (2 * n)
    return float(evidence.max(0).mean())


def h_score(features: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
    """Return how far the classes' means lie apart, in units of the features' spread; higher is better.

    Args:
        features: shape (n, d).
        targets: shape (n, units): one-hot, 0/1 per label, or numbers.

    Returns:
        A number from 0 to the number of independent columns of the targets (k - 1 for k classes).

    Example:
        >>> labels = np.eye(2)[np.arange(40) % 2]
        >>> 0.9 < h_score(labels + np.random.default_rng(0).normal(0, 0.1, (40, 2)), labels) < 1
        True
    """
    from scipy.linalg import orth
    from sklearn.covariance import ledoit_wolf_shrinkage

    truth = _drop_constant_columns(targets)
    data = np.asarray(features, np.float64)
    data = data - data.mean(0)
    share = float(ledoit_wolf_shrinkage(data, assume_centered=True))
    squares, axes = _find_axes(data)
    spread = (1 - share) * squares
    explained = ((axes.T @ orth(truth - truth.mean(0))) ** 2).sum(1)
    shrinkage = share * squares.sum() / data.shape[1]
    return float((spread / (spread + shrinkage) * explained).sum())


def _drop_constant_columns(targets: NDArray[np.floating]) -> Matrix:
    columns = np.asarray(targets, np.float64)
    return columns[:, np.ptp(columns, axis=0) > 0]


def _find_axes(data: Matrix) -> tuple[Matrix, Matrix]:
    """Return the squared lengths of the data along its principal axes, (r,), and unit coordinates, (n, r)."""
    n, d = data.shape
    squares, axes = np.linalg.eigh(data @ data.T if n < d else data.T @ data)
    has_length = squares > max(float(squares[-1]), 1e-300) * MIN_SQUARE
    squares, axes = squares[has_length], axes[:, has_length]
    return squares, (axes if n < d else data @ axes / np.sqrt(squares))
