"""Render a report as one HTML file that shows how good a model is and where it fails.

The file is self-contained: style, charts and thumbnails are inside, and its content security policy forbids
every request. A report has no script; the page of a check has one, the only one that the policy admits, by
its hash. Names and texts come from untrusted data. So they are escaped, and characters that would affect the
page (controls, direction overrides, lone surrogates from undecodable file names) are shown as escape
sequences.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.data.catalog import RejectedFile
from regraft.errors import wrap_os_errors
from regraft.evaluation.scores import BASELINES, MEASURES, format_three_digits
from regraft.metrics.classification import ClassRow
from regraft.metrics.intervals import Interval
from regraft.metrics.multilabel import LabelRow
from regraft.report.charts import (
    Axis,
    Chart,
    Label,
    choose_ticks,
    label_axis,
    make_error_chart,
    make_line_chart,
    make_precision_recall_chart,
    make_roc_chart,
    make_scatter_chart,
)
from regraft.report.content import NumberFindings, PartScores, Report
from regraft.report.learning_chart import make_learning_chart
from regraft.report.mistakes import rank_confusions
from regraft.report.reliability import describe_calibration, describe_example, make_reliability_chart
from regraft.system.console import format_duration
from regraft.system.files import make_temporary_file

if TYPE_CHECKING:
    import jinja2

__all__ = [
    "format_percent",
    "load_script",
    "make_environment",
    "make_visible",
    "render",
    "render_page",
    "write_report",
]

TEMPLATES = {"multiclass": "classes", "binary": "classes", "multilabel": "labels", "regression": "numbers"}

# Controls except tab and newline, direction marks and overrides, surrogates, non-characters.
INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


# --- the report


def render(report: Report) -> str:
    r"""Return the report as an HTML page without lone surrogates.

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
        gauge=_make_gauge(headline, report.parts[0].baseline) if headline else None,
        baseline_name=BASELINES[report.task],
        measures=MEASURES,
        infinity=math.inf,
        template=f"report_{TEMPLATES[report.task]}.html.j2",
        curves=_make_learning_curves(report),
        more_images=report.learning_curve and make_learning_chart(report.learning_curve),
        plots=[_make_answer_charts(part, report.outputs) for part in report.parts],
        reliability=[_describe_reliability(part, report) for part in report.parts],
    )


def write_report(report: Report, path: Path) -> None:
    """Render a report and write it to `path` atomically.

    Raises:
        EnvironmentFault: the file cannot be written; an older file at `path` is then untouched.

    Example:
        write_report(report, Path("run/report.html"))
    """
    page = render(report).encode("utf-8")
    with (
        wrap_os_errors(f"Cannot write the report to {path}"),
        make_temporary_file(path.parent, f".{path.name}.writing-") as temporary,
    ):
        temporary.write_bytes(page)
        temporary.replace(path)


@dataclass(frozen=True)
class _Gauge:
    """The headline score on a scale; positions are in % of its width."""

    value: float
    low: float
    width: float
    floor: float
    ticks: list[Label]


def _make_gauge(headline: tuple[str, Interval], baseline: float) -> _Gauge:
    name, score = headline
    is_share = MEASURES[name].is_share
    unit = 100.0 if is_share else 1.0
    values = [0.0, 25.0, 50.0, 75.0, 100.0] if is_share else choose_ticks(0, max(score.high, baseline))
    axis = Axis(values[0], values[-1], 0, 100)
    low, high = axis.locate(unit * score.low), axis.locate(unit * score.high)
    labels = label_axis(axis, values)
    return _Gauge(axis.locate(unit * score.value), low, high - low, axis.locate(unit * baseline), labels)


def _make_learning_curves(report: Report) -> list[Chart]:
    """Return charts of loss and score over the epochs; none for fewer than two epochs."""
    history = report.history
    if len(history) < 2:
        return []
    epochs = [epoch.epoch for epoch in history]
    # Phases that each count from one would fold the line back on itself: number the epochs through.
    if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
        epochs = list(range(epochs[0], epochs[0] + len(epochs)))
    phases = [epoch.phase for epoch in history]
    losses = {
        "training": [epoch.loss for epoch in history],
        "validation": [epoch.val_loss for epoch in history],
    }
    score = {"validation": [epoch.val_score for epoch in history]}
    return [
        make_line_chart("Loss", epochs, series=losses, phases=phases),
        make_line_chart(f"Score: {report.score_name}", epochs, series=score, phases=phases),
    ]


def _make_answer_charts(part: PartScores, outputs: list[str]) -> list[tuple[str, list[Chart]]]:
    """Return charts of answers against the truth as (heading, charts), for two classes or for each target."""
    findings = part.findings
    if isinstance(findings, NumberFindings):
        targets = zip(outputs, findings.truth.T, findings.answers.T, strict=True)
        return [
            (
                name,
                [
                    make_scatter_chart("Answers against the truth", truth, answers),
                    make_error_chart("Errors", answers - truth),
                ],
            )
            for name, truth, answers in targets
        ]
    curves = getattr(findings, "curves", None)
    if curves is None:
        return []
    share = findings.rows[1].n / part.n
    roc = make_roc_chart(curves.false_positive, curves.recall, area=part.scores["auc"].value)
    precision = make_precision_recall_chart(curves.recall, curves.precision, share=share)
    return [(f"How well {outputs[1]} is found", [roc, precision])]


def _describe_reliability(part: PartScores, report: Report) -> tuple[str, str, Chart] | None:
    """Return two texts and a diagram on a part's probabilities; None if it has none."""
    measured = part.calibration
    if measured is None:
        return None
    example = describe_example(measured, task=report.task, outputs=report.outputs)
    return example, describe_calibration(measured), make_reliability_chart(measured)


# --- any page


def render_page(template: str, refused: Iterable[RejectedFile], /, **values: Any) -> str:
    """Render a template as an HTML page without lone surrogates, and pass it `refused` grouped by reason."""
    reasons = defaultdict(list)
    for item in refused:
        reasons[item.code].append(item)
    groups = sorted(reasons.items(), key=lambda group: (-len(group[1]), group[0]))
    page: str = _load_environment().get_template(template).render(refused=groups, **values)
    return page


def make_environment(**options: Any) -> jinja2.Environment:
    """Return an environment for the templates of this package, with further options of Jinja's."""
    import jinja2  # 40 ms that only a report should cost

    return jinja2.Environment(
        loader=jinja2.PackageLoader("regraft.report", ""),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )


@functools.cache
def _load_environment() -> jinja2.Environment:
    environment = make_environment(autoescape=True, finalize=make_visible)
    environment.filters |= {
        "percent": format_percent,
        "number": format_three_digits,
        "duration": format_duration,
        "base64": lambda content: base64.b64encode(content).decode("ascii"),
        "confusions": rank_confusions,
        "weakest_first": _sort_weakest_first,
    }
    return environment


def load_script(name: str) -> tuple[str, str]:
    """Return a script of this package as markup, and its hash for a content security policy."""
    import markupsafe

    text = Path(__file__).with_name(name).read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
    return markupsafe.Markup(text), f"sha256-{digest}"


def make_visible(value: object) -> object:
    """Return a template value with invisible characters as escapes; markup stays as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return INVISIBLE.sub(lambda match: f"\\u{ord(match[0]):04x}", value)


def format_percent(share: float) -> str:
    """Return a share in percent; one just below 1 is not rounded to 100 %."""
    return f"{100 * (min(share, 0.999) if share < 1 else share):.1f}"


def _sort_weakest_first(rows: Sequence[ClassRow | LabelRow], measure: str = "f1") -> list[tuple[int, Any]]:
    """Return rows with their numbers, sorted by a measure; undefined values come last."""
    ranked = ((number, row, getattr(row, measure)) for number, row in enumerate(rows))
    ordered = sorted(ranked, key=lambda item: (item[2] is None, item[2] or 0.0, item[0]))
    return [(number, row) for number, row, _ in ordered]
