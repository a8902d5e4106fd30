"""`regraft search`."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from regraft.cli.options import (
    BackboneOption,
    DataArgument,
    ImageColumn,
    ImageSizeOption,
    PixelsOption,
    SeedOption,
    SeparatorOption,
    StoreOption,
    TargetColumns,
    TaskOption,
    TrustOption,
    WeightsOption,
    given,
    names,
)
from regraft.cli.show import print_scores
from regraft.console import print_table
from regraft.signals import exit_code

__all__ = ["search"]


def search(  # noqa: PLR0917 - typer reads the options off the signature
    data: DataArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to make.")] = Path("run"),
    budget: Annotated[str, typer.Option(help="Time that the search may take, such as 30min.")] = "30min",
    unfreeze: Annotated[
        list[str] | None,
        typer.Option(help="A plan to try, as for train; once for each. [four, from a little to all]"),
    ] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(help="Peak rate of the head to try; once for each. [0.001, 0.0003, 0.003]"),
    ] = None,
    backbone_rate: Annotated[
        list[float] | None,
        typer.Option(help="Rate of pre-trained layers to try, as a share of it; once for each. [0.3, 0.1]"),
    ] = None,
    solver: Annotated[
        list[str] | None, typer.Option(help="Of the head, to try; once for each. [logistic, ridge, lda]")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the longest attempts. [9]")] = None,
    recipe: Annotated[Path | None, typer.Option(help="recipe.toml for everything else.")] = None,
    image: ImageColumn = None,
    target: TargetColumns = None,
    separator: SeparatorOption = None,
    task: TaskOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    pixels: PixelsOption = None,
    image_size: ImageSizeOption = None,
    augment: Annotated[str | None, typer.Option(help="As for train. [flip,crop for labels]")] = None,
    seed: SeedOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")] = False,
    trust: TrustOption = False,
    store: StoreOption = None,
) -> None:
    """Find how many layers to train, at which rates, on which head; write the best as a run folder."""
    from regraft.recipe import Recipe, Space, parse_duration
    from regraft.run import search as run_search

    start = Recipe.from_toml(recipe) if recipe else Recipe()
    chosen = {
        "image": names(image),
        "target": names(target),
        "separator": separator,
        "task": task,
        "backbone": backbone,
        "weights": weights,
        "pixels": pixels,
        "image_size": image_size,
        "budget": parse_duration(budget),
        "augment": names(augment),
        "seed": seed,
    }
    lists = {
        "plans": unfreeze,
        "learning_rates": learning_rate,
        "backbone_rates": backbone_rate,
        "solvers": solver,
    }
    named = {name: tuple(values) for name, values in lists.items() if values}
    space = replace(Space(), **named, **given({"epochs": epochs}))  # type: ignore[arg-type]
    run = run_search(
        data, replace(start, **given(chosen)), out, space=space, overwrite=overwrite, trust=trust, store=store
    )
    _print_attempts(run.metrics["search"])
    print_scores(run.metrics)
    print(f"Report: {run.path / 'report.html'}")
    if run.interrupted:
        sys.exit(exit_code())


def _print_attempts(attempts: list[dict[str, Any]]) -> None:
    """What a search tried, the model first."""
    header = ("unfreeze", "head", "rate", "backbone rate", "epochs", "loss", "score", "seconds")
    rows = [
        (
            each["unfreeze"],
            each["head"],
            *(
                "-" if each[name] is None else f"{each[name]:g}"
                for name in ("learning_rate", "backbone_rate")
            ),
            str(each["epochs"] or "-"),
            f"{each['val_loss']:.4f}",
            f"{each['val_score']:.3f}",
            f"{each['seconds']:.0f}",
        )
        for each in sorted(attempts, key=lambda each: (not each["kept"], each["val_loss"]))
    ]
    print_table(header, rows)
