"""The report: one HTML file that says how good a model is and where it fails.

The file needs nothing else: style, charts and thumbnails are inside, there is no script, and its
content security policy forbids every request. Names and texts come from data nobody has vouched for,
so they are escaped, and characters that would steer the page (controls, direction overrides, lone
surrogates of undecodable file names) are shown as escape sequences.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from regraft.errors import EnvironmentFault
from regraft.evaluation.charts import HEIGHT, WIDTH, Chart, line_chart
from regraft.evaluation.explain import most_confused
from regraft.evaluation.metrics import ClassRow, Interval

if TYPE_CHECKING:
    import jinja2

__all__ = ["Epoch", "PartScores", "Refused", "Report", "WrongImage", "render", "write_report"]

# Controls but tab and newline, marks and overrides of direction, surrogates, non-characters.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


@dataclass(frozen=True)
class WrongImage:
    """An image answered wrongly; probabilities in 0..1, `thumbnail` a small JPEG file's bytes or b""."""

    image: str
    truth: str
    said: str
    probability: float
    truth_probability: float
    thumbnail: bytes


@dataclass(frozen=True)
class PartScores:
    """How the model did on one part of the data ("validation" or "test") of `n` images.

    `scores` and `rows` are what `classification_scores` and `per_class` return, `confusion` counts of
    shape (n_classes, n_classes), rows the truth; `probe_top1` is the accuracy of the head alone on the
    untouched backbone.
    """

    name: str
    n: int
    scores: dict[str, Interval]
    confusion: npt.NDArray[np.integer[Any]]
    rows: list[ClassRow]
    wrong: list[WrongImage]
    probe_top1: Interval | None


@dataclass(frozen=True)
class Epoch:
    """One epoch; epoch 0 is the solved head before fine-tuning. A loss of NaN was not measured."""

    phase: str
    epoch: int
    loss: float
    val_loss: float
    val_top1: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class Refused:
    """An image that was left out, the code of the reason and the reason in words."""

    image: str
    code: str
    detail: str


@dataclass(frozen=True)
class Report:
    """Everything the page says.

    Args:
        title, created, command: heading, time of making and the command that made it.
        summary: facts as (label, value).
        decision: what was decided about the model, and why, in a sentence.
        classes: the names, in the order of every array and list about classes.
        counts: part -> number of images of each class.
        parts: scored parts, the most trustworthy (test) first; may be empty.
        history: the epochs in order; may be empty.
        baseline: accuracy, 0..1, of always answering the largest class, on the first part.
        images_used, refused, notes: what became of the data.
        seconds: stage -> time spent.
        usage_python, usage_shell: how to use the model, as code.

    Raises:
        ValueError: if counts or scores are not about `classes`.
    """

    title: str
    created: str
    command: str
    summary: list[tuple[str, str]]
    decision: str
    classes: list[str]
    counts: dict[str, list[int]]
    parts: list[PartScores]
    history: list[Epoch]
    baseline: float
    images_used: int
    refused: list[Refused]
    notes: list[str]
    seconds: dict[str, float]
    usage_python: str
    usage_shell: str

    def __post_init__(self) -> None:
        n = len(self.classes)
        for part, counts in self.counts.items():
            if len(counts) != n:
                raise ValueError(f"Expected {n} counts of {part}, one a class. Received: {len(counts)}.")
        for scored in self.parts:
            if scored.confusion.shape != (n, n) or len(scored.rows) != n:
                raise ValueError(
                    f"Expected scores of {scored.name} for {n} classes. Received: confusion of shape "
                    f"{scored.confusion.shape} and {len(scored.rows)} rows."
                )


def render(report: Report) -> str:
    r"""The report as an HTML page, free of lone surrogates.

    >>> report = Report(
    ...     title="Cats & dogs", created="2030-01-01", command="regraft train pets", summary=[],
    ...     decision="Kept.", classes=["cat", "dog"], counts={"train": [3, 4]}, parts=[], history=[],
    ...     baseline=0.57, images_used=7, refused=[], notes=[], seconds={}, usage_python="", usage_shell="",
    ... )
    >>> "<h1>Cats &amp; dogs</h1>" in render(report)
    True
    """
    refused = defaultdict(list)
    for image in report.refused:
        refused[image.code].append(image)
    return _environment().get_template("report.html.j2").render(
        report=report,
        curves=_curves(report.history),
        refused=sorted(refused.items(), key=lambda group: (-len(group[1]), group[0])),
        chart_size=(WIDTH, HEIGHT),
    )


def write_report(report: Report, path: Path) -> None:
    """Render `report` and put it at `path`, whole or not at all.

    Raises:
        EnvironmentFault: if the file cannot be written; an older file at `path` is then untouched.

    Example, with a report as in `render`:

        write_report(report, Path("run/report.html"))
    """
    page = render(report).encode("utf-8")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EnvironmentFault(f"Cannot write the report to {path}: {error}.") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def _curves(history: list[Epoch]) -> list[Chart]:
    """Loss and accuracy over the epochs; nothing where there is no course to see."""
    if len(history) < 2:
        return []
    epochs = [epoch.epoch for epoch in history]
    # Phases that each count from one would fold the line back on itself: count on instead.
    if any(later <= earlier for earlier, later in zip(epochs[:-1], epochs[1:], strict=True)):
        epochs = list(range(epochs[0], epochs[0] + len(epochs)))
    phases = [epoch.phase for epoch in history]
    losses = {
        "training": [epoch.loss for epoch in history],
        "validation": [epoch.val_loss for epoch in history],
    }
    top1 = {"validation": [100 * epoch.val_top1 for epoch in history]}
    return [
        line_chart("Loss", epochs, series=losses, phases=phases),
        line_chart("Top-1 accuracy, %", epochs, series=top1, phases=phases),
    ]


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("regraft.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "duration": _duration,
        "base64": lambda content: base64.b64encode(content).decode("ascii"),
        "confusions": most_confused,
        "weakest_first": _weakest_first,
    }
    return environment


def _visible(value: object) -> object:
    """What a template expression prints: steering characters as escapes, markup as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


def _percent(share: float) -> str:
    # What is not quite everything must not be rounded to everything.
    return f"{100 * (min(share, 0.999) if share < 1 else share):.1f}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _weakest_first(rows: list[ClassRow]) -> list[tuple[int, ClassRow]]:
    """Places and rows by F1, the lowest first, undefined ones last."""
    return sorted(enumerate(rows), key=lambda item: (item[1].f1 is None, item[1].f1 or 0.0, item[0]))
