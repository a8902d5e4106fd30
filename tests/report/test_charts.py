"""The geometry of line charts: they span their plot, break where nothing is known, and are readable."""

from __future__ import annotations

import math

import numpy as np
import pytest

from regraft.report.charts import WIDE, line_chart, ticks


def test_a_chart_spans_its_plot() -> None:
    chart = line_chart("Loss", [0, 5, 10], series={"training": [1.0, math.nan, 0.0]}, phases=["x", "x", "x"])
    assert chart.lines[0].path == f"M{WIDE.left} {WIDE.top}M{WIDE.right} {WIDE.bottom}"
    assert chart.boundaries == chart.phases == []


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.131, 0.132), (-3, 7), (5, 5), (0, 0), (1e-9, 1e9), (2.3, 2.3000001)]
)
def test_ticks_are_round_few_and_enclose(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8
    steps = np.diff(found)
    np.testing.assert_allclose(steps, steps[0])


def test_a_place_is_marked_only_where_there_is_room() -> None:
    few = line_chart("Loss", [0, 1], series={"validation": [1.0, 2.0]}, phases=["x", "x"])
    assert few.lines[0].dots == [(WIDE.left, WIDE.bottom), (WIDE.right, WIDE.top)]
    many = line_chart("Loss", range(60), series={"validation": [1.0] * 60}, phases=["x"] * 60)
    assert many.lines[0].dots == []


def test_names_of_phases_stand_where_they_fit() -> None:
    phases = ["head"] * 9 + ["a name much too long"]
    chart = line_chart("Loss", range(10), series={"training": [1.0] * 10}, phases=phases)
    assert [label.text for label in chart.phases] == ["head"]
    assert len(chart.boundaries) == 1
