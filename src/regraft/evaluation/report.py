"""The report: one HTML file that says how good a model is and where it fails.

The file needs nothing else: style, charts and thumbnails are inside, there is no script, and its
content security policy forbids every request. Names and texts come from data nobody has vouched for,
so they are escaped, and characters that would steer the page (controls, direction overrides, lone
surrogates of undecodable file names) are shown as escape sequences.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.data.catalog import Refused
from regraft.errors import EnvironmentFault
from regraft.evaluation.charts import PLOT, Chart, line_chart
from regraft.evaluation.metrics import ClassRow, Interval
from regraft.evaluation.page import environment

__all__ = ["Epoch", "PartScores", "Report", "WrongImage", "render", "write_report"]


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
    >>> "Cats &amp; dogs</title>" in render(report)
    True
    """
    refused = defaultdict(list)
    for image in report.refused:
        refused[image.code].append(image)
    page: str = (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            curves=_curves(report.history),
            refused=sorted(refused.items(), key=lambda group: (-len(group[1]), group[0])),
            plot=PLOT,
        )
    )
    return page


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
    if any(later <= earlier for earlier, later in itertools.pairwise(epochs)):
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
