"""How values become text on a page: escaping, characters nobody sees, number formats.

The report: one HTML file that says how good a model is and where it fails.

The file needs nothing else: style, charts and thumbnails are inside, there is no script, and its
content security policy forbids every request. Names and texts come from data nobody has vouched for,
so they are escaped, and characters that would steer the page (controls, direction overrides, lone
surrogates of undecodable file names) are shown as escape sequences.
"""

from __future__ import annotations

import base64
import functools
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.data.catalog import Refused
from regraft.errors import name_os_errors
from regraft.evaluation.scores import BASELINES, MEASURES, three_digits
from regraft.metrics.classification import ClassRow
from regraft.metrics.intervals import Interval
from regraft.metrics.multilabel import LabelRow
from regraft.report.charts import (
    Axis,
    Chart,
    Label,
    axis_labels,
    error_chart,
    line_chart,
    precision_recall_chart,
    roc_chart,
    scatter_chart,
    ticks,
)
from regraft.report.content import NumberFindings, PartScores, Report
from regraft.report.mistakes import most_confused
from regraft.system.atomic import new_file
from regraft.system.console import duration

if TYPE_CHECKING:
    import jinja2

__all__ = ["render", "render_page", "write_report"]


# Controls but tab and newline, marks and overrides of direction, surrogates, non-characters.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def render_page(template: str, refused: Iterable[Refused], /, **values: Any) -> str:
    """Return a template as an HTML page, free of lone surrogates; it is given `refused` grouped by reason."""
    reasons = defaultdict(list)
    for item in refused:
        reasons[item.code].append(item)
    groups = sorted(reasons.items(), key=lambda group: (-len(group[1]), group[0]))
    page: str = _environment().get_template(template).render(refused=groups, **values)
    return page


@functools.cache
def _environment() -> jinja2.Environment:
    """Where the report's templates are found, escaped and given their formats."""
    import jinja2  # 40 ms that only a report should cost

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("regraft.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": _percent,
        "number": three_digits,
        "duration": duration,
        "base64": lambda content: base64.b64encode(content).decode("ascii"),
        "confusions": most_confused,
        "weakest_first": _weakest_first,
    }
    return made


def _visible(value: object) -> object:
    """What a template expression prints: steering characters as escapes, markup as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


def _percent(share: float) -> str:
    # What is not quite everything must not be rounded to everything.
    return f"{100 * (min(share, 0.999) if share < 1 else share):.1f}"


def _weakest_first(rows: Sequence[ClassRow | LabelRow], measure: str = "f1") -> list[tuple[int, Any]]:
    """Places and rows by a measure, the lowest first, undefined ones last."""
    ranked = ((at, row, getattr(row, measure)) for at, row in enumerate(rows))
    ordered = sorted(ranked, key=lambda item: (item[2] is None, item[2] or 0.0, item[0]))
    return [(at, row) for at, row, _ in ordered]


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
