"""What the options of several commands have in common: their types, and texts as values.

What a finished run prints: its scores, where its report is; and the exit code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from regraft.errors import UsageError
from regraft.recipe import HeadSpec, Phase, Recipe, parse_duration, parse_size
from regraft.system.signals import exit_code

if TYPE_CHECKING:
    from regraft.pipeline.train import Run

__all__ = [
    "BackboneOption",
    "DataArgument",
    "ImageColumn",
    "ImageSizeOption",
    "Json",
    "PixelsOption",
    "SeedOption",
    "SeparatorOption",
    "SplitColumn",
    "StoreOption",
    "TargetColumns",
    "TaskOption",
    "TrustOption",
    "WeightsOption",
    "finish",
    "names",
    "override",
    "phases",
    "print_scores",
]


DataArgument = Annotated[Path, typer.Argument(help="Folder of class folders, or a table, as for train.")]
ImageColumn = Annotated[str | None, typer.Option(help="Column of the table with image files.")]
TargetColumns = Annotated[str | None, typer.Option(help="Column or columns to predict, by commas.")]
SplitColumn = Annotated[str | None, typer.Option(help="Column that says train, validation or test.")]
SeparatorOption = Annotated[str | None, typer.Option(help="What stands between labels in one cell.")]
TaskOption = Annotated[str | None, typer.Option(help="As for train. [told from the data]")]
BackboneOption = Annotated[str | None, typer.Option(help="As for train. [mobilenet_v2]")]
WeightsOption = Annotated[str | None, typer.Option(help="imagenet, a file, or random. [imagenet]")]
PixelsOption = Annotated[str | None, typer.Option(help="What your own backbone expects. [raw]")]
ImageSizeOption = Annotated[
    int | None, typer.Option(help="Side in pixels the backbone sees. [the backbone's own]")
]
SeedOption = Annotated[int | None, typer.Option(help="Of the split and of everything random. [0]")]
TrustOption = Annotated[
    bool, typer.Option("--trust", help="Run the graph of a SavedModel: you know where it comes from.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON to standard output, for programs.")]
StoreOption = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of computed features. Default: the user's cache, or $REGRAFT_HOME."),
]


def names(text: str) -> tuple[str, ...]:
    """Split words at commas; "none" gives no word."""
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def _whole_numbers(text: str) -> tuple[int, ...]:
    """Split whole numbers at commas.

    Raises:
        UsageError: something else.
    """
    try:
        return tuple(int(number) for number in names(text))
    except ValueError as error:
        raise UsageError(f"hidden: expected whole numbers such as 512,128. Received: {text}.") from error


_READ: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(("image", "target", "augment"), names),
    "hidden": _whole_numbers,
    "budget": parse_duration,
    "store_limit": parse_size,
}


def override(start: Recipe, options: Mapping[str, Any]) -> Recipe:
    """Replace what a command's options of the same names say about a recipe or its head.

    Args:
        start: the recipe to start from.
        options: all parameters of the command; None is an option that was not given, and names that are no
            field of `Recipe` or `HeadSpec` are ignored, as are `data` and `head`.
    """
    values = {
        name: _READ[name](text) if name in _READ else text
        for name, text in options.items()
        if text is not None
    }
    head = {field.name: values[field.name] for field in fields(HeadSpec) if field.name in values}
    own = {field.name: values[field.name] for field in fields(Recipe) if field.name in values}
    return replace(start, **{**own, "data": start.data, "head": replace(start.head, **head)})


def phases(
    start: tuple[Phase, ...],
    plans: list[str] | None,
    learning_rates: list[float] | None,
    epochs: list[int] | None,
) -> tuple[Phase, ...]:
    """Replace what the command line says of a recipe's phases.

    Raises:
        UsageError: neither one rate or number of passes nor one for each phase.
    """
    if plans == ["none"] and not learning_rates and not epochs:
        return ()  # the head is solved or trained by its defaults, and that is all
    phases = tuple(Phase(plan) for plan in plans) if plans else start
    for name, values in (("learning_rate", learning_rates), ("epochs", epochs)):
        if values and len(values) not in (1, len(phases)):
            option = name.replace("_", "-")
            raise UsageError(
                f"--{option}: expected one, or one for each of {len(phases)} phases. Received: {len(values)}."
            )
        if values:
            each = values * len(phases) if len(values) == 1 else values
            changes: list[dict[str, Any]] = [{name: value} for value in each]
            phases = tuple(replace(phase, **change) for phase, change in zip(phases, changes, strict=True))
    return phases


def finish(run: Run) -> None:
    """Print a run's scores and the place of its report; exit with the signal's code if one stopped it."""
    print_scores(run.metrics)
    print(f"Report: {run.path / 'report.html'}")
    if run.interrupted:
        sys.exit(exit_code())


def print_scores(scores: dict[str, Any]) -> None:
    """The scores of each part with their intervals, as in metrics.json."""
    for part in ("test", "validation", "train", "all"):
        if part not in scores:
            continue
        print(f"{part}, {scores[part]['n']:,} images:")
        for name, score in scores[part].items():
            if name != "n":
                print(f"  {name:<18} {score['value']:.3f}   95 % {score['low']:.3f} to {score['high']:.3f}")
