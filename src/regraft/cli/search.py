"""The command `regraft search`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.cli.output import finish_run
from regraft.recipe import SearchSpace
from regraft.system.console import print_table

__all__ = ["search"]

_RATES = ", ".join(map(str, SearchSpace.learning_rates))
_SHARES = ", ".join(map(str, SearchSpace.backbone_rates))
_SOLVERS = ", ".join(SearchSpace.solvers)


@opt.with_settings(
    "image", "target", "separator", "root", "slice", "task",
    "backbone", "weights", "pixels", "classifier", "image_size", "depth", "augment", "refit", "seed",
)  # fmt: skip
def search(
    data: opt.DataArgument,
    out: opt.RunFolder = Path("run"),
    *,
    budget: Annotated[str, typer.Option(help="Time for the search, such as 30min.")] = "30min",
    unfreeze: Annotated[
        list[str] | None,
        typer.Option(
            help="Freeze plan to try, as for train; repeatable. [default: four, from few layers to all]"
        ),
    ] = None,
    learning_rate: Annotated[
        list[float] | None,
        typer.Option(help=f"Peak learning rate of the head to try; repeatable. [default: {_RATES}]"),
    ] = None,
    backbone_rate: Annotated[
        list[float] | None,
        typer.Option(
            help="Learning rate of the pre-trained layers to try, as a share of the head's; repeatable. "
            f"[default: {_SHARES}]"
        ),
    ] = None,
    solver: Annotated[
        list[str] | None,
        typer.Option(help=f"Solver of the head to try; repeatable. [default: {_SOLVERS}]"),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(help=f"Epochs of the longest trial. [default: {SearchSpace.epochs}]")
    ] = None,
    recipe: opt.RecipeFile = None,
    settings: Mapping[str, Any],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in OUT, which holds nothing else.")
    ] = False,
    trust: opt.TrustFlag = False,
    store: opt.StoreOption = None,
) -> None:
    """Find how many layers to train, at which rates, on which head; write the best model as a run folder."""
    from regraft.pipeline.train import search as run_search

    chosen = opt.make_recipe({**settings, "budget": budget}, recipe)
    lists = {
        "plans": unfreeze,
        "learning_rates": learning_rate,
        "backbone_rates": backbone_rate,
        "solvers": solver,
    }
    choices: dict[str, Any] = {name: tuple(values) for name, values in lists.items() if values}
    if epochs is not None:
        choices["epochs"] = epochs
    space = SearchSpace(**choices)
    run = run_search(data, chosen, out, space=space, overwrite=overwrite, trust=trust, store=store)
    _print_trials(run.metrics["search"])
    finish_run(run)


def _print_trials(trials: list[dict[str, Any]]) -> None:
    """Print the trials of a search: the chosen one, then the others by loss."""
    header = ("unfreeze", "head", "rate", "backbone rate", "epochs", "loss", "score", "seconds")
    rows = [
        (
            trial["unfreeze"],
            trial["head"],
            *(
                "-" if trial[name] is None else f"{trial[name]:g}"
                for name in ("learning_rate", "backbone_rate")
            ),
            str(trial["epochs"] or "-"),
            f"{trial['val_loss']:.4f}",
            f"{trial['val_score']:.3f}",
            f"{trial['seconds']:.0f}",
        )
        for trial in sorted(trials, key=lambda trial: (not trial["kept"], trial["val_loss"]))
    ]
    print_table(header, rows)
