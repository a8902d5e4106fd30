"""The commands `regraft backbones` and `regraft demo`, which need no data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

import regraft.cli.options as opt

__all__ = ["backbones", "demo"]

_COLUMNS = (
    ("image_size", 4), ("min_size", 4), ("parameters_m", 9), ("size_mb", 6), ("top1", 6), ("top5", 6),
)  # fmt: skip


def backbones(as_json: opt.JsonFlag = False) -> None:
    """List the backbones of keras.applications: size, parameters, accuracy, and weights on disk."""
    from regraft.backbones.zoo import ZOO, find_weights_on_disk

    rows = [
        {
            "name": entry.name,
            **{column: getattr(entry, column) for column, _ in _COLUMNS},
            "on_disk": str(find_weights_on_disk(entry) or ""),
        }
        for entry in ZOO.values()
    ]
    if as_json:
        print(json.dumps(rows))
        return
    print(f"{'name':<22} {'px':>4} {'min':>4} {'params M':>9} {'MB':>6} {'top-1':>6} {'top-5':>6}  weights")
    for row in rows:
        cells = (f"{row[key] if row[key] is not None else '-':>{width}}" for key, width in _COLUMNS)
        print(f"{row['name']:<22} {' '.join(cells)}  {'on disk' if row['on_disk'] else 'to download'}")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to create.")] = Path("demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier demo in OUT.")] = False,
) -> None:
    """Show transfer learning in a minute, offline: digits 5-9 with a network that was trained on 0-4."""
    from regraft.pipeline.demo import run_demo

    result = run_demo(out, overwrite=overwrite)
    print(f"20 images a class, the same small network, top-1 on {result.tested} test images:")
    print(f"  grafted (pre-trained on the digits 0-4): {result.grafted:.3f}")
    print(f"  from scratch:                            {result.scratch:.3f}")
    print(f"Report: {result.report}")
