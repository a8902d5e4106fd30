"""`regraft embed`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import regraft.cli.options as opt
from regraft.recipe import Recipe
from regraft.system.console import printable

__all__ = ["embed"]


def embed(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[
        Path, typer.Argument(help="Folder of images, with or without class folders; or a table.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to make: .parquet, .csv, .npz or .npy.")
    ] = Path("features.parquet"),
    image: opt.ImageColumn = None,
    target: Annotated[str | None, typer.Option(help="Column to copy as the class. [none]")] = None,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    pixels: opt.PixelsOption = None,
    image_size: opt.ImageSizeOption = None,
    pooling: Annotated[str | None, typer.Option(help="avg, max or both. [avg]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier OUT.")] = False,
    trust: opt.TrustOption = False,
    store: opt.StoreOption = None,
) -> None:
    """Write the frozen backbone's features of images to a file, a row an image."""
    from regraft.pipeline.embed import embed as embed_images
    from regraft.pipeline.prepare import choose_backend

    recipe = opt.override(Recipe(), locals())
    choose_backend(recipe.backbone)
    found = embed_images(data, recipe, out, overwrite=overwrite, trust=trust, store=store)
    print(f"{printable(str(found.path))}: {found.images:,} images, {found.features:,} features each")
