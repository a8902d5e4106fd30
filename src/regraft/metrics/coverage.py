"""How often sets and intervals hold the truth, beside what chance allows.

A limit that n held-out images set is random, and so are the images that it is tried on. If all of them are
exchangeable, the number of m new images within the k-th smallest of n scores has a beta-binomial distribution
with parameters m, k and n + 1 - k (Vovk, Conditional validity of inductive conformal predictors, 2012;
Angelopoulos and Bates, A gentle introduction to conformal prediction, 2021, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEVELS", "Coverage", "LimitTrial", "chance_band", "mean_band", "measure_coverage"]

Matrix = NDArray[np.float64]

LEVELS = (0.8, 0.9, 0.95)  # coverages that reports show
TAIL = 0.025  # of the distribution on each side of a 95 % band


class LimitTrial(NamedTuple):
    """A limit and the images that it is tried on.

    Attributes:
        images: how many images it is tried on.
        rank: position of the limit among the sorted scores, from 1; between two of them with a fraction, and
            above `scores` if the limit is infinite.
        scores: how many scores of held-out images there are.
    """

    images: int
    rank: float
    scores: int


@dataclass(frozen=True)
class Coverage:
    """How often the sets or intervals of one level hold the truth on some images.

    Attributes:
        level: the share that was asked for.
        coverage: the share of images whose set or interval holds the truth; for labels, the mean share of an
            image's labels that its set holds.
        low, high: what `within_limits` is with 95 % probability if the images are like the held-out ones; NaN
            if that is not known.
        mean_size: mean number of classes or labels in a set, or mean width of an interval.
        within_limits: the coverage before the most probable class is added to every set.
        target: name of the target of intervals, else "".
    """

    level: float
    coverage: float
    low: float
    high: float
    mean_size: float
    within_limits: float
    target: str = ""

    def to_json(self) -> dict[str, float | str | None]:
        """Return the fields by name; a number that is not finite becomes None, and no target is left out."""
        fields: dict[str, float | str | None] = {
            name: value if isinstance(value, str) or math.isfinite(value) else None
            for name, value in asdict(self).items()
        }
        if not self.target:
            del fields["target"]
        return fields

    @property
    def is_as_expected(self) -> bool:
        """Whether the coverage is inside its band, or the band is not known."""
        return math.isnan(self.low) or self.low <= self.within_limits <= self.high


def chance_band(trials: Sequence[LimitTrial]) -> tuple[float, float]:
    """Return the ends of the 95 % band of the share of images within their limits.

    Args:
        trials: one for each limit; the limits come from different held-out images.

    >>> low, high = chance_band([LimitTrial(images=372, rank=901, scores=1000)])
    >>> f"{low:.3f} to {high:.3f}"
    '0.863 to 0.933'
    """
    counts = [_count_within_limit(trial) for trial in trials if trial.images]
    total = sum(len(probabilities) - 1 for probabilities in counts)
    if not total:
        return math.nan, math.nan
    # The counts of independent limits add up, so their distributions are convolved.
    spectra = (np.fft.rfft(probabilities, total + 1) for probabilities in counts)
    cumulative = np.maximum(np.fft.irfft(math.prod(spectra), total + 1), 0).cumsum()
    cumulative /= cumulative[-1]
    low, high = np.searchsorted(cumulative, [TAIL, 1 - TAIL])
    return float(low) / total, float(high) / total


def _count_within_limit(trial: LimitTrial) -> NDArray[np.float64]:
    """Return the probability of each number of images within one limit: a beta-binomial, (images + 1,)."""
    from scipy.special import betaln  # scipy.stats takes half a second to import

    images, rank, scores = trial
    if rank > scores:  # an infinite limit: every image is within it
        certain: NDArray[np.float64] = np.eye(1, images + 1, images)[0]
        return certain
    numbers = np.arange(images + 1)
    above = scores + 1 - rank
    logarithms = (
        betaln(numbers + rank, images - numbers + above)
        - betaln(rank, above)
        - betaln(numbers + 1, images - numbers + 1)
        - math.log(images + 1)
    )
    probabilities: NDArray[np.float64] = np.exp(logarithms)
    return probabilities


def mean_band(level: float, shares: NDArray[Any], held_out: int) -> tuple[float, float]:
    """Return the ends of the 95 % band of the mean of shares in 0..1, such as those of an image's labels.

    Args:
        level: the expected mean.
        shares: the measured shares, (m,), from which their variance is taken.
        held_out: number of images that set the limit.

    >>> low, high = mean_band(0.9, np.array([0.8, 1.0] * 50), held_out=100)
    >>> f"{low:.3f} to {high:.3f}"
    '0.872 to 0.928'
    """
    from regraft.metrics.intervals import Z95

    if not len(shares) or not held_out:
        return math.nan, math.nan
    error = Z95 * float(shares.std()) * math.sqrt(1 / len(shares) + 1 / held_out)
    return max(0.0, level - error), min(1.0, level + error)


def measure_coverage(
    level: float,
    is_covered: NDArray[Any],
    sizes: NDArray[Any],
    *,
    band: tuple[float, float],
    within_limits: NDArray[Any] | None = None,
    target: str = "",
) -> Coverage:
    """Return the coverage of sets or intervals.

    Args:
        level: the share that was asked for.
        is_covered: whether, or to which share, each holds the truth, (m,), m > 0.
        sizes: number of members of each, or width, (m,).
        band: from `chance_band` or `mean_band`.
        within_limits: as `is_covered`, before the most probable class is added; None for the same.
        target: name of the target of intervals.

    >>> measure_coverage(0.9, np.array([True, False]), np.array([1, 2]), band=(0.5, 1.0)).coverage
    0.5
    """
    inner = is_covered if within_limits is None else within_limits
    return Coverage(level, float(is_covered.mean()), *band, float(sizes.mean()), float(inner.mean()), target)
