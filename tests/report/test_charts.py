"""The geometry of line charts: they span their plot, break at missing values, and stay readable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regraft.report.charts import WIDE, choose_ticks, make_line_chart


def test_a_chart_spans_its_plot() -> None:
    chart = make_line_chart(
        "Loss", [0, 5, 10], series={"training": [1.0, math.nan, 0.0]}, phases=["x", "x", "x"]
    )
    assert chart.lines[0].path == f"M{WIDE.left} {WIDE.top}M{WIDE.right} {WIDE.bottom}"
    assert chart.boundaries == chart.phases == []


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.131, 0.132), (-3, 7), (5, 5), (0, 0), (1e-9, 1e9), (2.3, 2.3000001)]
)
def test_ticks_are_round_few_and_enclose(low: float, high: float) -> None:
    values = choose_ticks(low, high)
    assert values[0] <= low <= high <= values[-1]
    assert 2 <= len(values) <= 8
    steps = np.diff(values)
    np.testing.assert_allclose(steps, steps[0])


def test_points_are_marked_only_where_there_is_room() -> None:
    short = make_line_chart("Loss", [0, 1], series={"validation": [1.0, 2.0]}, phases=["x", "x"])
    assert short.lines[0].dots == [(WIDE.left, WIDE.bottom), (WIDE.right, WIDE.top)]
    long = make_line_chart("Loss", range(60), series={"validation": [1.0] * 60}, phases=["x"] * 60)
    assert long.lines[0].dots == []


def test_names_of_phases_stand_where_they_fit() -> None:
    phases = ["head"] * 9 + ["a name much too long"]
    chart = make_line_chart("Loss", range(10), series={"training": [1.0] * 10}, phases=phases)
    assert [label.text for label in chart.phases] == ["head"]
    assert len(chart.boundaries) == 1
