"""Line charts as plain geometry, for a template to draw as SVG.

Positions are in the units of the drawing that `PLOT` measures, y downwards. Colours and fonts are the
style sheet's business, so the drawing follows the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["PLOT", "Chart", "Label", "Line", "line_chart", "ticks"]

LETTER = 7.5  # about the width of a letter at the size the labels are set in


@dataclass(frozen=True)
class Plot:
    """Size of the whole drawing and the edges of the lines' area in it."""

    width: int = 520
    height: int = 300
    left: int = 54
    right: int = 506
    top: int = 30
    bottom: int = 252


PLOT = Plot()


@dataclass(frozen=True)
class Label:
    """A text at one place along an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: an SVG path, broken where a value is not finite, and a dot a finite value."""

    name: str
    path: str
    dots: list[tuple[float, float]]


@dataclass(frozen=True)
class Chart:
    """What there is to draw; `boundaries` are the places where a new phase begins."""

    title: str
    description: str
    lines: list[Line]
    x_ticks: list[Label]
    y_ticks: list[Label]
    phases: list[Label]
    boundaries: list[float]


@dataclass(frozen=True)
class _Axis:
    """An affine map from the values low..high to the places start..end."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def line_chart(
    title: str, epochs: Sequence[int], *, series: Mapping[str, Sequence[float]], phases: Sequence[str]
) -> Chart:
    """Lay out one or more series over the epochs.

    Args:
        title: what the chart shows.
        epochs: the numbers along the x axis, shape (n,), strictly increasing, n >= 2.
        series: name -> values, shape (n,); values that are not finite leave a gap.
        phases: the name of each epoch's phase, shape (n,).

    Returns:
        The chart, with a description in words for readers who cannot see it.

    >>> line_chart("Loss", [0, 1], series={"train": [1.0, 0.5]}, phases=["a", "a"]).description
    'train: 1 at epoch 0, 0.5 at epoch 1, lowest 0.5, highest 1.'
    """
    finite = [value for values in series.values() for value in values if math.isfinite(value)] or [0.0, 1.0]
    y_values = ticks(min(finite), max(finite))
    x_axis = _Axis(epochs[0], epochs[-1], PLOT.left, PLOT.right)
    y_axis = _Axis(y_values[0], y_values[-1], PLOT.bottom, PLOT.top)
    boundaries, names = _phases(epochs, phases, x_axis=x_axis)
    whole = [value for value in ticks(epochs[0], epochs[-1], most=8) if value == int(value)]
    return Chart(
        title=title,
        description=" ".join(_in_words(name, epochs, values) for name, values in series.items()),
        lines=[_line(name, epochs, values, x_axis=x_axis, y_axis=y_axis) for name, values in series.items()],
        x_ticks=[Label(x_axis.place(v), f"{v:.0f}") for v in whole if epochs[0] <= v <= epochs[-1]],
        y_ticks=[Label(y_axis.place(value), f"{value:g}") for value in y_values],
        phases=names,
        boundaries=boundaries,
    )


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart that enclose low..high.

    Args:
        low, high: finite, low <= high; equal ends are widened a little.
        most: about how many. Defaults to 6.

    >>> ticks(0.13, 0.58)
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{place * step:.12g}") for place in range(first, last + 1)]


def _line(name: str, epochs: Sequence[int], values: Sequence[float], *, x_axis: _Axis, y_axis: _Axis) -> Line:
    path, dots, pen = "", [], "M"
    for epoch, value in zip(epochs, values, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = x_axis.place(epoch), y_axis.place(value)
        path, pen = f"{path}{pen}{x:g} {y:g}", "L"
        dots.append((x, y))
    return Line(name, path, dots)


def _phases(
    epochs: Sequence[int], phases: Sequence[str], *, x_axis: _Axis
) -> tuple[list[float], list[Label]]:
    """Where phases begin, half-way between two epochs, and their names where there is room."""
    starts = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    boundaries = [x_axis.place((epochs[i - 1] + epochs[i]) / 2) for i in starts]
    if not starts:
        return [], []
    edges = [float(PLOT.left), *boundaries, float(PLOT.right)]
    names = [phases[0], *(phases[i] for i in starts)]
    labels = [
        Label((left + right) / 2, name)
        for left, right, name in zip(edges[:-1], edges[1:], names, strict=True)
        if len(name) * LETTER <= right - left
    ]
    return boundaries, labels


def _in_words(name: str, epochs: Sequence[int], values: Sequence[float]) -> str:
    known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
    if not known:
        return f"{name}: not measured."
    (first, start), (last, end) = known[0], known[-1]
    low, high = min(value for _, value in known), max(value for _, value in known)
    return (
        f"{name}: {start:.4g} at epoch {first}, {end:.4g} at epoch {last}, "
        f"lowest {low:.4g}, highest {high:.4g}."
    )
