"""How well features suit targets, in closed form: two scores that need no training.

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

import numpy as np
from numpy.typing import NDArray

__all__ = ["h_score", "logme"]

Matrix = NDArray[np.float64]

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
