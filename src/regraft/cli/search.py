"""`regraft search`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.cli.options import finish
from regraft.recipe import Recipe, Space
from regraft.system.console import print_table

__all__ = ["search"]


def search(  # noqa: PLR0917 - typer reads the options off the signature
    data: opt.DataArgument,
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
    solvers: Annotated[
        list[str] | None,
        typer.Option("--solver", help="Of the head, to try; once for each. [logistic, ridge, lda]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of the longest attempts. [9]")] = None,
    recipe: Annotated[Path | None, typer.Option(help="recipe.toml for everything else.")] = None,
    image: opt.ImageColumn = None,
    target: opt.TargetColumns = None,
    separator: opt.SeparatorOption = None,
    task: opt.TaskOption = None,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    pixels: opt.PixelsOption = None,
    image_size: opt.ImageSizeOption = None,
    augment: Annotated[str | None, typer.Option(help="As for train. [flip,crop for labels]")] = None,
    seed: opt.SeedOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")] = False,
    trust: opt.TrustOption = False,
    store: opt.StoreOption = None,
) -> None:
    """Find how many layers to train, at which rates, on which head; write the best as a run folder."""
    from regraft.pipeline.train import search as run_search

    settings = opt.override(Recipe.from_toml(recipe) if recipe else Recipe(), locals())
    lists = {
        "plans": unfreeze,
        "learning_rates": learning_rate,
        "backbone_rates": backbone_rate,
        "solvers": solvers,
    }
    chosen: dict[str, Any] = {name: tuple(values) for name, values in lists.items() if values}
    if epochs is not None:
        chosen["epochs"] = epochs
    space = replace(Space(), **chosen)
    run = run_search(data, settings, out, space=space, overwrite=overwrite, trust=trust, store=store)
    _print_attempts(run.metrics["search"])
    finish(run)


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
