"""Sets of classes or labels that hold the truth as often as is asked, from answers to held-out images.

| task | members of a set | with coverage c |
|---|---|---|
| multiclass, binary | classes whose probability reaches their limit | a share c of sets has the true class |
| multilabel | labels whose probability reaches one limit | a set has a share c of an image's labels |

Numbers have intervals, see `uncertainty.intervals`. For classes the score of an image is 1 - the probability
of its true class (Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with bounded error
levels, 2019), and the limit of any coverage follows from the sorted scores. For labels it is conformal risk
control of the share that is missed (Angelopoulos et al., Conformal risk control, 2022).

Out-of-fold answers come from heads that learnt from fewer images than the final one, so their scores are a
little too high; `extrapolate` moves them by what further images change. Those of labels go half the way: the
share that is missed is to stay below its bound, and the whole way leads a little beyond it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError

__all__ = [
    "DEFAULT_COVERAGE", "ClassSets", "LabelSets", "LimitGroup", "check_coverage", "conformal_quantile",
    "count_least", "draw_rows", "extrapolate", "find_rank", "interpolate_quantile",
]  # fmt: skip

Matrix = NDArray[np.float64]
Bools = NDArray[np.bool_]
Labels = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]

DEFAULT_COVERAGE = 0.9
CLASS_FACTOR = 4  # a class has a limit of its own if it has this many times the least number of images
TIE = 1e-6  # probabilities nearer than this are equal: answers are float32
MAX_SCORES = 50_000  # scores that a file holds; of more, a random sample
LABEL_CAUTION = 0.5  # share of the way that the scores of labels are moved
CERTAIN = 1e-12  # distance of a probability from 0 and 1 at which its log odds end
MAX_NAMES = 5  # that a sentence lists


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


def count_least(coverage: float) -> int:
    """Return the least number of held-out images with which a limit of this coverage is finite.

    >>> count_least(0.9), count_least(0.95)
    (9, 19)
    """
    return math.ceil(round(coverage / (1 - coverage), 6))


def find_rank(count: int, coverage: float) -> int:
    """Return which of sorted scores is the limit, from 1: ceil((count + 1) coverage)."""
    return math.ceil(round((count + 1) * coverage, 9))  # rounded: 0.07 * 100 is 7.000000000000001


def conformal_quantile(scores: Floats, coverage: float) -> float:
    """Return the k-th smallest of n scores, k = ceil((n + 1) coverage); infinite if k > n.

    A further score, exchangeable with these, is at most that with probability `coverage` or a little more.

    >>> conformal_quantile(np.arange(1.0, 10.0), 0.9), conformal_quantile(np.arange(1.0, 9.0), 0.9)
    (9.0, inf)
    """
    rank = find_rank(len(scores), coverage)
    return math.inf if rank > len(scores) else float(np.partition(scores, rank - 1)[rank - 1])


def interpolate_quantile(scores: Floats, coverage: float) -> float:
    """Return the value at position (n + 1) coverage of n sorted scores; infinite if that is above n.

    With a limit for each class, rounding every position up would add half an image of each class to what was
    asked for.

    >>> interpolate_quantile(np.arange(1.0, 10.0), 0.85)
    8.5
    """
    position = round((len(scores) + 1) * coverage, 9)
    if position > len(scores):
        return math.inf
    return float(np.interp(position, np.arange(1, len(scores) + 1), np.sort(scores)))


def extrapolate(scores: Matrix, fewer: Matrix, step: float) -> Matrix:
    """Move scores of held-out images to what a head of all images is likely to give.

    Their quantiles move on by `step` times the difference to those of heads that learnt from fewer images;
    their order stays.

    Args:
        scores, fewer: scores of the same images, (n,), on a scale without ends.
        step: see `solvers.fewer_rows`.

    >>> extrapolate(np.array([3.0, 1.0, 2.0]), np.array([4.0, 3.0, 2.0]), step=0.5).tolist()
    [2.5, 0.5, 1.5]
    """
    order = np.argsort(scores, kind="stable")
    ordered, moved = scores[order], np.empty_like(scores)
    moved[order] = np.maximum.accumulate(ordered + step * (ordered - np.sort(fewer)))
    return moved


def draw_rows(count: int, seed: int, *, width: int = 1) -> Labels:
    """Return the numbers of at most `MAX_SCORES / width` of this many rows, ascending, drawn at random."""
    most = MAX_SCORES // width
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def _extrapolate_probabilities(values: Matrix, fewer: Matrix, step: float) -> Matrix:
    """Do the same for probabilities (n,), by their log odds."""
    safe, safe_fewer = (np.clip(one, CERTAIN, 1 - CERTAIN) for one in (values, fewer))
    odds = extrapolate(np.log(safe / (1 - safe)), np.log(safe_fewer / (1 - safe_fewer)), step)
    moved: Matrix = 1 / (1 + np.exp(-odds))
    return moved


# --- classes


class LimitGroup(NamedTuple):
    """Classes that share a limit, and the scores that set it, (n,)."""

    classes: Labels
    scores: Matrix


@dataclass(frozen=True)
class ClassSets:
    """Sets of classes. The most probable class is in every set.

    Attributes:
        scores: 1 - probability of the true class of held-out images, (n,).
        labels: their true classes, (n,).
        count: number of classes.

    Example:
        >>> answers = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.3, 0.7]] * 3)
        >>> sets = ClassSets.fit(answers, np.array([0, 1, 1, 1] * 3))
        >>> limits = sets.find_limits(0.8)
        >>> limits.round(2).tolist()
        [0.4, 0.4]
        >>> sets.select(np.array([[0.65, 0.35], [0.55, 0.45]]), limits).tolist()
        [[True, False], [True, True]]
    """

    scores: Matrix
    labels: Labels
    count: int

    @classmethod
    def fit(
        cls,
        answers: Floats,
        labels: NDArray[Any],
        *,
        fewer: Floats | None = None,
        step: float = 0.0,
        seed: int = 0,
    ) -> ClassSets:
        """Take the scores of held-out images.

        Args:
            answers: probabilities, (n, classes).
            labels: class numbers, (n,).
            fewer, step: answers to the same images by heads of fewer images, see `extrapolate`.
            seed: random seed of the sample, see `draw_rows`.
        """
        every, rows = np.arange(len(labels)), draw_rows(len(labels), seed)
        scores = 1 - answers[every, labels].astype(np.float64)
        if fewer is not None:
            scores = _extrapolate_probabilities(scores, 1 - fewer[every, labels].astype(np.float64), step)
        return cls(scores[rows], labels[rows].astype(np.int64), answers.shape[1])

    def list_groups(self, coverage: float) -> list[LimitGroup]:
        """Return the classes that have a limit of their own, and last those that share one.

        The latter share the limit of all of them together, or of all images if they are few.
        """
        least = CLASS_FACTOR * count_least(coverage)
        sizes = np.bincount(self.labels, minlength=self.count)
        large, small = np.flatnonzero(sizes >= least), np.flatnonzero(sizes < least)
        groups = [LimitGroup(np.array([one]), self.scores[self.labels == one]) for one in large.tolist()]
        if len(small):
            is_small = np.isin(self.labels, small)
            scores = self.scores[is_small] if is_small.sum() >= least else self.scores
            groups.append(LimitGroup(small, scores))
        return groups

    def list_ranks(self, coverage: float) -> list[tuple[Labels, float, int]]:
        """Return the classes of each group, the position of its limit among sorted scores, and their number.

        A limit for all classes is one of the scores; of several limits each may lie between two.
        """
        groups = self.list_groups(coverage)
        if len(groups) == 1:
            count = len(groups[0].scores)
            return [(groups[0].classes, find_rank(count, coverage), count)]
        return [(classes, (len(scores) + 1) * coverage, len(scores)) for classes, scores in groups]

    def find_limits(self, coverage: float) -> Matrix:
        """Return the least probability with which each class is in a set, (classes,); 0 if always."""
        groups = self.list_groups(coverage)
        limits = np.zeros(self.count)
        quantile = conformal_quantile if len(groups) == 1 else interpolate_quantile
        for classes, scores in groups:
            limits[classes] = max(0.0, 1 - quantile(scores, coverage))
        return limits

    def are_within(self, answers: Floats, limits: Matrix) -> Bools:
        """Return which classes reach their limits, (m, classes), for probabilities (m, classes)."""
        return answers >= limits - TIE

    def select(self, answers: Floats, limits: Matrix) -> Bools:
        """Return which classes are in each set, (m, classes): those within their limits and the top one."""
        members = self.are_within(answers, limits)
        members[np.arange(len(answers)), answers.argmax(1)] = True
        return members

    def describe(self, coverage: float, names: Sequence[str]) -> str:
        """Return a sentence on which classes have a limit of their own."""
        groups = self.list_groups(coverage)
        too_few = _describe_lack(len(groups[-1].scores), coverage, "every class")
        if len(groups) == 1:
            return too_few or "All classes share one limit."
        shared = groups[-1].classes
        if len(shared) == 1 and len(groups) == self.count:
            return "Each class has a limit of its own."
        least = CLASS_FACTOR * count_least(coverage)
        text = ", ".join(names[one] for one in shared[:MAX_NAMES])
        text += f" and {len(shared) - MAX_NAMES} more" if len(shared) > MAX_NAMES else ""
        return (
            f"Each class with {least} held-out images or more has a limit of its own; the others share one: "
            f"{text}. {too_few}".strip()
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the content as arrays by name."""
        count = np.array(self.count)
        return {"class_scores": self.scores, "classes": self.labels.astype(np.int32), "class_count": count}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> ClassSets:
        """Return what `to_arrays` was called on."""
        labels = arrays["classes"].astype(np.int64)
        return cls(arrays["class_scores"], labels, int(arrays["class_count"]))


def _describe_lack(scores: int, coverage: float, everything: str) -> str:
    least = count_least(coverage)
    if scores >= least:
        return ""
    return (
        f"A coverage of {100 * coverage:g} % takes {least} held-out images, and there are {scores}: "
        f"every set holds {everything}."
    )


# --- labels


@dataclass(frozen=True)
class LabelSets:
    """Sets of labels: those whose probability reaches the limit.

    Attributes:
        probabilities: of the labels that held-out images have, ascending, (k,).
        shares: what each is of its image's labels: 1 for an only label, (k,).
        images: number of held-out images that have a label.
        count: number of labels.

    Example:
        >>> sets = LabelSets.fit(np.array([[0.9, 0.2], [0.8, 0.4]] * 10), np.array([[1, 0], [1, 1]] * 10))
        >>> sets.find_limits(0.7).tolist(), sets.find_limits(0.9).tolist()
        ([0.8, 0.8], [0.4, 0.4])
    """

    probabilities: Matrix
    shares: Matrix
    images: int
    count: int

    @classmethod
    def fit(
        cls,
        answers: Floats,
        targets: NDArray[Any],
        *,
        fewer: Floats | None = None,
        step: float = 0.0,
        seed: int = 0,
    ) -> LabelSets:
        """Take the probabilities of the labels of held-out images.

        Args:
            answers: probabilities, (n, labels).
            targets: 0 or 1, (n, labels). Images without a label do not count.
            fewer, step: answers to the same images by heads of fewer images, see `extrapolate`.
            seed: random seed of the sample, see `draw_rows`.
        """
        has = targets > 0
        image, label = np.nonzero(has)
        values = answers[image, label].astype(np.float64)
        if fewer is not None:
            of_fewer = fewer[image, label].astype(np.float64)
            values = _extrapolate_probabilities(values, of_fewer, LABEL_CAUTION * step)
        drawn = draw_rows(len(has), seed)
        is_drawn = np.isin(image, drawn)
        order = np.argsort(values[is_drawn], kind="stable")
        shares = 1 / has.sum(1)[image[is_drawn]]
        images = int(has[drawn].any(1).sum())
        return cls(values[is_drawn][order], shares[order], images, answers.shape[1])

    def find_limits(self, coverage: float) -> Matrix:
        """Return the least probability with which each label is in a set, the same for all, (labels,).

        It is the highest one with which the mean share of labels that are missed, and 1 for an image more, is
        at most 1 - coverage.
        """
        budget = round((self.images + 1) * (1 - coverage) - 1, 9)
        beyond = np.flatnonzero(np.round(self.shares.cumsum(), 9) > budget)
        limit = self.probabilities[beyond[0]] if budget >= 0 and len(beyond) else 0.0
        return np.full(self.count, limit)

    def select(self, answers: Floats, limits: Matrix) -> Bools:
        """Return which labels are in each set, (m, labels)."""
        return answers >= limits - TIE

    def describe(self, coverage: float, names: Sequence[str]) -> str:
        """Return a sentence on the limit."""
        lack = _describe_lack(self.images, coverage, "every label")
        return lack or f"All {len(names)} labels share one limit."

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Return the content as arrays by name."""
        sizes = np.array([self.images, self.count])
        return {"label_probabilities": self.probabilities, "label_shares": self.shares, "label_sizes": sizes}

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[Any]]) -> LabelSets:
        """Return what `to_arrays` was called on."""
        images, count = (int(size) for size in arrays["label_sizes"])
        return cls(arrays["label_probabilities"], arrays["label_shares"], images, count)
