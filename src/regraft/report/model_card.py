"""The model card of a run: a README.md with the header that Hugging Face's hub reads.

The card says what the report says, in text: what the model answers, how good it is and on which images, what
its limits are, and how to use it. Names come from untrusted data, so that they are escaped for Markdown and
for YAML.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from regraft.evaluation.scores import BASELINES, MEASURES, format_three_digits
from regraft.report.build import show_python_usage, show_shell_usage
from regraft.report.content import NumberFindings, PartScores, Report
from regraft.report.reliability import describe_calibration
from regraft.report.render import format_percent, make_environment, make_visible
from regraft.system.console import format_names

if TYPE_CHECKING:
    import jinja2

__all__ = ["MODEL_CARD", "TASK_WORDS", "escape_markdown", "list_limits", "make_model_card"]

MODEL_CARD = "README.md"
SMALL_CLASS = 20  # training images of a class, below which its own scores say little
MAX_NAMES = 100  # of classes, labels or targets in the table; manifest.json has all
MAX_LISTED = 8  # classes or labels in a sentence
WEAKEST = 3  # classes or labels that are named

TASK_WORDS = {  # a phrase, and the tag of the hub; it has no tag for numbers
    "multiclass": ("image classification", "image-classification"),
    "binary": ("image classification with two classes", "image-classification"),
    "multilabel": ("multi-label image classification", "image-classification"),
    "regression": ("regression of numbers from images", "image-regression"),
}
HUB_METRICS = {
    "top1": "accuracy", "balanced_accuracy": "balanced_accuracy", "macro_f1": "f1", "micro_f1": "f1",
    "f1": "f1", "macro_auc": "roc_auc", "auc": "roc_auc", "average_precision": "average_precision",
    "mAP": "mean_average_precision", "log_loss": "log_loss", "mae": "mae", "rmse": "rmse",
    "r2": "r_squared", "median_error": "median_absolute_error",
}  # fmt: skip
_MARKDOWN = re.compile(r"([\\`*\[\]|~$#])|(?<!\w)(_)|(_)(?!\w)")


def make_model_card(report: Report, manifest: Mapping[str, Any]) -> str:
    """Return the model card of a run as Markdown with a header in YAML.

    Args:
        report: the content of the run's report; its title is the name of the run folder.
        manifest: the content of manifest.json, with the digests of the model's files.

    Example:
        make_model_card(report, manifest).startswith("---\\nlibrary_name: keras")
    """
    phrase, tag = TASK_WORDS[report.task]
    return (
        _load_environment()
        .get_template("model_card.md.j2")
        .render(
            report=report,
            manifest=manifest,
            task=phrase,
            tag=tag,
            output_word={"multilabel": "Label", "regression": "Target"}.get(report.task, "Class"),
            first=report.parts[0] if report.parts else None,
            metrics=list(_list_hub_metrics(report)),
            measures=MEASURES,
            baseline_name=BASELINES[report.task],
            limits=list_limits(report),
            most=MAX_NAMES,
            has_keras_head="head.skops" not in manifest["files"],
            usage_python=show_python_usage(report.task, report.title),
            usage_shell=show_shell_usage(report.title),
        )
    )


def list_limits(report: Report) -> list[str]:
    """Return what to know before using a model, a sentence or two each: what the run detected of its limits.

    Example:
        list_limits(report)[0]
    """
    return [*report.warnings, *_describe_test(report), *_describe_outputs(report)]


def escape_markdown(value: object) -> object:
    r"""Return a text as one line of Markdown that shows it literally; other values and markup unchanged.

    >>> print(escape_markdown("<b>*a*|b_1 _c_\n#"))
    &lt;b>\*a\*\|b_1 \_c\_ \#
    """
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    text = re.sub(r"\s+", " ", str(make_visible(value)))
    text = _MARKDOWN.sub(lambda match: f"\\{match[0]}", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _describe_test(report: Report) -> Iterator[str]:
    """Yield sentences on what the scores are worth, and on images of another kind."""
    if not report.parts:
        yield "No images were set aside, so nothing is known about how good the model is."
        return
    part = report.parts[0]
    if part.caution and part.caution not in report.warnings:
        yield part.caution
    if part.name != "test":
        yield (
            f"There was no test part: the {part.n:,} {part.name} images also chose the model, so expect "
            "slightly lower scores on new ones."
        )
    if part.calibration is not None and part.calibration.ece > part.calibration.chance.high:
        yield describe_calibration(part.calibration)
    unfamiliar = part.familiarity
    if unfamiliar is not None and unfamiliar.unfamiliar:
        surprise = ", far more than expected" if unfamiliar.is_surprising else ""
        yield (
            f"{unfamiliar.unfamiliar:,} of {part.n:,} {part.name} images are not like those of training"
            f"{surprise}. Images of another kind get an answer as well: look at its familiarity, which is "
            f"below {100 * unfamiliar.level:g} % for them."
        )
    if report.refused:
        yield f"{len(report.refused):,} files could not be used and count in no score: see refused.jsonl."


def _describe_outputs(report: Report) -> Iterator[str]:
    """Yield sentences on classes, labels or targets that the model knows little of or answers badly."""
    noun = "labels" if report.task == "multilabel" else "classes"
    counts = sorted(zip(report.counts.get("train", []), report.outputs, strict=False))
    small = [f"{name} ({count:,})" for count, name in counts if count < SMALL_CLASS]
    if small:
        yield (
            f"{len(small):,} of {len(report.outputs):,} {noun} have fewer than {SMALL_CLASS} training "
            f"images: {format_names(small, most=MAX_LISTED)}."
        )
    if report.parts and not isinstance(report.parts[0].findings, NumberFindings):
        rows = [row for row in report.parts[0].findings.rows if row.n and row.f1 is not None and row.f1 < 1]
        weakest = sorted(rows, key=lambda row: (row.f1 or 0.0, row.name))[:WEAKEST]
        names = [f"{row.name} (F1 {100 * (row.f1 or 0):.1f} % on {row.n:,} images)" for row in weakest]
        if names and len(report.outputs) > 2:
            yield f"Answered worst: {format_names(names, most=MAX_LISTED)}."


def _list_hub_metrics(report: Report) -> Iterator[tuple[PartScores, str, str, float]]:
    """Yield the part, the hub's name of a score, ours, and its value, for every finite score."""
    for part in report.parts:
        for name, score in part.scores.items():
            if math.isfinite(score.value):
                yield part, HUB_METRICS.get(name, name), MEASURES[name].label, round(score.value, 6)


def _format_score(value: float, name: str) -> str:
    if not MEASURES[name].is_share:
        return format_three_digits(value)
    return f"{format_percent(value)} %"


@functools.cache
def _load_environment() -> jinja2.Environment:
    import markupsafe

    def quote_yaml(value: object) -> str:
        """Return a text as a double-quoted scalar of YAML."""
        text = json.dumps(str(make_visible(str(value))), ensure_ascii=False)
        return markupsafe.Markup(text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))

    environment = make_environment(autoescape=False, finalize=escape_markdown, keep_trailing_newline=True)
    environment.filters |= {
        "yaml": quote_yaml,
        "score": _format_score,
        "code": lambda text: markupsafe.Markup(make_visible(text)),  # shown as it is, inside a fence
    }
    return environment
