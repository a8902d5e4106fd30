"""The chart of a learning curve lies within its drawing, and the report says what it shows."""

import re
from dataclasses import replace

from regraft.metrics.intervals import Interval
from regraft.metrics.learning_curve import LearningCurve, OutputGain
from regraft.report.charts import WIDE
from regraft.report.content import Report
from regraft.report.learning_chart import make_learning_chart
from regraft.report.render import render

CURVE = LearningCurve(
    "top-1",
    "logistic regression",
    1000,
    (80, 160, 400, 800),
    (0.66, 0.73, 0.80, 0.83),
    {
        size: Interval(score, score - 0.02, score + 0.02)
        for size, score in zip(
            (80, 160, 400, 800, 1000, 2000, 4000), (0.66, 0.74, 0.8, 0.83, 0.84, 0.86, 0.88), strict=True
        )
    },
    Interval(0.02, 0.01, 0.03),
    0.5,
    (OutputGain(1, 0.041),),
)
REPORT = Report(
    title="pets", created="2030-01-01", command="regraft train pets", task="binary", summary=[],
    decision="Kept.", outputs=["cat", "<dog>"], counts={}, parts=[], history=[], score_name="top-1",
    images_used=7, refused=[], notes=[], seconds={}, usage_python="", usage_shell="",
)  # fmt: skip


def test_everything_is_drawn_within_the_plot():
    chart = make_learning_chart(CURVE)
    numbers = [float(text) for line in chart.lines for text in re.findall(r"-?[\d.]+", line.path)]
    assert all(WIDE.left <= x <= WIDE.right for x in numbers[::2])
    assert all(WIDE.top <= y <= WIDE.bottom for y in numbers[1::2])
    x, y = zip(*chart.lines[-1].dots, strict=True)
    assert list(x) == sorted(x)
    assert list(y) == sorted(y, reverse=True)  # y points downwards
    assert chart.x_ticks[-1].text == "4,000"
    assert "66 at 80, 73 at 160" in chart.description


def test_doublings_are_equally_far_apart():
    chart = make_learning_chart(CURVE)
    position = {label.text: label.position for label in chart.x_ticks}
    assert abs((position["160"] - position["80"]) - (position["4,000"] - position["2,000"])) < 0.3


def test_the_report_says_what_more_images_would_bring():
    page = render(replace(REPORT, learning_curve=CURVE))
    assert "Would more images help?" in page
    assert "about +2.0 points of top-1 (1.0 to 3.0)" in page
    assert "<bdi>&lt;dog&gt;</bdi>: about +4.1 points of recall" in page
    assert "Would more images help?" not in render(REPORT)
