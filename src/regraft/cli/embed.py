"""`regraft embed`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from regraft.cli.options import (
    BackboneOption,
    ImageColumn,
    ImageSizeOption,
    PixelsOption,
    StoreOption,
    TrustOption,
    WeightsOption,
    given,
    names,
)
from regraft.cli.show import safe

__all__ = ["embed"]


def embed(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[
        Path, typer.Argument(help="Folder of images, with or without class folders; or a table.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="File to make: .parquet, .csv, .npz or .npy.")
    ] = Path("features.parquet"),
    image: ImageColumn = None,
    target: Annotated[str | None, typer.Option(help="Column to copy as the class. [none]")] = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    pixels: PixelsOption = None,
    image_size: ImageSizeOption = None,
    pooling: Annotated[str | None, typer.Option(help="avg, max or both. [avg]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier OUT.")] = False,
    trust: TrustOption = False,
    store: StoreOption = None,
) -> None:
    """Write the frozen backbone's features of images to a file, a row an image."""
    from regraft.embedding import embed as embed_images
    from regraft.prepare import choose_backend
    from regraft.recipe import HeadSpec, Recipe

    chosen = {
        "image": names(image),
        "target": names(target),
        "backbone": backbone,
        "weights": weights,
        "pixels": pixels,
        "image_size": image_size,
        "head": None if pooling is None else HeadSpec(pooling=pooling),  # type: ignore[arg-type]
    }
    recipe = replace(Recipe(), **given(chosen))
    choose_backend(recipe.backbone)
    found = embed_images(data, recipe, out, overwrite=overwrite, trust=trust, store=store)
    print(f"{safe(str(found.path))}: {found.images:,} images, {found.features:,} features each")
