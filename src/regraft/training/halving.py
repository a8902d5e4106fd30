"""Successive halving: many candidates for a short time, the better ones for longer.

Jamieson and Talwalkar: Non-stochastic best arm identification and hyperparameter optimization, AISTATS 2016.
Here every attempt begins anew, with a schedule of rates as long as itself, so that each is a finished model
that can be made again; with three times the epochs at each rung that costs half as much again as going on
would. Every rung has the same share of the time, and what the ones before it left. What a candidate took
before says what it will take next, and whether that still fits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

__all__ = ["halve", "rungs"]

FACTOR = 3  # times the epochs at the next rung, for one in so many candidates

Candidate = TypeVar("Candidate")


def rungs(most: int, fewest: int = 1) -> list[int]:
    """Epochs at each rung, the last one with the most, none with less than the fewest.

    Where a third of the most says nothing yet, but half of it does, the first rung has the fewest.

    >>> rungs(9), rungs(6), rungs(9, fewest=2), rungs(9, fewest=4), rungs(9, fewest=5)
    ([1, 3, 9], [2, 6], [3, 9], [4, 9], [9])
    """
    found = [most]
    while found[0] // FACTOR >= fewest:
        found.insert(0, found[0] // FACTOR)
    return [fewest, most] if len(found) == 1 and 2 * fewest <= most else found


def halve(
    candidates: Sequence[Candidate],
    attempt: Callable[[Candidate, int], float],
    *,
    most: int,
    fewest: int = 1,
    budget: float,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Try candidates with few epochs, and the best third of them with three times as many, up to `most`.

    Args:
        candidates: in the order in which they are tried, should there not be time for all.
        attempt: (candidate, epochs) -> the loss it ends with; infinite where it came to nothing; NaN to stop
            all of this.
        most: epochs at the last rung.
        fewest: epochs that say something; from 1.
        budget: seconds; nothing begins that would probably not end within a rung's share of them.
        now: a clock, in seconds.

    Example:
        >>> tried = []
        >>> halve([3, 1, 2], lambda x, epochs: tried.append((x, epochs)) or x, most=3, budget=60)
        >>> tried
        [(3, 1), (1, 1), (2, 1), (1, 3)]
    """
    begun, steps, alive = now(), rungs(most, fewest), list(candidates)
    pace: dict[int, float] = {}  # seconds an epoch, by place in `candidates`
    places = list(range(len(alive)))
    for number, epochs in enumerate(steps, 1):
        share_ends = begun + budget * number / len(steps)
        losses: dict[int, float] = {}
        for place in places:
            start = now()
            if start >= share_ends or start + pace.get(place, 0.0) * epochs > share_ends:
                continue
            loss = attempt(alive[place], epochs)
            if math.isnan(loss):
                return
            losses[place], pace[place] = loss, (now() - start) / epochs
        finite = [place for place in losses if math.isfinite(losses[place])]
        places = sorted(finite, key=losses.__getitem__)[: math.ceil(len(losses) / FACTOR)]
