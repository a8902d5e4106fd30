"""The command `regraft recommend`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.settings.network_list import AUTO
from regraft.system.console import make_printable, print_table

if TYPE_CHECKING:
    from regraft.pipeline.recommend import Recommendation

__all__ = ["recommend"]


@opt.with_settings(
    "image", "target", "group", "split", "separator", "root", "task", "pixels", "classifier", "image_size",
    "depth", "precision", "pooling", "max_latency",
    pixels="Pixel values that your own backbones expect: raw, unit, tf, torch or caffe.",
    pooling="Pooling of the feature map: avg, max or both.",
)  # fmt: skip
def recommend(
    data: opt.DataArgument,
    *,
    backbones: Annotated[
        str | None,
        typer.Option(
            help="Backbones to rank, comma-separated, as for train. [default: seven, one per family]"
        ),
    ] = None,
    weights: Annotated[
        str,
        typer.Option(
            help="Weights: imagenet, a file, or random; once, or one for each backbone, comma-separated."
        ),
    ] = "imagenet",
    sample: Annotated[
        int, typer.Option(min=4, help="Number of images to use; each class keeps its share.")
    ] = 1000,
    settings: Mapping[str, Any],
    as_json: opt.JsonFlag = False,
    trust: opt.TrustFlag = False,
    store: opt.StoreOption = None,
) -> None:
    """Rank backbones on your own images without training; what they compute is stored for train."""
    from regraft.pipeline.prepare import choose_backend
    from regraft.pipeline.recommend import BACKBONES
    from regraft.pipeline.recommend import recommend as rank_backbones

    recipe = opt.make_recipe({**settings, "backbone": AUTO})
    candidates = opt.split_commas(backbones or "none") or BACKBONES
    choose_backend(*candidates)
    recommendation = rank_backbones(
        data,
        recipe,
        backbones=candidates,
        weights=opt.split_commas(weights) or "imagenet",
        sample=sample,
        trust=trust,
        store=store,
    )
    if as_json:
        print(json.dumps(asdict(recommendation)))
    else:
        _print_recommendation(recommendation)


def _print_recommendation(recommendation: Recommendation) -> None:
    rows = [
        (
            entry.backbone,
            f"{entry.score:.3f}",
            f"{entry.logme:.3f}",
            f"{entry.h_score:.2f}",
            f"{entry.images_per_second:.0f}",
            f"{entry.parameters / 1e6:.1f}",
            f"{entry.megabytes:.0f}",
            str(entry.image_size),
        )
        for entry in (*recommendation.ranked, *recommendation.pairs)
    ]
    header = ("backbone", recommendation.score_name, "LogME", "H-score", "images/s", "params M", "MB", "px")
    print_table(header, rows)
    for entry in recommendation.left_out:
        print(f"Left out: {make_printable(entry.backbone)}: {make_printable(entry.reason)}")
    print(make_printable(recommendation.advice))
    print(f"Next: {make_printable(recommendation.command)}")
