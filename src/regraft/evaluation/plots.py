"""Charts of answers beside the truth: rates at every threshold, numbers as points, errors as bars."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from regraft.evaluation.charts import SQUARE, WIDE, Axis, Chart, Line, axis_labels, ticks

__all__ = ["error_chart", "precision_recall_chart", "roc_chart", "scatter_chart"]

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
        lines=[_line("answer = truth", "reference", ends, ends, (x_axis, y_axis))],
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
        lines=[_line("no error", "reference", middle, [0.0, y_axis.high], (x_axis, y_axis))],
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
            _line("the model", "model", x[kept].tolist(), y[kept].tolist(), axes),
            _line("random answers", "reference", [p[0] for p in chance], [p[1] for p in chance], axes),
        ],
        x_ticks=axis_labels(x_axis, values),
        y_ticks=axis_labels(y_axis, values),
    )


def _line(name: str, role: str, x: list[float], y: list[float], axes: tuple[Axis, Axis]) -> Line:
    places = [f"{axes[0].place(left):g} {axes[1].place(up):g}" for left, up in zip(x, y, strict=True)]
    return Line(name, role, "M" + "L".join(places))
