"""The command `regraft train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.cli.output import finish_run
from regraft.errors import UsageError
from regraft.system.console import TERMINAL
from regraft.system.reporters import JsonReporter, QuietReporter

__all__ = ["train"]


@opt.with_settings(
    "image", "target", "group", "split", "weight", "separator", "root", "slice", "task",
    "backbone", "max_latency", "weights", "pixels", "classifier", "image_size", "depth",
    "unfreeze", "learning_rate", "epochs", "budget", "precision", "store_limit",
    "augment", "views", "feature_noise", "class_weight", "solver", "hidden", "pooling", "taps", "refit",
    "seed",
    backbone="Backbone: a name from `regraft backbones`, a .keras file, a SavedModel's folder or handle, or "
    "a preset kerashub:NAME; several by commas, under one head; or auto: those that recommend ranks first.",
    weights="Weights of the backbone: imagenet, a file, or random; your own backbone brings its own; for "
    "several networks once, or one for each, comma-separated.",
    max_latency="Milliseconds an image that the networks of --backbone auto may take on this machine: 1000 "
    "divided by recommend's images/s. [default: any]",
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
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON, one object a line for each stage, for programs.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show warnings and scores, no progress.")] = False,
    trust: opt.TrustFlag = False,
    store: opt.StoreOption = None,
) -> None:
    """Train a model on a folder or table of images; write a run folder with model, report and scores."""
    if as_json and quiet:
        raise UsageError("--json and --quiet: expected one of them. Received both.")
    from regraft.pipeline.prepare import choose_backend
    from regraft.pipeline.train import train as run_training

    chosen = opt.make_recipe(settings, recipe)
    source = data or (Path(chosen.data) if chosen.data else None)
    if source is None:
        raise UsageError(
            "Expected a folder or table of images, or a recipe that names one. Received: neither."
        )
    choose_backend(chosen.backbone, trains=chosen.needs_gradients)
    reporter = JsonReporter() if as_json else QuietReporter() if quiet else TERMINAL
    run = run_training(
        source, chosen, out,
        overwrite=overwrite, resume=resume, trust=trust, store=store, reporter=reporter,
    )  # fmt: skip
    finish_run(run, reporter)
