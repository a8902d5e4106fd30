"""Charts as plain geometry, for a template to draw as SVG.

Positions are in the units of the drawing that its `Plot` measures, y downwards. Colours and fonts are the
style sheet's business, so the drawing follows the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["SQUARE", "WIDE", "Axis", "Chart", "Label", "Line", "Plot", "axis_labels", "line_chart", "ticks"]

MOST_DOTS = 40
LETTER = 7.5  # about the width of a letter at the size the labels are set in


@dataclass(frozen=True)
class Plot:
    """Size of a whole drawing and the edges of the area in it where values are drawn."""

    width: int
    height: int
    left: int
    right: int
    top: int
    bottom: int


WIDE = Plot(width=520, height=300, left=54, right=506, top=30, bottom=252)
SQUARE = Plot(width=520, height=500, left=66, right=506, top=14, bottom=450)


@dataclass(frozen=True)
class Label:
    """A text at one place along an axis."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """One series: its name, its role for the style sheet, an SVG path, broken where a value is not finite,
    and the places to dot."""

    name: str
    role: str
    path: str
    dots: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """What there is to draw.

    Attributes:
        title, description: what it shows, and the same in words for readers who cannot see it.
        plot: the drawing's measures.
        x_name, y_name: what the axes measure; "" for what the title says already.
        lines: one a series.
        x_ticks, y_ticks, phases: texts along the axes and above the plot.
        boundaries: places along x where a new phase begins.
        points: places of single values.
        bars: rectangles (x, y, width, height).
    """

    title: str
    description: str
    plot: Plot
    x_name: str
    y_name: str
    lines: list[Line]
    x_ticks: list[Label]
    y_ticks: list[Label]
    phases: list[Label] = field(default_factory=list)
    boundaries: list[float] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)
    bars: list[tuple[float, float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Axis:
    """An affine map from the values low..high to the places start..end."""

    low: float
    high: float
    start: float
    end: float

    def place(self, value: float) -> float:
        """Where a value is drawn, to a tenth of a unit.

        >>> Axis(0, 10, 50, 150).place(2)
        70.0
        """
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def axis_labels(axis: Axis, values: Sequence[float]) -> list[Label]:
    """A label at each value, as short as can be.

    >>> axis_labels(Axis(0, 1, 0, 100), [0.0, 0.5])
    [Label(at=0.0, text='0'), Label(at=50.0, text='0.5')]
    """
    return [Label(axis.place(value), f"{value:g}") for value in values]


def line_chart(
    title: str, epochs: Sequence[int], *, series: Mapping[str, Sequence[float]], phases: Sequence[str]
) -> Chart:
    """Lay out one or more series over the epochs, and describe them in words for readers who cannot see them.

    Args:
        epochs: the numbers along the x axis, shape (n,), strictly increasing, n >= 2.
        series: "training" or "validation" -> values, shape (n,); values that are not finite leave a gap.
        phases: the name of each epoch's phase, shape (n,).

    >>> line_chart("Loss", [0, 1], series={"train": [1.0, 0.5]}, phases=["a", "a"]).description
    'train: 1 at epoch 0, 0.5 at epoch 1, lowest 0.5, highest 1.'
    """
    finite = [value for values in series.values() for value in values if math.isfinite(value)] or [0.0, 1.0]
    y_values = ticks(min(finite), max(finite))
    x_axis = Axis(epochs[0], epochs[-1], WIDE.left, WIDE.right)
    y_axis = Axis(y_values[0], y_values[-1], WIDE.bottom, WIDE.top)
    boundaries, names = _phases(epochs, phases, x_axis=x_axis)
    whole = [value for value in ticks(epochs[0], epochs[-1], most=8) if value == int(value)]
    return Chart(
        title=title,
        plot=WIDE,
        x_name="epoch",
        y_name="",
        description=" ".join(_in_words(name, epochs, values) for name, values in series.items()),
        lines=[_line(name, epochs, values, x_axis=x_axis, y_axis=y_axis) for name, values in series.items()],
        x_ticks=axis_labels(x_axis, [value for value in whole if epochs[0] <= value <= epochs[-1]]),
        y_ticks=axis_labels(y_axis, y_values),
        phases=names,
        boundaries=boundaries,
    )


def ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Round numbers 1, 2 or 5 times a power of ten apart, about `most`, that enclose low..high.

    The ends are finite, low <= high; equal ones are widened a little.

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


def _line(name: str, epochs: Sequence[int], values: Sequence[float], *, x_axis: Axis, y_axis: Axis) -> Line:
    path, dots, pen = "", [], "M"
    for epoch, value in zip(epochs, values, strict=True):
        if not math.isfinite(value):
            pen = "M"
            continue
        x, y = x_axis.place(epoch), y_axis.place(value)
        path, pen = f"{path}{pen}{x:g} {y:g}", "L"
        dots.append((x, y))
    return Line(name, name, path, dots if name == "validation" and len(dots) <= MOST_DOTS else [])


def _phases(epochs: Sequence[int], phases: Sequence[str], *, x_axis: Axis) -> tuple[list[float], list[Label]]:
    """Where phases begin, half-way between two epochs, and their names where there is room."""
    starts = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    boundaries = [x_axis.place((epochs[i - 1] + epochs[i]) / 2) for i in starts]
    if not starts:
        return [], []
    edges = [float(WIDE.left), *boundaries, float(WIDE.right)]
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
