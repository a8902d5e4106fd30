"""The command `regraft export`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

import regraft.cli.options as opt
from regraft.system.console import make_printable

__all__ = ["export"]


def export(
    run: opt.RunArgument,
    to: Annotated[str, typer.Option(help="Format: openvino, onnx, litert, savedmodel or keras.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to create.")] = Path("export"),
    *,
    int8: Annotated[
        bool,
        typer.Option(
            "--int8", help="Quantize to 8-bit integers (openvino, onnx, litert), if the score stays."
        ),
    ] = False,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Take images of any size and resize them (openvino, onnx).")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    trust: opt.TrustFlag = False,
    as_json: opt.JsonFlag = False,
) -> None:
    """Write a trained model in another runtime's format, once it answers as the run does."""
    from regraft.exports.export import export as export_run

    result = export_run(run, to, out, int8=int8, any_size=any_size, overwrite=overwrite, trust=trust)
    if as_json:
        print(json.dumps({**asdict(result), "path": str(result.path)}))
        return
    size = f"{result.bytes / 1e6:.1f} MB"
    print(f"{make_printable(str(result.path))}: {result.format}, {size}")
    if result.drop is not None:
        print(f"  score   {0 - result.drop:+.1f} points on {result.images:,} held-out images")
    else:
        tested = f"the self-test and {result.images:,} images" if result.images else "the self-test"
        print(f"  replay  answers differ by at most {result.difference:.1g} on {tested}")
    print(f"  try     python {make_printable(str(result.path / 'predict.py'))} IMAGE")
