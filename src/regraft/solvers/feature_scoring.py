"""Which taps a head sees: forward selection over blocks of features, by cross-validation.

From the backbone's output on, the block is added that lowers the held-out loss of ridge regression most,
until none does by a share worth its width. The Gram matrix of blocks side by side is the sum of theirs, each
scaled to the same variance: K = sum_b X_b X_b^T / d_b. So each block is multiplied once, and a candidate
costs an addition and a Cholesky factor a fold, however wide it is.

Poolings beside the average were tried on 1,000 photographs of clothes with MobileNetV2, in 5 folds. With the
standard deviations of all late taps too, logistic regression gains 0.6 +- 0.9 points of top-1 (4 seeds) and
ridge 0.1 +- 0.9 (5 seeds); chosen taps lose 0.3 (2 seeds): not worth features twice as wide.

How well features suit targets, in closed form: two scores that need no training.

**LogME** (You, Liu, Wang, Long: LogME, Practical Assessment of Pre-trained Models for Transfer Learning, ICML
2021). Targets are a linear function of the features with Gaussian weights of precision alpha and noise of
precision beta. The score is the log of the evidence, log p(y | F, alpha, beta) / n, at its maximum over both,
mean over the columns of targets. With F = U diag(s) V^T, x = U^T y and t = alpha / beta,

    q(t) = y^T (I + F F^T / t)^-1 y = sum_i x_i^2 / (1 + s_i^2 / t) + |y|^2 - |x|^2
    log p / n = (log(n / q) - 1 - log(2 pi)) / 2 - sum_i log(1 + s_i^2 / t) / (2 n)    at beta = n / q,

so that one number is left to look for, t. The paper's fixed-point iteration ends at the same maximum.

**H-score** (Bao et al., An Information-Theoretic Approach to Transferability in Task Transfer Learning, ICIP
2019): tr(cov(F)^-1 cov(E[F | y])), the spread of the classes' means against that of all features. With fewer
images than features cov(F) has no inverse, so it is shrunk towards a multiple of the identity by Ledoit and
Wolf's share, as in Ibrahim, Ponomareva, Mazumder: Newer is not always better, 2021. For labels and numbers,
E[F | y] is the linear regression on the targets, which for classes is their means.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from regraft.solvers.cross_validation import Mask, Part, folds, judged, plain, sample_of, strata
from regraft.solvers.decision import Scaler
from regraft.solvers.sklearn_heads import FAMILIES

__all__ = ["choose_taps", "h_score", "logme"]


Matrix = NDArray[Any]

ROWS = 1_500  # that are looked at
PENALTIES = tuple(float(value) for value in np.logspace(-0.5, -3.5, 7))  # for a variance of one in sum
WORTH = 0.01  # share of the loss that a block has to save
MOST = 6


def choose_taps(
    blocks: Sequence[NDArray[np.floating[Any]]], part: Part, *, groups: NDArray[np.int64] | None = None
) -> tuple[int, ...]:
    """The blocks that are worth it, by their numbers in ascending order; the last is always one.

    Args:
        blocks: features of the same rows, each (n, d of its own); the last are those of the output.
        part: targets and weights of these rows; its data are not looked at.
        groups: shape (n,); rows of one group are held out together.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.arange(90) % 3
        >>> noise, told = rng.normal(size=(90, 8)), np.eye(3)[labels] + rng.normal(size=(90, 3)) / 2
        >>> part = Part(noise, np.eye(3)[labels], np.ones(90), "multiclass")
        >>> choose_taps([noise, told, rng.normal(size=(90, 8))], part)
        (1, 2)
    """
    answers = plain(part)
    rows = sample_of(strata(answers, part.task), ROWS, part.seed)
    seen = replace(part, data=np.zeros((len(rows), 0))).rows(rows)
    held = folds(
        answers[rows],
        task=part.task,
        count=5,
        seed=part.seed,
        groups=None if groups is None else groups[rows],
    )
    chosen = [len(blocks) - 1]
    if not held or len(blocks) == 1:
        return tuple(chosen)
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        grams = list(pool.map(lambda block: _gram(block[rows]), blocks))
        together = grams[-1]
        best, penalty = min((_loss(together, value, seen, held), value) for value in PENALTIES)
        while len(chosen) < min(MOST, len(blocks)):
            rest = [number for number in range(len(blocks)) if number not in chosen]
            loss = partial(_loss, penalty=penalty, part=seen, held=held)
            tried = list(pool.map(loss, (together + grams[number] for number in rest)))
            number = rest[int(np.argmin(tried))]
            further = min((_loss(together + grams[number], value, seen, held), value) for value in PENALTIES)
            if further[0] > best * (1 - WORTH):
                break
            best, penalty = further
            chosen.append(number)
            together = together + grams[number]
    return tuple(sorted(chosen))


def _gram(block: Matrix) -> Matrix:
    """X X^T of the standardised block, over its width: a trace of n."""
    data = Scaler.of(block.astype(np.float64))(block).astype(np.float32)
    return data @ data.T / np.float32(data.shape[1])


def _loss(gram: Matrix, penalty: float, part: Part, held: list[Mask]) -> float:
    """Mean loss on held-out rows of kernel ridge regression, its decisions made probabilities.

    Args:
        gram: shape (n, n).
        penalty: a share of its trace.
    """
    from scipy.linalg import cho_factor, cho_solve

    decisions, seen = np.zeros_like(part.targets), np.any(held, axis=0)
    ridge = np.float32(penalty * np.trace(gram))
    for mask in held:
        train = np.flatnonzero(~mask)
        root = np.sqrt(part.weights[train]).astype(np.float32)[:, None]
        level = part.weights[train] @ part.signs[train] / part.weights[train].sum()
        # A constant as wide as all else is nearly free of the penalty: the intercept that is left.
        inner = (gram[np.ix_(train, train)] + gram.dtype.type(1)) * root * root.T
        inner.flat[:: len(train) + 1] += ridge
        factors = cho_factor(inner, overwrite_a=True, check_finite=False)
        dual = root * cho_solve(factors, root * (part.signs[train] - level).astype(np.float32))
        decisions[mask] = (gram[np.ix_(mask, train)] + 1) @ dual + level
    return float(judged({}, decisions[seen], part.rows(seen), FAMILIES["ridge"]).losses.mean())


FLAT = 1e-10  # share of the longest axis' square below which an axis has no length
RATIOS = np.logspace(-12, 6, 18 * 40)  # of alpha to beta, in units of the longest axis' square


def logme(features: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
    """The mean log evidence of targets given features, per image; higher is better.

    Args:
        features: shape (n, d).
        targets: shape (n, units): one-hot, 0/1 a label, or numbers, which are best standardised. Columns that
            are constant say nothing and are left out.

    Returns:
        A number without limits; comparable between features of the same images, not between data sets.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.eye(3)[np.arange(60) % 3]
        >>> noise = rng.normal(size=(60, 8))
        >>> logme(noise + 5 * labels @ rng.normal(size=(3, 8)), labels) > logme(noise, labels)
        True
    """
    n = len(features)
    truth = _varying(targets)
    squares, left = _axes(np.asarray(features, np.float64))
    inside = (left.T @ truth) ** 2
    whole = (truth**2).sum(0)
    ratios = RATIOS[:, None] * max(float(squares.max(initial=0.0)), 1e-300)
    grown = squares / ratios
    rest = (1 / (1 + grown)) @ inside + np.maximum(whole - inside.sum(0), 0)
    rest = np.maximum(rest, 1e-12 * whole)
    evidence = (np.log(n / rest) - 1 - np.log(2 * np.pi)) / 2 - np.log1p(grown).sum(1)[:, None] / (2 * n)
    return float(evidence.max(0).mean())


def h_score(features: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
    """How far the classes' mean features lie apart, in units of the features' own spread; higher is better.

    Args:
        features: shape (n, d).
        targets: shape (n, units): one-hot, 0/1 a label, or numbers.

    Returns:
        From 0 to the number of independent columns of the targets (for k classes k - 1).

    Example:
        >>> labels = np.eye(2)[np.arange(40) % 2]
        >>> 0.9 < h_score(labels + np.random.default_rng(0).normal(0, 0.1, (40, 2)), labels) < 1
        True
    """
    from scipy.linalg import orth
    from sklearn.covariance import ledoit_wolf_shrinkage

    truth = _varying(targets)
    data = np.asarray(features, np.float64)
    data = data - data.mean(0)
    share = float(ledoit_wolf_shrinkage(data, assume_centered=True))
    squares, left = _axes(data)
    spread = (1 - share) * squares
    explained = ((left.T @ orth(truth - truth.mean(0))) ** 2).sum(1)
    level = share * squares.sum() / data.shape[1]
    return float((spread / (spread + level) * explained).sum())


def _varying(targets: NDArray[np.floating]) -> Matrix:
    found = np.asarray(targets, np.float64)
    return found[:, np.ptp(found, axis=0) > 0]


def _axes(data: Matrix) -> tuple[Matrix, Matrix]:
    """Squared length of the data along its principal axes, (r,), and the unit coordinates, (n, r)."""
    n, d = data.shape
    squares, axes = np.linalg.eigh(data @ data.T if n < d else data.T @ data)
    kept = squares > max(float(squares[-1]), 1e-300) * FLAT
    squares, axes = squares[kept], axes[:, kept]
    return squares, (axes if n < d else data @ axes / np.sqrt(squares))
