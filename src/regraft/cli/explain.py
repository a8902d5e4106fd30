"""The command `regraft explain`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import regraft.cli.options as opt
from regraft.cli.predict import read_image_paths
from regraft.system.console import make_printable

__all__ = ["explain"]


def explain(
    run: opt.RunArgument,
    images: Annotated[
        list[str],
        typer.Argument(help="Image files, or folders of them; - reads their paths from standard input."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="HTML file to create.")] = Path(
        "explanations.html"
    ),
    *,
    coverage: Annotated[
        float, typer.Option(help="Share of images whose set or interval should hold the truth.")
    ] = 0.9,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file OUT.")] = False,
    trust: opt.TrustFlag = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Show where in each image the evidence for its answer lies, and the training images nearest to it."""
    from regraft.pipeline.explain import explain as explain_images

    result = explain_images(
        run, read_image_paths(images), out, coverage=coverage, overwrite=overwrite, trust=trust
    )
    if as_json:
        print(
            json.dumps(
                {
                    "page": str(result.path),
                    "images": [asdict(one) for one in result.predictions],
                    "refused": [asdict(file) for file in result.refused],
                }
            )
        )
        return
    for file in result.refused:
        print(f"{make_printable(file.image)}\trefused: {file.code} ({file.detail})")
    print(f"{make_printable(str(result.path))}: {len(result.predictions):,} images explained")
