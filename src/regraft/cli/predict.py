"""The commands `regraft predict` and `regraft evaluate`, which run a trained model on images."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.cli.output import print_scores
from regraft.errors import UsageError
from regraft.system.console import make_printable

if TYPE_CHECKING:
    from regraft.data.samples import RejectedFile
    from regraft.inference.bundle import Bundle, Prediction

__all__ = ["evaluate", "predict", "read_image_paths"]

MAX_NAMES = 5  # that a line lists


def predict(
    run: opt.RunArgument,
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Image files, or folders of them; - reads their paths from standard input."),
    ] = None,
    *,
    coverage: Annotated[
        float | None,
        typer.Option(help="Share of images whose set or interval should hold the truth. [default: 0.9]"),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            help="Server to ask, and no RUN: URL of a `regraft serve`, or URL#MODEL. [default: none]"
        ),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(help="File with the server's secret. [default: none]")
    ] = None,
    trust: opt.TrustFlag = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Print the label and probability of each image; a bad image is named with the reason."""
    from regraft.uncertainty.prediction_sets import DEFAULT_COVERAGE, check_coverage

    level = DEFAULT_COVERAGE if coverage is None else check_coverage(coverage)
    if server is not None:
        paths = read_image_paths([str(run), *(images or [])])
        _print_answers(_ask_server(server, token_file, paths, level), level, as_json=as_json)
        return
    if not images:
        raise UsageError("Expected image files or folders after RUN. Received none.")
    from regraft.inference.bundle import load

    bundle = load(run, trust=trust)
    if coverage is not None:
        _warn_without_limits(bundle)
    _print_answers(bundle.predict(read_image_paths(images), coverage=level), level, as_json=as_json)


def _ask_server(
    server: str, token_file: Path | None, paths: list[str], coverage: float
) -> Iterator[Prediction | RejectedFile]:
    from regraft.server.client import Client
    from regraft.server.settings import read_token

    url, _, model = server.partition("#")
    client = Client(url, token=read_token(token_file) if token_file else "", model=model or None)
    return client.predict(paths, coverage=coverage)


def _print_answers(answers: Iterable[Prediction | RejectedFile], level: float, *, as_json: bool) -> None:
    from regraft.data.samples import RejectedFile
    from regraft.inference.predictions import make_row

    for answer in answers:
        if as_json:
            line = (
                {"image": answer.image, "refused": answer.code}
                if isinstance(answer, RejectedFile)
                else make_row(answer)
            )
            print(json.dumps(line), flush=True)
        elif isinstance(answer, RejectedFile):
            print(f"{make_printable(answer.image)}\trefused: {answer.code} ({answer.detail})")
        else:
            text = f"{_format_answer(answer, level)}{_describe_strangeness(answer)}"
            print(f"{make_printable(answer.image)}\t{text}")


@opt.with_settings(
    "image",
    "target",
    "separator",
    "root",
    image="Columns of a table with image files, comma-separated. [default: those of the run]",
    target="Columns of a table with what the model predicts, comma-separated. [default: those of the run]",
    separator='Separator between labels in a cell, such as "|". [default: that of the run]',
)
def evaluate(
    run: opt.RunArgument,
    data: opt.DataArgument,
    *,
    settings: dict[str, Any],
    trust: opt.TrustFlag = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Score a trained model on labelled images, separately for each part."""
    from regraft.inference.bundle import load

    columns = opt.make_recipe(settings)
    evaluations = load(run, trust=trust).evaluate(
        data,
        image=columns.image,
        target=columns.target,
        separator=columns.separator,
        root=columns.root or None,
    )
    scores = {
        item.part: {
            "n": item.n,
            **{name: asdict(score) for name, score in item.scores.items()},
            **(item.calibration.to_metrics() if item.calibration else {}),
            "coverage": [one.to_json() for one in item.coverage],
        }
        for item in evaluations
    }
    refused = [asdict(file) for file in evaluations[0].refused] if evaluations else []
    if as_json:
        print(json.dumps({**scores, "refused": refused}))
    else:
        print_scores(scores)
        for file in refused:
            print(f"Refused {make_printable(file['image'])}: {file['code']} ({file['detail']})")


def read_image_paths(images: list[str]) -> list[str]:
    """Return the paths that a command received; - stands for those on standard input."""
    return [path for image in images for path in (_read_paths() if image == "-" else [image])]


def _read_paths() -> list[str]:
    """Return the paths on standard input, one a line, or ended by zero bytes as `find -print0` does."""
    data = sys.stdin.buffer.read()
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = [os.fsdecode(line) for line in lines if line]
    if not paths:
        raise UsageError("Expected paths on standard input, one a line. Received none.")
    return paths


def _warn_without_limits(bundle: Bundle) -> None:
    from regraft.system.console import TERMINAL

    if bundle.uncertainty is None or bundle.uncertainty.conformal is None:
        TERMINAL.warn(
            f"{bundle.path} holds no answers to held-out images, so answers come without sets and intervals. "
            "Train again, with validation images, to have them."
        )


def _format_answer(prediction: Prediction, coverage: float) -> str:
    """Return each label with its probability, or each target with its value and interval."""
    level = f"{100 * coverage:g} %"
    if prediction.task == "regression":
        return ", ".join(_format_number(name, prediction, level) for name in prediction.values)
    if not prediction.labels:
        return "no label"
    text = ", ".join(f"{make_printable(name)}\t{prediction.values[name]:.3f}" for name in prediction.labels)
    if not prediction.undecided:
        return text
    shown, others = prediction.set[:MAX_NAMES], len(prediction.set) - MAX_NAMES
    names = [make_printable(name) for name in shown] + ([f"{others} more"] if others > 0 else [])
    return f"{text}\tundecided between {', '.join(names[:-1])} and {names[-1]} at {level}"


def _describe_strangeness(prediction: Prediction) -> str:
    """Return a remark for an image that is not like those of training, else nothing."""
    if prediction.known or prediction.familiarity is None:
        return ""
    share = 100 * prediction.familiarity
    return f"\tnot like the training images (familiarity {'below 0.1' if share < 0.1 else f'{share:.1f}'} %)"


def _format_number(name: str, prediction: Prediction, level: str) -> str:
    text = f"{make_printable(name)}\t{prediction.values[name]:.3f}"
    if name not in prediction.interval:
        return text
    low, high = prediction.interval[name]
    if not math.isfinite(low):
        return f"{text} (too few held-out images for an interval at {level})"
    return f"{text} ({low:.3f} to {high:.3f} at {level})"
