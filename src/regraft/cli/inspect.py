"""The command `regraft inspect`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import regraft.cli.options as opt
from regraft.errors import ModelRefused
from regraft.system.console import make_printable, print_table

if TYPE_CHECKING:
    from regraft.pipeline.inspect import Inspection

__all__ = ["inspect"]


def inspect(
    model: Annotated[Path, typer.Argument(help="A .keras file, or a run folder.")],
    as_json: opt.JsonFlag = False,
) -> None:
    """Show the content of a model file without opening it in Keras; exit with 5 if it would be refused."""
    from regraft.pipeline.inspect import inspect as inspect_file

    inspection = inspect_file(model)
    if as_json:
        print(json.dumps(asdict(inspection)))
    else:
        _print_inspection(inspection)
    if inspection.suspicious or inspection.changed:
        sys.exit(ModelRefused.exit_code)


def _print_inspection(inspection: Inspection) -> None:
    print(f"{make_printable(inspection.file)}: {inspection.bytes:,} bytes, sha256 {inspection.sha256}")
    print(f"saved by    {make_printable(inspection.saved_by)}")
    for name, shape in inspection.inputs:
        print(f"takes       {make_printable(name)} {make_printable(str(shape))}")
    print(f"gives       {make_printable(', '.join(inspection.outputs))}")
    print(f"parameters  {inspection.parameters:,} in {make_printable(', '.join(inspection.types))}")
    for digest in inspection.savedmodels:
        print(f"SavedModel  sha256 {make_printable(digest)}, a program: loaded only with --trust")
    if inspection.kinds:
        rows = [
            (make_printable(kind.name), str(kind.layers), f"{kind.parameters:,}", kind.package)
            for kind in inspection.kinds
        ]
        print_table(("layers", "number", "parameters", "package"), rows)
    if inspection.manifest is not None:
        for name in ("task", "outputs", "backbone", "head", "trained", "versions"):
            print(f"{name:<11} {make_printable(json.dumps(inspection.manifest[name], ensure_ascii=False))}")
        for name in inspection.manifest["files"]:
            print(f"{'CHANGED' if name in inspection.changed else 'unchanged':<11} {make_printable(name)}")
    for reason in inspection.suspicious:
        print(f"REFUSED     {make_printable(reason)}")
    if not inspection.suspicious:
        print("Nothing in it is suspicious.")
