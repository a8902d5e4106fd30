"""`regraft predict` and `regraft evaluate`: a trained model on images."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import regraft.cli.options as opt
from regraft.cli.options import print_scores
from regraft.system.console import printable

if TYPE_CHECKING:
    from regraft.inference.bundle import Prediction

__all__ = ["evaluate", "predict"]


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder that `regraft train` wrote.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, or folders of them.")],
    trust: opt.TrustOption = False,
    as_json: opt.Json = False,
) -> None:
    """Say what images show: label and probability. A bad image is named with the reason."""
    from regraft.data.catalog import Refused
    from regraft.inference.bundle import load

    for answer in load(run, trust=trust).predict(images):
        if as_json:
            line = (
                {"image": answer.image, "refused": answer.code}
                if isinstance(answer, Refused)
                else {**asdict(answer), "label": answer.label}
            )
            print(json.dumps(line), flush=True)
        elif isinstance(answer, Refused):
            print(f"{printable(answer.image)}\trefused: {answer.code} ({answer.detail})")
        else:
            print(f"{printable(answer.image)}\t{_answer(answer)}")


def evaluate(
    run: Annotated[Path, typer.Argument(help="Run folder that `regraft train` wrote.")],
    data: Annotated[Path, typer.Argument(help="Folder of class folders, as for train.")],
    trust: opt.TrustOption = False,
    as_json: opt.Json = False,
) -> None:
    """Score a trained model on labelled images, each part of them by itself."""
    from regraft.inference.bundle import load

    found = load(run, trust=trust).evaluate(data)
    scores = {
        item.part: {"n": item.n, **{name: asdict(score) for name, score in item.scores.items()}}
        for item in found
    }
    refused = [asdict(item) for item in found[0].refused] if found else []
    if as_json:
        print(json.dumps({**scores, "refused": refused}))
    else:
        print_scores(scores)
        for item in refused:
            print(f"Refused {printable(item['image'])}: {item['code']} ({item['detail']})")


def _answer(prediction: Prediction) -> str:
    """Each label with its probability, or each target with its value."""
    shown = prediction.labels or prediction.values
    if not prediction.labels and prediction.task == "multilabel":
        return "no label"
    return ", ".join(f"{printable(name)}\t{prediction.values[name]:.3f}" for name in shown)
