"""`regraft recommend`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

import regraft.cli.options as opt
from regraft.recipe import Recipe
from regraft.system.console import print_table, printable

__all__ = ["recommend"]


def recommend(  # noqa: PLR0917 - typer reads the options off the signature
    data: opt.DataArgument,
    backbones: Annotated[
        str | None,
        typer.Option(help="Those to try, by commas, each as for train. [one of each kind, seven]"),
    ] = None,
    sources: Annotated[
        str | None,
        typer.Option(
            "--weights", help="imagenet, a file, or random; once, or once each, by commas. [imagenet]"
        ),
    ] = None,
    sample: Annotated[int, typer.Option(min=4, help="Images to look at, of every class its share.")] = 1000,
    image: opt.ImageColumn = None,
    target: opt.TargetColumns = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups no fold tears apart.")] = None,
    split: opt.SplitColumn = None,
    separator: opt.SeparatorOption = None,
    task: opt.TaskOption = None,
    pixels: Annotated[str | None, typer.Option(help="What your own backbones expect. [raw]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels the backbones see. [each backbone's own]")
    ] = None,
    pooling: Annotated[str | None, typer.Option(help="avg, max or both. [avg]")] = None,
    as_json: opt.Json = False,
    trust: opt.TrustOption = False,
    store: opt.StoreOption = None,
) -> None:
    """Rank backbones on your own images, before anything is trained. What they computed is kept for train."""
    from regraft.pipeline.prepare import choose_backend
    from regraft.pipeline.recommend import BACKBONES
    from regraft.pipeline.recommend import recommend as rank

    recipe = opt.override(Recipe(), locals())
    candidates = opt.names(backbones or "none") or BACKBONES
    choose_backend(*candidates)
    found = rank(
        data,
        recipe,
        backbones=candidates,
        weights=opt.names(sources or "none") or "imagenet",
        sample=sample,
        trust=trust,
        store=store,
    )
    if as_json:
        print(json.dumps(asdict(found)))
        return
    rows = [
        (
            each.backbone,
            f"{each.score:.3f}",
            f"{each.logme:.3f}",
            f"{each.h_score:.2f}",
            f"{each.images_per_second:.0f}",
            f"{each.parameters / 1e6:.1f}",
            f"{each.megabytes:.0f}",
            str(each.image_size),
        )
        for each in found.ranked
    ]
    header = ("backbone", found.score_name, "LogME", "H-score", "images/s", "params M", "MB", "px")
    print_table(header, rows)
    for each in found.left_out:
        print(f"Left out: {printable(each.backbone)}: {printable(each.reason)}")
    print(printable(found.advice))
    print(f"Next: {printable(found.command)}")
