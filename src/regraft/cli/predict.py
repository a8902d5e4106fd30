"""The commands `regraft predict` and `regraft evaluate`, which run a trained model on images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import regraft.cli.options as opt
from regraft.cli.output import print_scores
from regraft.system.console import make_printable

if TYPE_CHECKING:
    from regraft.inference.bundle import Prediction

__all__ = ["evaluate", "predict"]


def predict(
    run: opt.RunArgument,
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    *,
    trust: opt.TrustFlag = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Print the label and probability of each image; a bad image is named with the reason."""
    from regraft.data.catalog import RejectedFile
    from regraft.inference.bundle import load

    for answer in load(run, trust=trust).predict(images):
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


def evaluate(
    run: opt.RunArgument,
    data: opt.DataArgument,
    *,
    trust: opt.TrustFlag = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Score a trained model on labelled images, separately for each part."""
    from regraft.inference.bundle import load

    evaluations = load(run, trust=trust).evaluate(data)
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


def _format_answer(prediction: Prediction) -> str:
    """Return each label with its probability, or each target with its value."""
    if not prediction.labels and prediction.task == "multilabel":
        return "no label"
    names = prediction.labels or prediction.values
    return ", ".join(f"{make_printable(name)}\t{prediction.values[name]:.3f}" for name in names)
