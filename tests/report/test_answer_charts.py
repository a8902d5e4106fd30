"""Charts of answers against the truth, compared with positions computed by hand."""

from __future__ import annotations

import re

import numpy as np
import pytest

from regraft.metrics.ranking import compute_curves
from regraft.report.charts import (
    SQUARE,
    WIDE,
    make_error_chart,
    make_precision_recall_chart,
    make_roc_chart,
    make_scatter_chart,
)


def corners(path: str) -> list[tuple[float, float]]:
    return [tuple(map(float, corner.split())) for corner in re.split("[ML]", path)[1:]]


def test_the_roc_curve_runs_from_corner_to_corner() -> None:
    curves = compute_curves([0, 0, 1, 1], [0.1, 0.6, 0.4, 0.8])
    path = corners(make_roc_chart(curves.false_positive, curves.recall, area=0.75).lines[0].path)
    middle = ((SQUARE.left + SQUARE.right) / 2, (SQUARE.top + SQUARE.bottom) / 2)
    assert path[0] == (SQUARE.left, SQUARE.bottom)
    assert path[-1] == (SQUARE.right, SQUARE.top)
    assert middle in path  # half of the positives found, half of the others called so
    ups = np.diff([y for _, y in path])
    assert (ups <= 0).all()


def test_random_answers_have_the_share_as_precision_at_every_recall() -> None:
    chart = make_precision_recall_chart(np.array([0.5, 1.0]), np.array([1.0, 0.25]), share=0.25)
    level = SQUARE.bottom - 0.25 * (SQUARE.bottom - SQUARE.top)
    assert corners(chart.lines[1].path) == [(SQUARE.left, level), (SQUARE.right, level)]


def test_a_curve_of_many_thresholds_is_thinned_and_keeps_its_ends() -> None:
    rate = np.linspace(0, 1, 5000)
    path = corners(make_roc_chart(rate, rate, area=0.5).lines[0].path)
    assert len(path) == 300
    assert (path[0], path[-1]) == ((SQUARE.left, SQUARE.bottom), (SQUARE.right, SQUARE.top))


def test_exact_answers_lie_on_the_diagonal() -> None:
    truth = np.array([3.0, 5.5, 17.0])
    chart = make_scatter_chart("Weight", truth, truth)
    start, end = corners(chart.lines[0].path)
    for x, y in chart.points:
        share = (x - start[0]) / (end[0] - start[0])
        assert y == pytest.approx(start[1] + share * (end[1] - start[1]), abs=0.2)
    assert [tick.text for tick in chart.x_ticks] == [tick.text for tick in chart.y_ticks]


def test_of_very_many_points_some_are_drawn() -> None:
    values = np.arange(30_000.0)
    points = make_scatter_chart("Weight", values, values).points
    assert len(points) == 1000
    assert make_scatter_chart("Weight", [2.0], [2.0]).points  # one value alone is no division by zero


def test_bars_count_every_error_once() -> None:
    errors = np.random.default_rng(0).normal(size=500) * 3 + 1
    chart = make_error_chart("Errors", errors)
    highest = max(float(tick.text) for tick in chart.y_ticks)
    counted = [bar[3] / (WIDE.bottom - WIDE.top) * highest for bar in chart.bars]
    assert sum(counted) == pytest.approx(500, rel=0.01)
    assert all(WIDE.left <= bar[0] and bar[0] + bar[2] <= WIDE.right + 0.1 for bar in chart.bars)


def test_no_error_at_all_is_one_bar_in_the_middle() -> None:
    chart = make_error_chart("Errors", np.zeros(7))
    assert len(chart.bars) == 1
    x, _, width, _ = chart.bars[0]
    assert x < (WIDE.left + WIDE.right) / 2 < x + width
