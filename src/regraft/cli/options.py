"""What the options of several commands have in common: their types, and texts as values."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from regraft.errors import UsageError
from regraft.recipe import Phase

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
    "given",
    "names",
    "phases",
    "whole_numbers",
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


def given(options: dict[str, Any]) -> dict[str, Any]:
    """Those that were said."""
    return {name: value for name, value in options.items() if value is not None}


def names(text: str | None) -> tuple[str, ...] | None:
    """Words by commas; none of them for "none"."""
    if text is None:
        return None
    return () if text == "none" else tuple(name.strip() for name in text.split(",") if name.strip())


def whole_numbers(text: str | None) -> tuple[int, ...] | None:
    """Numbers by commas.

    Raises:
        UsageError: something else.
    """
    try:
        return None if text is None else tuple(int(number) for number in names(text) or ())
    except ValueError as error:
        raise UsageError(f"hidden: expected whole numbers such as 512,128. Received: {text}.") from error


def phases(
    start: tuple[Phase, ...],
    plans: list[str] | None,
    learning_rates: list[float] | None,
    epochs: list[int] | None,
) -> tuple[Phase, ...] | None:
    """The recipe's phases with what the command line says of them; None where it says nothing.

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
    return phases if plans or learning_rates or epochs else None
