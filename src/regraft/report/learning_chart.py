"""The chart that says whether more images would help: measured scores, and the power law with its band."""

from __future__ import annotations

import math

import numpy as np

from regraft.metrics.learning_curve import LearningCurve
from regraft.report.charts import WIDE, Axis, Chart, Label, Line, choose_ticks, label_axis

__all__ = ["make_learning_chart"]

TICK_MARGIN = 24  # for half of the last number below the axis


def make_learning_chart(curve: LearningCurve) -> Chart:
    """Draw the measured scores over the number of images, on a logarithmic axis, and the forecast.

    >>> from regraft.metrics.intervals import Interval
    >>> forecasts = {10: Interval(0.5, 0.4, 0.6), 100: Interval(0.7, 0.6, 0.8)}
    >>> gain = Interval(0.1, 0.0, 0.2)
    >>> make_learning_chart(LearningCurve("top-1", "", 50, (10,), (0.5,), forecasts, gain, 0.5)).lines[0].role
    'band'
    """
    unit = 1.0 if curve.score == "R2" else 100.0
    sizes = list(curve.forecasts)
    forecasts = [curve.forecasts[size] for size in sizes]
    ends = [unit * value for item in forecasts for value in (item.low, item.high)]
    y_values = choose_ticks(min(*ends, *(unit * score for score in curve.scores)), max(ends))
    x_axis = Axis(math.log(sizes[0]), math.log(sizes[-1]), WIDE.left, WIDE.right - TICK_MARGIN)
    y_axis = Axis(y_values[0], y_values[-1], WIDE.bottom, WIDE.top)

    def locate(size: float, score: float) -> tuple[float, float]:
        return x_axis.locate(math.log(size)), y_axis.locate(unit * score)

    pairs = list(zip(sizes, forecasts, strict=True))
    upper, lower = ([locate(size, getattr(item, end)) for size, item in pairs] for end in ("high", "low"))
    middle = [locate(size, item.value) for size, item in pairs]
    measured = [locate(*point) for point in zip(curve.sizes, curve.scores, strict=True)]
    ticks = [*curve.sizes[:-1], curve.images, 2 * curve.images, 4 * curve.images]
    first, last = curve.forecasts[sizes[0]], curve.forecasts[sizes[-1]]
    suffix = "" if curve.score == "R2" else ", %"
    return Chart(
        title=f"{curve.score}{suffix}, by the number of training images",
        description=f"Measured: {_describe(curve.sizes, [unit * score for score in curve.scores])}. Forecast "
        f"from {unit * first.value:.4g} at {sizes[0]:,} images to {unit * last.value:.4g} at {sizes[-1]:,}, "
        f"between {unit * last.low:.4g} and {unit * last.high:.4g}.",
        plot=WIDE,
        x_name="training images",
        y_name="",
        lines=[
            Line("90 % band", "band", _draw([*upper, *reversed(lower)]) + "Z"),
            Line("power law", "reference", _draw(middle)),
            Line("measured on held-out images", "validation", _draw(measured), measured),
        ],
        x_ticks=[Label(x_axis.locate(math.log(size)), f"{size:,}") for size in ticks],
        y_ticks=label_axis(y_axis, y_values),
        boundaries=[x_axis.locate(math.log(curve.images))],
        phases=[Label(x_axis.locate(math.log(curve.images)), "now")],
    )


def _draw(points: list[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:g} {y:g}" for x, y in points)


def _describe(sizes: tuple[int, ...], scores: list[float]) -> str:
    texts = [
        f"{score:.4g} at {size:,}" for size, score in zip(sizes, np.asarray(scores).tolist(), strict=True)
    ]
    return ", ".join(texts)
