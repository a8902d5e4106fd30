"""Charts as plain geometry, for a template to draw as SVG.

Positions are in the units of the drawing that its `Plot` measures, y downwards. Colours and fonts are the
style sheet's business, so the drawing follows the reader's theme.

Charts of answers beside the truth: rates at every threshold, numbers as points, errors as bars.
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
    "axis_labels",
    "error_chart",
    "line_chart",
    "precision_recall_chart",
    "roc_chart",
    "scatter_chart",
    "ticks",
]


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


Floats = npt.NDArray[np.float64]

MOST_CORNERS = 300  # of a curve: more cannot be told apart in a drawing of 440 units
MOST_POINTS = 1000
BARS = 25


def roc_chart(false_positive: Floats, recall: Floats, *, area: float) -> Chart:
    """The ROC curve, from (0, 0) on, and the diagonal of random answers.

    Rates are in 0..1 at falling thresholds, shape (thresholds,); `area` is that under the curve.

    >>> roc_chart(np.array([0.0, 1.0]), np.array([1.0, 1.0]), area=1.0).lines[0].path
    'M66 450L66 14L506 14'
    """
    x, y = np.concatenate([[0.0], false_positive]), np.concatenate([[0.0], recall])
    return _rates(
        "ROC curve",
        f"Area under the curve {area:.3f}; random answers have 0.5.",
        x=100 * x,
        y=100 * y,
        names=("false positives, % of the others", "recall, %"),
        chance=((0, 0), (100, 100)),
    )


def precision_recall_chart(recall: Floats, precision: Floats, *, share: float) -> Chart:
    """The precision-recall curve, in 0..1 at falling thresholds, shape (thresholds,).

    The `share` of images with the label is the precision of random answers, which is drawn, too.

    >>> chart = precision_recall_chart(np.array([0.5, 1.0]), np.array([1.0, 0.5]), share=0.5)
    >>> chart.lines[0].path
    'M286 14L506 232'
    """
    return _rates(
        "Precision and recall",
        f"Precision {precision[0]:.0%} at recall {recall[0]:.0%}, {precision[-1]:.0%} at recall 100%.",
        x=100 * recall,
        y=100 * precision,
        names=("recall, %", "precision, %"),
        chance=((0, 100 * share), (100, 100 * share)),
    )


def scatter_chart(title: str, truth: npt.ArrayLike, answers: npt.ArrayLike) -> Chart:
    """Answers over truth, finite, shape (n,), n > 0, both axes alike, with the diagonal where they agree.

    Of more than 1000 every so manieth is drawn.

    >>> scatter_chart("Weight", [0.0, 10.0], [5.0, 10.0]).points
    [(66.0, 232.0), (506.0, 14.0)]
    """
    true, said = np.asarray(truth, dtype=np.float64), np.asarray(answers, dtype=np.float64)
    values = ticks(min(true.min(), said.min()), max(true.max(), said.max()))
    x_axis = Axis(values[0], values[-1], SQUARE.left, SQUARE.right)
    y_axis = Axis(values[0], values[-1], SQUARE.bottom, SQUARE.top)
    ends = [values[0], values[-1]]
    drawn = np.unique(np.linspace(0, len(true) - 1, min(len(true), MOST_POINTS)).astype(int))
    return Chart(
        title=title,
        description=f"{len(true)} images; truth from {true.min():.4g} to {true.max():.4g}, "
        f"answers from {said.min():.4g} to {said.max():.4g}.",
        plot=SQUARE,
        x_name="truth",
        y_name="answer",
        lines=[_curve("answer = truth", "reference", ends, ends, (x_axis, y_axis))],
        x_ticks=axis_labels(x_axis, values),
        y_ticks=axis_labels(y_axis, values),
        points=[
            (x_axis.place(x), y_axis.place(y))
            for x, y in zip(true[drawn].tolist(), said[drawn].tolist(), strict=True)
        ],
    )


def error_chart(title: str, errors: npt.ArrayLike) -> Chart:
    """How many images have which error, answer minus truth; `errors` are finite, shape (n,), n > 0.

    >>> [bar[3] for bar in error_chart("Errors", [-1.0, 1.0, 1.0]).bars][:1]
    [111.0]
    """
    found = np.asarray(errors, dtype=np.float64)
    reach = float(abs(found).max()) or 1.0
    counts, edges = np.histogram(found, bins=BARS, range=(-reach, reach))
    x_values = ticks(-reach, reach)
    x_axis = Axis(x_values[0], x_values[-1], WIDE.left, WIDE.right)
    y_values = [value for value in ticks(0, float(counts.max()), most=5) if value == int(value)]
    y_axis = Axis(0, max(y_values[-1], float(counts.max())), WIDE.bottom, WIDE.top)
    bars = []
    places = [x_axis.place(edge) for edge in edges.tolist()]
    for count, left, right in zip(counts.tolist(), places[:-1], places[1:], strict=True):
        if count:
            top = y_axis.place(count)
            bars.append((left, top, round(right - left, 1), round(WIDE.bottom - top, 1)))
    middle = [0.0, 0.0]
    return Chart(
        title=title,
        description=f"{len(found)} images; half of the errors lie between "
        f"{np.quantile(found, 0.25):.3g} and {np.quantile(found, 0.75):.3g}.",
        plot=WIDE,
        x_name="answer minus truth",
        y_name="",
        lines=[_curve("no error", "reference", middle, [0.0, y_axis.high], (x_axis, y_axis))],
        x_ticks=axis_labels(x_axis, x_values),
        y_ticks=axis_labels(y_axis, y_values),
        bars=bars,
    )


def _rates(
    title: str,
    description: str,
    *,
    x: Floats,
    y: Floats,
    names: tuple[str, str],
    chance: tuple[tuple[float, float], tuple[float, float]],
) -> Chart:
    x_axis = Axis(0, 100, SQUARE.left, SQUARE.right)
    y_axis = Axis(0, 100, SQUARE.bottom, SQUARE.top)
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_CORNERS)).astype(int))
    values = ticks(0, 100)
    axes = (x_axis, y_axis)
    return Chart(
        title=title,
        description=description,
        plot=SQUARE,
        x_name=names[0],
        y_name=names[1],
        lines=[
            _curve("the model", "model", x[kept].tolist(), y[kept].tolist(), axes),
            _curve("random answers", "reference", [p[0] for p in chance], [p[1] for p in chance], axes),
        ],
        x_ticks=axis_labels(x_axis, values),
        y_ticks=axis_labels(y_axis, values),
    )


def _curve(name: str, role: str, x: list[float], y: list[float], axes: tuple[Axis, Axis]) -> Line:
    places = [f"{axes[0].place(left):g} {axes[1].place(up):g}" for left, up in zip(x, y, strict=True)]
    return Line(name, role, "M" + "L".join(places))
