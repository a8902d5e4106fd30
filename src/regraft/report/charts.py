"""Charts as plain geometry, which a template draws as SVG.

There are two kinds: values over the epochs, and answers against the truth (rates at every threshold, numbers
as points, errors as bars). Positions are in the units of the drawing, whose size `Plot` holds; y points
downwards. Colours and fonts belong to the style sheet, so that a chart follows the reader's theme.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

__all__ = [
    "SQUARE",
    "WIDE",
    "Axis",
    "Chart",
    "Label",
    "Line",
    "Plot",
    "choose_ticks",
    "label_axis",
    "make_curve",
    "make_error_chart",
    "make_line_chart",
    "make_precision_recall_chart",
    "make_roc_chart",
    "make_scatter_chart",
]

Floats = npt.NDArray[np.float64]

MAX_DOTS = 40
MAX_CORNERS = 300  # of a curve: more cannot be told apart in a drawing of 440 units
MAX_POINTS = 1000
BARS = 25
LETTER = 7.5  # approximate width of a letter of the labels


# --- what a chart is made of


@dataclass(frozen=True)
class Plot:
    """The size of a drawing, and the edges of the area in which its values are drawn."""

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
    """A text at a position along an axis."""

    position: float
    text: str


@dataclass(frozen=True)
class Line:
    """A series of values.

    Attributes:
        name: its name.
        role: its class in the style sheet.
        path: an SVG path with a gap wherever a value is not finite.
        dots: points to mark.
    """

    name: str
    role: str
    path: str
    dots: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """Everything that is drawn in a chart.

    Attributes:
        title, description: what it shows, briefly, and in words for readers who cannot see it.
        plot: its size.
        x_name, y_name: what the axes measure; "" if the title says so.
        lines: one per series.
        x_ticks, y_ticks, phases: texts along the axes and above the plot.
        boundaries: positions along x where a new phase begins.
        points: positions of single values.
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
    """An affine map from values low..high to positions start..end."""

    low: float
    high: float
    start: float
    end: float

    def locate(self, value: float) -> float:
        """Return the position of a value, to a tenth of a unit.

        >>> Axis(0, 10, 50, 150).locate(2)
        70.0
        """
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.end - self.start), 1)


def choose_ticks(low: float, high: float, *, count: int = 6) -> list[float]:
    """Return about `count` numbers that enclose low..high, spaced by 1, 2 or 5 times a power of ten.

    The ends must be finite, with low <= high; a range of no width is widened a little.

    >>> choose_ticks(0.13, 0.58)
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    """
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-3):
        margin = abs(low) / 10 or 1.0
        low, high = low - margin, high + margin
    rough = (high - low) / (count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{multiple * step:.12g}") for multiple in range(first, last + 1)]


def label_axis(axis: Axis, values: Sequence[float]) -> list[Label]:
    """Return a label for each value, as short as possible.

    >>> label_axis(Axis(0, 1, 0, 100), [0.0, 0.5])
    [Label(position=0.0, text='0'), Label(position=50.0, text='0.5')]
    """
    return [Label(axis.locate(value), f"{value:g}") for value in values]


# --- values over the epochs


def make_line_chart(
    title: str, epochs: Sequence[int], *, series: Mapping[str, Sequence[float]], phases: Sequence[str]
) -> Chart:
    """Lay out one or more series over the epochs and describe them in words.

    Args:
        title: the chart's title.
        epochs: the numbers along the x axis, shape (n,), strictly increasing, n >= 2.
        series: "training" or "validation" -> values, shape (n,); a value that is not finite leaves a gap.
        phases: the name of each epoch's phase, shape (n,).

    >>> make_line_chart("Loss", [0, 1], series={"train": [1.0, 0.5]}, phases=["a", "a"]).description
    'train: 1 at epoch 0, 0.5 at epoch 1, lowest 0.5, highest 1.'
    """
    finite = [value for values in series.values() for value in values if math.isfinite(value)] or [0.0, 1.0]
    y_values = choose_ticks(min(finite), max(finite))
    x_axis = Axis(epochs[0], epochs[-1], WIDE.left, WIDE.right)
    y_axis = Axis(y_values[0], y_values[-1], WIDE.bottom, WIDE.top)
    boundaries, names = _mark_phases(epochs, phases, x_axis=x_axis)
    x_values = [
        value
        for value in choose_ticks(epochs[0], epochs[-1], count=8)
        if value == int(value) and epochs[0] <= value <= epochs[-1]
    ]
    return Chart(
        title=title,
        plot=WIDE,
        x_name="epoch",
        y_name="",
        description=" ".join(_describe_series(name, epochs, values) for name, values in series.items()),
        lines=[
            _make_line(name, epochs, values, x_axis=x_axis, y_axis=y_axis) for name, values in series.items()
        ],
        x_ticks=label_axis(x_axis, x_values),
        y_ticks=label_axis(y_axis, y_values),
        phases=names,
        boundaries=boundaries,
    )


def _make_line(
    name: str, epochs: Sequence[int], values: Sequence[float], *, x_axis: Axis, y_axis: Axis
) -> Line:
    path, dots, command = "", [], "M"
    for epoch, value in zip(epochs, values, strict=True):
        if not math.isfinite(value):
            command = "M"
            continue
        x, y = x_axis.locate(epoch), y_axis.locate(value)
        path, command = f"{path}{command}{x:g} {y:g}", "L"
        dots.append((x, y))
    return Line(name, name, path, dots if name == "validation" and len(dots) <= MAX_DOTS else [])


def _mark_phases(
    epochs: Sequence[int], phases: Sequence[str], *, x_axis: Axis
) -> tuple[list[float], list[Label]]:
    """Return where phases begin, half-way between two epochs, and the names of those with room for one."""
    starts = [i for i in range(1, len(phases)) if phases[i] != phases[i - 1]]
    boundaries = [x_axis.locate((epochs[i - 1] + epochs[i]) / 2) for i in starts]
    if not starts:
        return [], []
    edges = [float(WIDE.left), *boundaries, float(WIDE.right)]
    names = [phases[0], *(phases[i] for i in starts)]
    labels = [
        Label((start + end) / 2, name)
        for start, end, name in zip(edges[:-1], edges[1:], names, strict=True)
        if len(name) * LETTER <= end - start
    ]
    return boundaries, labels


def _describe_series(name: str, epochs: Sequence[int], values: Sequence[float]) -> str:
    measured = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if math.isfinite(value)]
    if not measured:
        return f"{name}: not measured."
    (first, start), (last, end) = measured[0], measured[-1]
    low, high = min(value for _, value in measured), max(value for _, value in measured)
    return (
        f"{name}: {start:.4g} at epoch {first}, {end:.4g} at epoch {last}, "
        f"lowest {low:.4g}, highest {high:.4g}."
    )


# --- answers against the truth


def make_roc_chart(false_positive: Floats, recall: Floats, *, area: float) -> Chart:
    """Draw the ROC curve, starting at (0, 0), and the diagonal of random answers.

    Rates are in 0..1 at falling thresholds, shape (thresholds,); `area` is the area under the curve.

    >>> make_roc_chart(np.array([0.0, 1.0]), np.array([1.0, 1.0]), area=1.0).lines[0].path
    'M66 450L66 14L506 14'
    """
    x, y = np.concatenate([[0.0], false_positive]), np.concatenate([[0.0], recall])
    return _make_rate_chart(
        "ROC curve",
        f"Area under the curve {area:.3f}; random answers have 0.5.",
        x=100 * x,
        y=100 * y,
        names=("false positives, % of the others", "recall, %"),
        chance=((0, 0), (100, 100)),
    )


def make_precision_recall_chart(recall: Floats, precision: Floats, *, share: float) -> Chart:
    """Draw the precision-recall curve, in 0..1 at falling thresholds, shape (thresholds,).

    The `share` of images with the label is the precision of random answers, which is drawn too.

    >>> chart = make_precision_recall_chart(np.array([0.5, 1.0]), np.array([1.0, 0.5]), share=0.5)
    >>> chart.lines[0].path
    'M286 14L506 232'
    """
    return _make_rate_chart(
        "Precision and recall",
        f"Precision {precision[0]:.0%} at recall {recall[0]:.0%}, {precision[-1]:.0%} at recall 100%.",
        x=100 * recall,
        y=100 * precision,
        names=("recall, %", "precision, %"),
        chance=((0, 100 * share), (100, 100 * share)),
    )


def make_scatter_chart(title: str, truth: npt.ArrayLike, answers: npt.ArrayLike) -> Chart:
    """Draw answers over truth on equal axes, with the diagonal on which they agree.

    Both are finite, shape (n,), n > 0. Of more than 1000 points, 1000 evenly spaced ones are drawn.

    >>> make_scatter_chart("Weight", [0.0, 10.0], [5.0, 10.0]).points
    [(66.0, 232.0), (506.0, 14.0)]
    """
    x, y = np.asarray(truth, dtype=np.float64), np.asarray(answers, dtype=np.float64)
    values = choose_ticks(min(x.min(), y.min()), max(x.max(), y.max()))
    x_axis = Axis(values[0], values[-1], SQUARE.left, SQUARE.right)
    y_axis = Axis(values[0], values[-1], SQUARE.bottom, SQUARE.top)
    ends = [values[0], values[-1]]
    drawn = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_POINTS)).astype(int))
    return Chart(
        title=title,
        description=f"{len(x)} images; truth from {x.min():.4g} to {x.max():.4g}, "
        f"answers from {y.min():.4g} to {y.max():.4g}.",
        plot=SQUARE,
        x_name="truth",
        y_name="answer",
        lines=[make_curve("answer = truth", "reference", ends, ends, (x_axis, y_axis))],
        x_ticks=label_axis(x_axis, values),
        y_ticks=label_axis(y_axis, values),
        points=[
            (x_axis.locate(true), y_axis.locate(answer))
            for true, answer in zip(x[drawn].tolist(), y[drawn].tolist(), strict=True)
        ],
    )


def make_error_chart(title: str, errors: npt.ArrayLike) -> Chart:
    """Draw a histogram of the errors (answer minus truth), finite, shape (n,), n > 0.

    >>> [bar[3] for bar in make_error_chart("Errors", [-1.0, 1.0, 1.0]).bars][:1]
    [111.0]
    """
    values = np.asarray(errors, dtype=np.float64)
    reach = float(abs(values).max()) or 1.0
    counts, edges = np.histogram(values, bins=BARS, range=(-reach, reach))
    x_values = choose_ticks(-reach, reach)
    x_axis = Axis(x_values[0], x_values[-1], WIDE.left, WIDE.right)
    y_values = [value for value in choose_ticks(0, float(counts.max()), count=5) if value == int(value)]
    y_axis = Axis(0, max(y_values[-1], float(counts.max())), WIDE.bottom, WIDE.top)
    bars = []
    positions = [x_axis.locate(edge) for edge in edges.tolist()]
    for count, start, end in zip(counts.tolist(), positions[:-1], positions[1:], strict=True):
        if count:
            top = y_axis.locate(count)
            bars.append((start, top, round(end - start, 1), round(WIDE.bottom - top, 1)))
    return Chart(
        title=title,
        description=f"{len(values)} images; half of the errors lie between "
        f"{np.quantile(values, 0.25):.3g} and {np.quantile(values, 0.75):.3g}.",
        plot=WIDE,
        x_name="answer minus truth",
        y_name="",
        lines=[make_curve("no error", "reference", [0.0, 0.0], [0.0, y_axis.high], (x_axis, y_axis))],
        x_ticks=label_axis(x_axis, x_values),
        y_ticks=label_axis(y_axis, y_values),
        bars=bars,
    )


def _make_rate_chart(
    title: str,
    description: str,
    *,
    x: Floats,
    y: Floats,
    names: tuple[str, str],
    chance: tuple[tuple[float, float], tuple[float, float]],
) -> Chart:
    axes = Axis(0, 100, SQUARE.left, SQUARE.right), Axis(0, 100, SQUARE.bottom, SQUARE.top)
    drawn = np.unique(np.linspace(0, len(x) - 1, min(len(x), MAX_CORNERS)).astype(int))
    chance_x, chance_y = ([point[side] for point in chance] for side in (0, 1))
    values = choose_ticks(0, 100)
    return Chart(
        title=title,
        description=description,
        plot=SQUARE,
        x_name=names[0],
        y_name=names[1],
        lines=[
            make_curve("the model", "model", x[drawn].tolist(), y[drawn].tolist(), axes),
            make_curve("random answers", "reference", chance_x, chance_y, axes),
        ],
        x_ticks=label_axis(axes[0], values),
        y_ticks=label_axis(axes[1], values),
    )


def make_curve(name: str, role: str, x: list[float], y: list[float], axes: tuple[Axis, Axis]) -> Line:
    """Return a line through points, given in the values of the axes.

    >>> make_curve("a", "model", [0.0, 1.0], [0.0, 1.0], (Axis(0, 1, 0, 100), Axis(0, 1, 100, 0))).path
    'M0 100L100 0'
    """
    points = [f"{axes[0].locate(across):g} {axes[1].locate(up):g}" for across, up in zip(x, y, strict=True)]
    return Line(name, role, "M" + "L".join(points))
