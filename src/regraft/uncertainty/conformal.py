"""Sets of classes or labels that hold the truth as often as is asked, from answers to held-out images.

| task | set | score of a held-out image | promise at coverage c |
|---|---|---|---|
| multiclass, binary | classes whose probability reaches their limit | 1 - probability of the true class (LAC) | the true class is in the set with probability c |
| multilabel | labels whose probability reaches one limit | share of the true labels below the limit | on average a share c of an image's labels is in the set |

Numbers have intervals, see `uncertainty.intervals`. Limits for every coverage follow from the stored scores:
the k-th smallest of n scores with k = ceil((n + 1) c) (Sadinle, Lei and Wasserman, Least ambiguous set-valued
classifiers with bounded error levels, 2019), and for labels conformal risk control (Angelopoulos et al.,
2022). Held-out answers that are out-of-fold come from heads that learnt from fewer images than the final
one, so `extrapolate` moves their scores by what further images change.
"""  # fmt: skip

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError

__all__ = [
    "MAX_SCORES", "ClassSets", "LabelSets", "check_coverage", "conformal_quantile", "count_least",
    "extrapolate",
]  # fmt: skip

Matrix = NDArray[np.float64]
Floats = NDArray[np.floating[Any]]

CLASS_FACTOR = 4  # a class has its own limit with this many times the least number of images
TIE = 1e-6  # probabilities nearer than this are equal: answers are float32
MAX_SCORES = 50_000  # scores that a file holds; of more, a random sample


def check_coverage(coverage: float) -> float:
    """Return a coverage that is above 0 and below 1.

    Raises:
        UsageError: it is not.

    >>> check_coverage(1.5)
    Traceback (most recent call last):
    regraft.errors.UsageError: coverage: expected a share above 0 and below 1, such as 0.9. Received: 1.5.
    """
    if not 0 < coverage < 1:
        raise UsageError(
            f"coverage: expected a share above 0 and below 1, such as 0.9. Received: {coverage:g}."
        )
    return coverage


def _find_rank(n: int, coverage: float) -> int:
    return math.ceil(round((n + 1) * coverage, 9))  # rounded: 0.07 * 100 is 7.000000000000001


def count_least(coverage: float) -> int:
    """Return the least number of held-out images with which a limit of this coverage is finite.

    >>> count_least(0.9), count_least(0.95)
    (9, 19)
    """
    return math.ceil(round(coverage / (1 - coverage), 6))


def conformal_quantile(scores: Floats, coverage: float) -> float:
    """Return the k-th smallest of n scores, k = ceil((n + 1) coverage); infinite if k > n.

    A further score, exchangeable with these, is at most that with probability `coverage` or a little more.

    >>> conformal_quantile(np.arange(1.0, 10.0), 0.9), conformal_quantile(np.arange(1.0, 9.0), 0.9)
    (9.0, inf)
    """
    rank = _find_rank(len(scores), coverage)
    return math.inf if rank > len(scores) else float(np.partition(scores, rank - 1)[rank - 1])
