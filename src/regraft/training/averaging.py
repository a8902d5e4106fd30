"""Weights that no single epoch has: the mean of a phase's last epochs, and points on the way to it.

The steps of the last epochs move around a minimum, and their mean lies nearer to it than any of them
(Izmailov et al., Averaging Weights Leads to Wider Optima and Better Generalization, 2018). A point between
the weights before the phase and after it keeps some of what the network knew before (Wortsman et al., Robust
Fine-tuning of Zero-shot Models, 2022). Batch normalisation stays in inference mode, so no statistics have to
be computed again for new weights.

The mean is the choice unless the best epoch is better by more than chance, since the best of several epochs
looks better than it is on the images that chose it. Points on the way have to beat both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.metrics.intervals import exceeds_standard_error

__all__ = [
    "EpochMean",
    "Mixture",
    "choose_first_epoch",
    "exceeds_chance",
    "interpolate",
    "list_points_between",
]

SHARES = (0.5, 0.75)  # of the way from the weights before the phase to those after it

Values = list[NDArray[Any]]


@dataclass(frozen=True)
class Mixture:
    """How the weights of a model were made from those of epochs.

    Attributes:
        first, last: the epochs of the mean; both are the best epoch where nothing was averaged.
        share: of the way from the weights before the phase to that mean, above 0 and up to 1.

    Example:
        >>> print(Mixture(4, 6)), print(Mixture(4, 6, 0.5)), print(Mixture(5, 5, 0.5))
        the mean of epochs 4 to 6
        0.5 of the way to the mean of epochs 4 to 6
        0.5 of the way to epoch 5
        (None, None, None)
    """

    first: int
    last: int
    share: float = 1.0

    def __str__(self) -> str:
        target = f"epoch {self.last}"
        if self.first < self.last:
            target = f"the mean of epochs {self.first} to {self.last}"
        return target if self.share == 1 else f"{self.share:g} of the way to {target}"


@dataclass
class EpochMean:
    """The running mean of the weights at the ends of a phase's last epochs.

    Attributes:
        values: the mean; [] before there is one.
        first, count: the first epoch in it, and how many there are.

    Example:
        >>> mean = EpochMean()
        >>> for epoch in (1, 2, 3, 4):
        ...     mean.add([np.full(2, float(epoch), np.float32)], epoch, since=3)
        >>> mean.first, mean.count, mean.values[0].tolist()
        (3, 2, [3.5, 3.5])
    """

    values: Values = field(default_factory=list)
    first: int = 0
    count: int = 0

    def add(self, values: Sequence[NDArray[Any]], epoch: int, *, since: int) -> None:
        """Take the weights at the end of an epoch; those before the epoch `since` do not count."""
        if epoch < since:
            return
        if not self.count:
            self.first, self.values = epoch, list(values)
        self.count += 1
        self.values = [
            value
            if np.issubdtype(value.dtype, np.integer)
            else interpolate([mean], [value], 1 / self.count)[0]
            for mean, value in zip(self.values, values, strict=True)
        ]

    @property
    def mixture(self) -> Mixture | None:
        """What the mean is of; None for fewer than two epochs."""
        return Mixture(self.first, self.first + self.count - 1) if self.count > 1 else None


def choose_first_epoch(planned: int) -> int:
    """Return the epoch from which a phase averages weights: the first of the second half.

    >>> choose_first_epoch(4), choose_first_epoch(5)
    (3, 3)
    """
    return planned // 2 + 1


def list_points_between(before: Values, after: Values, mixture: Mixture) -> Iterator[tuple[Mixture, Values]]:
    """Yield points on the way from the weights before a phase to those after it, and how they are made."""
    for share in SHARES:
        yield Mixture(mixture.first, mixture.last, share), interpolate(before, after, share)


def interpolate(before: Values, after: Values, share: float) -> Values:
    """Return the weights at this share of the way from one list of weights to another.

    >>> interpolate([np.zeros(2)], [np.ones(2)], 0.25)[0].tolist()
    [0.25, 0.25]
    """
    pairs = zip(before, after, strict=True)
    return [old + (share * (new - old)).astype(old.dtype) for old, new in pairs]


def exceeds_chance(losses: NDArray[np.floating[Any]], others: NDArray[np.floating[Any]]) -> bool:
    """Tell whether others are lower than losses of the same images, (n,), by more than a standard error.

    >>> exceeds_chance(np.array([0.5, 0.6, 0.7]), np.array([0.4, 0.5, 0.6]))
    True
    >>> exceeds_chance(np.array([0.5, 0.6, 0.7]), np.array([0.9, 0.2, 0.6]))
    False
    """
    return exceeds_standard_error(np.asarray(losses, np.float64) - others, ddof=1)
