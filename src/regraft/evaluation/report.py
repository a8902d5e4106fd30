"""The report: one HTML file that says how good a model is and where it fails.

The file needs nothing else: style, charts and thumbnails are inside, there is no script, and its
content security policy forbids every request. Names and texts come from data nobody has vouched for,
so they are escaped, and characters that would steer the page (controls, direction overrides, lone
surrogates of undecodable file names) are shown as escape sequences.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from regraft.beside import new_file
from regraft.errors import name_os_errors
from regraft.evaluation.baseline import BASELINES
from regraft.evaluation.charts import Axis, Chart, Label, axis_labels, line_chart, ticks
from regraft.evaluation.content import NumberFindings, PartScores, Report
from regraft.evaluation.intervals import Interval
from regraft.evaluation.page import render_page
from regraft.evaluation.plots import error_chart, precision_recall_chart, roc_chart, scatter_chart
from regraft.evaluation.scores import MEASURES

__all__ = ["render", "write_report"]

TEMPLATES = {"multiclass": "classes", "binary": "classes", "multilabel": "labels", "regression": "numbers"}


@dataclass(frozen=True)
class _Gauge:
    """The headline score on a scale; places in % of its width."""

    value: float
    low: float
    width: float
    floor: float
    ticks: list[Label]


def render(report: Report) -> str:
    r"""The report as an HTML page, free of lone surrogates.

    >>> report = Report(
    ...     title="Cats & dogs", created="2030-01-01", command="regraft train pets", task="binary",
    ...     summary=[], decision="Kept.", outputs=["cat", "dog"], counts={"train": [3, 4]},
    ...     parts=[], history=[], score_name="top-1", images_used=7, refused=[],
    ...     notes=[], seconds={}, usage_python="", usage_shell="",
    ... )
    >>> "Cats &amp; dogs</title>" in render(report)
    True
    """
    headline = next(iter(report.parts[0].scores.items()), None) if report.parts else None
    return render_page(
        "report.html.j2",
        report.refused,
        report=report,
        headline=headline,
        gauge=_gauge(headline, report.parts[0].baseline) if headline else None,
        baseline_name=BASELINES[report.task],
        measures=MEASURES,
        template=f"report_{TEMPLATES[report.task]}.html.j2",
        curves=_curves(report),
        plots=[_plots(part, report.outputs) for part in report.parts],
    )


def write_report(report: Report, path: Path) -> None:
    """Render `report` and put it at `path`, whole or not at all.

    Raises:
        EnvironmentFault: if the file cannot be written; an older file at `path` is then untouched.

    Example, with a report as in `render`:

        write_report(report, Path("run/report.html"))
    """
    page = render(report).encode("utf-8")
    with (
        name_os_errors(f"Cannot write the report to {path}"),
        new_file(path.parent, f".{path.name}.writing-") as beside,
    ):
        beside.write_bytes(page)
        beside.replace(path)


def _gauge(headline: tuple[str, Interval], baseline: float) -> _Gauge:
    name, score = headline
    is_share = MEASURES[name].is_share
    unit, values = (
        (100.0, [0.0, 25.0, 50.0, 75.0, 100.0]) if is_share else (1.0, ticks(0, max(score.high, baseline)))
    )
    axis = Axis(values[0], values[-1], 0, 100)
    low, high = axis.place(unit * score.low), axis.place(unit * score.high)
    labels = axis_labels(axis, values)
    return _Gauge(axis.place(unit * score.value), low, high - low, axis.place(unit * baseline), labels)


def _curves(report: Report) -> list[Chart]:
    """Loss and score over the epochs; nothing where there is no course to see."""
    history = report.history
    if len(history) < 2:
        return []
    epochs = [epoch.epoch for epoch in history]
    # Phases that each count from one would fold the line back on itself: count on instead.
    if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
        epochs = list(range(epochs[0], epochs[0] + len(epochs)))
    phases = [epoch.phase for epoch in history]
    losses = {
        "training": [epoch.loss for epoch in history],
        "validation": [epoch.val_loss for epoch in history],
    }
    score = {"validation": [epoch.val_score for epoch in history]}
    return [
        line_chart("Loss", epochs, series=losses, phases=phases),
        line_chart(f"Score: {report.score_name}", epochs, series=score, phases=phases),
    ]


def _plots(part: PartScores, outputs: list[str]) -> list[tuple[str, list[Chart]]]:
    """Charts of answers beside the truth, as (heading, charts): two classes have some, and every target."""
    findings = part.findings
    if isinstance(findings, NumberFindings):
        named = list(zip(outputs, findings.truth.T, findings.answers.T, strict=True))
        return [
            (name, [scatter_chart("Answer beside truth", truth, said), error_chart("Errors", said - truth)])
            for name, truth, said in named
        ]
    curves = getattr(findings, "curves", None)
    if curves is None:
        return []
    share = findings.rows[1].n / part.n
    roc = roc_chart(curves.false_positive, curves.recall, area=part.scores["auc"].value)
    precision = precision_recall_chart(curves.recall, curves.precision, share=share)
    return [(f"How well {outputs[1]} is found", [roc, precision])]
