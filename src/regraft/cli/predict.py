"""The commands `regraft predict` and `regraft evaluate`, which run a trained model on images."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.cli.output import print_scores
from regraft.errors import UsageError
from regraft.system.console import make_printable

if TYPE_CHECKING:
    from regraft.inference.bundle import Prediction

__all__ = ["evaluate", "predict"]


def predict(
    run: opt.RunArgument,
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, or folders of them; - reads their paths from standard input."),
    ],
    *,
    trust: opt.TrustFlag = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Print the label and probability of each image; a bad image is named with the reason."""
    from regraft.data.catalog import RejectedFile
    from regraft.inference.bundle import load

    paths = [path for image in images for path in (_read_paths() if image == "-" else [image])]
    for answer in load(run, trust=trust).predict(paths):
        if as_json:
            line = (
                {"image": answer.image, "refused": answer.code}
                if isinstance(answer, RejectedFile)
                else {**asdict(answer), "label": answer.label}
            )
            print(json.dumps(line), flush=True)
        elif isinstance(answer, RejectedFile):
            print(f"{make_printable(answer.image)}\trefused: {answer.code} ({answer.detail})")
        else:
            print(f"{make_printable(answer.image)}\t{_format_answer(answer)}")


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
        item.part: {"n": item.n, **{name: asdict(score) for name, score in item.scores.items()}}
        for item in evaluations
    }
    refused = [asdict(file) for file in evaluations[0].refused] if evaluations else []
    if as_json:
        print(json.dumps({**scores, "refused": refused}))
    else:
        print_scores(scores)
        for file in refused:
            print(f"Refused {make_printable(file['image'])}: {file['code']} ({file['detail']})")


def _read_paths() -> list[str]:
    """Return the paths on standard input, one a line, or ended by zero bytes as `find -print0` does."""
    data = sys.stdin.buffer.read()
    lines = data.split(b"\0") if b"\0" in data else data.splitlines()
    paths = [os.fsdecode(line) for line in lines if line]
    if not paths:
        raise UsageError("Expected paths on standard input, one a line. Received none.")
    return paths


def _format_answer(prediction: Prediction) -> str:
    """Return each label with its probability, or each target with its value."""
    if not prediction.labels and prediction.task == "multilabel":
        return "no label"
    names = prediction.labels or prediction.values
    return ", ".join(f"{make_printable(name)}\t{prediction.values[name]:.3f}" for name in names)
