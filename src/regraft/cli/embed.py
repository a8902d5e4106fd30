"""The command `regraft embed`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.system.console import make_printable

__all__ = ["embed"]


@opt.with_settings(
    "image", "target", "root", "backbone", "weights", "pixels", "classifier", "image_size", "depth",
    "precision", "pooling",
    target="Column of the table to copy as the class.",
    pooling="Pooling of the feature map: avg, max or both.",
)  # fmt: skip
def embed(
    data: Annotated[Path, typer.Argument(help="Folder of images, in class folders or not; or a table.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to create: .parquet, .csv, .npz or .npy.")
    ] = Path("features.parquet"),
    *,
    settings: Mapping[str, Any],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file OUT.")] = False,
    trust: opt.TrustFlag = False,
    store: opt.StoreOption = None,
) -> None:
    """Write the frozen backbone's features of images to a file, one row for each image."""
    from regraft.pipeline.embed import embed as embed_images
    from regraft.pipeline.prepare import choose_backend

    recipe = opt.make_recipe(settings)
    choose_backend(recipe.backbone)
    result = embed_images(data, recipe, out, overwrite=overwrite, trust=trust, store=store)
    path = make_printable(str(result.path))
    print(f"{path}: {result.images:,} images, {result.features:,} features each")
