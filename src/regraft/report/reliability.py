"""Whether probabilities can be trusted, for the report: sentences, and the reliability diagram."""

from __future__ import annotations

from regraft.metrics.calibration import BINS, Calibration, ReliabilityBin
from regraft.report.charts import SQUARE, Axis, Chart, choose_ticks, label_axis, make_curve

__all__ = ["describe_calibration", "describe_example", "make_reliability_chart"]

ENOUGH = 20  # answers of which a share is worth telling
BOX = 0.8  # width of the box that shows chance, in widths of a bin

_CLAIMS = {
    "multiclass": ("images answered with", "right"),
    "binary": ("images given {name} with", "{name}"),
    "multilabel": ("labels given with", "there"),
}


def describe_example(calibration: Calibration, *, task: str, outputs: list[str]) -> str:
    """Return a sentence on the answers with about 90 %, or on the largest bin if those are too few.

    >>> bins = (ReliabilityBin(40, 0.5, 0.475, 0.35, 0.65), ReliabilityBin(30, 0.904, 0.9, 0.8, 1.0))
    >>> measured = Calibration(70, 0.01, None, 0.2, bins)
    >>> describe_example(measured, task="multiclass", outputs=["cat", "dog", "emu"])
    'Of the 30 images answered with 90 %, 90 % are right; by chance it would be 80 % to 100 %.'
    """
    answers, outcome = (text.format(name=outputs[-1]) for text in _CLAIMS[task])
    one = _choose_bin(calibration)
    return (
        f"Of the {one.n:,} {answers} {one.probability:.0%}, {one.share:.0%} are {outcome}; "
        f"by chance it would be {one.low:.0%} to {one.high:.0%}."
    ).replace("%", " %")


def describe_calibration(calibration: Calibration) -> str:
    """Return sentences on the calibration error, beside what chance gives.

    >>> from regraft.metrics.calibration import measure_calibration
    >>> describe_calibration(measure_calibration([[1]] * 20 + [[0]] * 20, [[0.9]] * 40)).split(". ")[-1]
    'The probabilities are too high: 90.0 % on average, of which 50.0 % come true.'
    """
    chance = calibration.chance
    error = (
        f"The calibration error (ECE) is {calibration.ece:.1%}; a perfectly calibrated model would have "
        f"{chance.mean:.1%} on this many images, and {chance.low:.1%} to {chance.high:.1%} in 95 of 100 "
        "cases."
    )
    mean = sum(one.n * one.probability for one in calibration.bins) / calibration.n
    share = sum(one.n * one.share for one in calibration.bins) / calibration.n
    if calibration.ece <= chance.high:
        verdict = "So nothing shows that the probabilities are wrong."
    elif abs(mean - share) < calibration.ece / 2:
        verdict = "The probabilities are wrong: too high in some ranges, too low in others."
    else:
        direction = "high" if mean > share else "low"
        verdict = (
            f"The probabilities are too {direction}: {mean:.1%} on average, of which {share:.1%} come true."
        )
    return f"{error} {verdict}".replace("%", " %")


def make_reliability_chart(calibration: Calibration) -> Chart:
    """Draw the share of true answers over their probability, with boxes that chance alone explains.

    >>> bins = (ReliabilityBin(30, 0.5, 0.5, 0.25, 0.75),)
    >>> chart = make_reliability_chart(Calibration(30, 0.0, None, 0.25, bins))
    >>> chart.points, chart.bars[0][1:4:2]
    ([(286.0, 232.0)], (123.0, 218.0))
    """
    axes = Axis(0, 100, SQUARE.left, SQUARE.right), Axis(0, 100, SQUARE.bottom, SQUARE.top)
    x = [100 * one.probability for one in calibration.bins]
    y = [100 * one.share for one in calibration.bins]
    values = choose_ticks(0, 100)
    return Chart(
        title="Probabilities against what is true",
        description=f"{calibration.n:,} answers, calibration error {calibration.ece:.1%}. "
        + " ".join(f"Given {one.probability:.0%}: {one.share:.0%} of {one.n:,}." for one in calibration.bins),
        plot=SQUARE,
        x_name="probability that was given, %",
        y_name="share of it that is true, %",
        lines=[
            make_curve("the model", "model", x, y, axes),
            make_curve("perfect calibration", "reference", [0.0, 100.0], [0.0, 100.0], axes),
        ],
        x_ticks=label_axis(axes[0], values),
        y_ticks=label_axis(axes[1], values),
        points=[(axes[0].locate(across), axes[1].locate(up)) for across, up in zip(x, y, strict=True)],
        bars=[_make_box(one, axes) for one in calibration.bins],
    )


def _make_box(one: ReliabilityBin, axes: tuple[Axis, Axis]) -> tuple[float, float, float, float]:
    """Return the rectangle (x, y, width, height) of the shares that chance explains."""
    width = BOX * (SQUARE.right - SQUARE.left) / BINS
    centre, top = axes[0].locate(100 * one.probability), axes[1].locate(100 * one.high)
    left = min(max(centre - width / 2, SQUARE.left), SQUARE.right - width)
    return round(left, 1), top, round(width, 1), round(axes[1].locate(100 * one.low) - top, 1)


def _choose_bin(calibration: Calibration) -> ReliabilityBin:
    near = [one for one in calibration.bins if int(0.9 * BINS) == min(int(one.probability * BINS), BINS - 1)]
    return near[0] if near and near[0].n >= ENOUGH else max(calibration.bins, key=lambda one: one.n)
