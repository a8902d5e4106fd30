"""Successive halving: which candidates are tried for how long, and what a short budget omits."""

from __future__ import annotations

import math

from regraft.training.tuning import halve, list_rungs


class Attempts:
    """Attempts with given losses, on a clock of their own, by the `seconds` of an epoch."""

    def __init__(self, losses: list[float], seconds: list[float] | None = None) -> None:
        self.time = 100.0
        self.tried: list[tuple[int, int]] = []
        self._losses, self._seconds = losses, seconds or [1.0] * len(losses)

    def attempt(self, candidate: int, epochs: int) -> float:
        self.tried.append((candidate, epochs))
        self.time += self._seconds[candidate] * epochs
        return self._losses[candidate]

    def run(self, most: int, budget: float) -> list[tuple[int, int]]:
        halve(range(len(self._losses)), self.attempt, most=most, budget=budget, now=lambda: self.time)
        return self.tried


def test_a_third_continues_with_three_times_the_epochs() -> None:
    tried = Attempts([float(number) for number in range(24)]).run(9, 1e6)
    assert [epochs for _, epochs in tried] == [1] * 24 + [3] * 8 + [9] * 3
    assert [candidate for candidate, epochs in tried if epochs == 3] == list(range(8))
    assert [candidate for candidate, epochs in tried if epochs == 9] == [0, 1, 2]


def test_the_best_of_a_rung_continue_wherever_they_stood() -> None:
    tried = Attempts([5.0, 1.0, 4.0, 0.5, 9.0, 3.0]).run(3, 1e6)
    assert tried[6:] == [(3, 3), (1, 3)]


def test_an_attempt_that_failed_does_not_continue() -> None:
    tried = Attempts([math.inf, 2.0, math.inf, math.inf]).run(3, 1e6)
    assert tried[4:] == [(1, 3)]


def test_not_a_number_stops_everything() -> None:
    assert len(Attempts([1.0, math.nan, 2.0]).run(9, 1e6)) == 2


def test_every_rung_has_its_share_of_the_time() -> None:
    tried = Attempts([1.0] * 30).run(9, 30.0)
    counts = [sum(epochs == rung for _, epochs in tried) for rung in list_rungs(9)]
    assert counts == [10, 3, 1]  # 10, 10 and 10 seconds at most, less what does not fit


def test_an_attempt_that_would_not_end_in_time_is_skipped_for_a_cheaper_one() -> None:
    tried = Attempts([1.0, 2.0, 3.0, 4.0], seconds=[10.0, 1.0, 1.0, 1.0]).run(3, 40.0)
    assert (0, 3) not in tried
    assert (1, 3) in tried


def test_an_attempt_too_short_to_say_anything_is_not_made() -> None:
    attempts = Attempts([3.0, 1.0, 2.0])
    halve(range(3), attempts.attempt, most=9, fewest=2, budget=1e6, now=lambda: attempts.time)
    assert attempts.tried == [(0, 3), (1, 3), (2, 3), (1, 9)]


def test_no_time_no_attempt() -> None:
    assert Attempts([1.0, 2.0]).run(9, 0.0) == []


def test_where_a_third_says_nothing_half_has_to_do() -> None:
    attempts = Attempts([3.0, 1.0, 2.0])
    halve(range(3), attempts.attempt, most=9, fewest=4, budget=1e6, now=lambda: attempts.time)
    assert attempts.tried == [(0, 4), (1, 4), (2, 4), (1, 9)]
