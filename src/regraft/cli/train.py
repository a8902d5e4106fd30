"""`regraft train`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

import regraft.cli.options as opt
from regraft.cli.options import finish
from regraft.errors import UsageError
from regraft.recipe import AUGMENTATIONS, Recipe

__all__ = ["train"]


def train(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[
        Path | None,
        typer.Argument(help="Folder of class folders, or one with train, validation and test; or a table."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Run folder to make.")] = Path("run"),
    recipe: Annotated[
        Path | None, typer.Option(help="recipe.toml to start from; other options override it.")
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Column of the table with image files; several make one sample.")
    ] = None,
    target: opt.TargetColumns = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups no split tears apart.")] = None,
    split: opt.SplitColumn = None,
    separator: opt.SeparatorOption = None,
    task: Annotated[
        str | None, typer.Option(help="multiclass, binary, multilabel or regression. [told from the data]")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="A name of `regraft backbones`, a .keras file, a SavedModel's folder or handle, or a preset "
            "kerashub:NAME. [mobilenet_v2]"
        ),
    ] = None,
    weights: opt.WeightsOption = None,
    pixels: Annotated[
        str | None, typer.Option(help="What your own backbone expects: raw, unit, tf, torch or caffe. [raw]")
    ] = None,
    image_size: opt.ImageSizeOption = None,
    unfreeze: Annotated[
        list[str] | None,
        typer.Option(
            help="none, all, last:N, from:I, stage:NAME, match:REGEX or auto; once for each phase. [auto]"
        ),
    ] = None,
    learning_rate: Annotated[
        list[float] | None, typer.Option(help="Peak rate of the head; once, or once for each phase. [0.001]")
    ] = None,
    epochs: Annotated[
        list[int] | None, typer.Option(help="Passes; once, or once for each phase. [what the budget holds]")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(help="Time that training may take, such as 90s, 10min, 1h. [15min]")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of the frozen network: f32, bf16 or auto, which compares them. [auto]")
    ] = None,
    store_limit: Annotated[
        str | None,
        typer.Option(help="What phases may store of their frozen part, such as 500MB or 10GB. [20GB]"),
    ] = None,
    augment: Annotated[
        str | None, typer.Option(help=f"Any of {','.join(AUGMENTATIONS)}, or none. [flip,crop for labels]")
    ] = None,
    views: Annotated[
        int | None, typer.Option(help="Versions of an image that what is frozen sees. [up to 4, or 1]")
    ] = None,
    feature_noise: Annotated[
        float | None,
        typer.Option(help="Relative noise on channels of stored features that gradients train on. [0]"),
    ] = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: rare classes or labels count as much. [none]")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="Of the head: logistic, ridge, svm, svm-rbf, lda, neighbours, boosting or gradient. [auto]"
        ),
    ] = None,
    hidden: Annotated[
        str | None, typer.Option(help="Units of hidden layers of the head, such as 512 or 512,128. [none]")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="avg, max, both, gem or attention. [avg]")] = None,
    taps: Annotated[
        str | None,
        typer.Option(
            help="Layers whose features the head sees: last, late or auto (chosen from the last). [last]"
        ),
    ] = None,
    seed: opt.SeedOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run in OUT.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was stopped or killed.")
    ] = False,
    trust: opt.TrustOption = False,
    store: opt.StoreOption = None,
) -> None:
    """Train a model on a folder or table of images and write a run folder with model, report and scores."""
    from regraft.pipeline.prepare import choose_backend
    from regraft.pipeline.train import train as run_recipe

    start = Recipe.from_toml(recipe) if recipe else Recipe()
    source = data or (Path(start.data) if start.data else None)
    if source is None:
        raise UsageError(
            "Expected a folder or table of images, or a recipe that names one. Received: neither."
        )
    said = opt.override(start, locals())
    settings = replace(said, phases=opt.phases(start.phases, unfreeze, learning_rate, epochs))
    choose_backend(settings.backbone, trains=settings.needs_gradients)
    run = run_recipe(source, settings, out, overwrite=overwrite, resume=resume, trust=trust, store=store)
    finish(run)
