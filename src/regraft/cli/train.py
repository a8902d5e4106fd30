"""The command `regraft train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.cli.output import finish_run
from regraft.errors import UsageError

__all__ = ["train"]


@opt.with_settings(
    "image", "target", "group", "split", "weight", "separator", "root", "slice", "task",
    "backbone", "weights", "pixels", "classifier", "image_size", "depth",
    "unfreeze", "learning_rate", "epochs", "budget", "precision", "store_limit",
    "augment", "views", "feature_noise", "class_weight", "solver", "hidden", "pooling", "taps", "refit",
    "seed",
)  # fmt: skip
def train(
    data: Annotated[Path | None, opt.DATA] = None,
    out: opt.RunFolder = Path("run"),
    *,
    recipe: opt.RecipeFile = None,
    settings: Mapping[str, Any],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier run in OUT, which holds nothing else.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the same command where it was stopped or killed.")
    ] = False,
    trust: opt.TrustFlag = False,
    store: opt.StoreOption = None,
) -> None:
    """Train a model on a folder or table of images; write a run folder with model, report and scores."""
    from regraft.pipeline.prepare import choose_backend
    from regraft.pipeline.train import train as run_training

    chosen = opt.make_recipe(settings, recipe)
    source = data or (Path(chosen.data) if chosen.data else None)
    if source is None:
        raise UsageError(
            "Expected a folder or table of images, or a recipe that names one. Received: neither."
        )
    choose_backend(chosen.backbone, trains=chosen.needs_gradients)
    finish_run(
        run_training(source, chosen, out, overwrite=overwrite, resume=resume, trust=trust, store=store)
    )
