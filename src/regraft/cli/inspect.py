"""`regraft inspect`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import regraft.cli.options as opt
from regraft.errors import ModelRefused
from regraft.system.console import print_table, printable

if TYPE_CHECKING:
    from regraft.pipeline.inspect import Inspection

__all__ = ["inspect"]


def inspect(
    model: Annotated[Path, typer.Argument(help="A .keras file, or a run folder.")],
    as_json: opt.Json = False,
) -> None:
    """Say what a model file holds without opening it in Keras; exit 5 if it would be refused."""
    from regraft.pipeline.inspect import inspect as look

    found = look(model)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        _print_inspection(found)
    if found.suspicious or found.changed:
        sys.exit(ModelRefused.exit_code)


def _print_inspection(found: Inspection) -> None:
    print(f"{printable(found.file)}: {found.bytes:,} bytes, sha256 {found.sha256}")
    print(f"saved by    {printable(found.saved_by)}")
    for name, shape in found.inputs:
        print(f"takes       {printable(name)} {printable(str(shape))}")
    print(f"gives       {printable(', '.join(found.outputs))}")
    print(f"parameters  {found.parameters:,} in {printable(', '.join(found.types))}")
    for digest in found.savedmodels:
        print(f"SavedModel  sha256 {printable(digest)}, a program: loaded only with --trust")
    if found.kinds:
        rows = [
            (printable(kind.name), str(kind.layers), f"{kind.parameters:,}", kind.package)
            for kind in found.kinds
        ]
        print_table(("layers", "number", "parameters", "package"), rows)
    if found.manifest is not None:
        for name in ("task", "outputs", "backbone", "head", "trained", "versions"):
            print(f"{name:<11} {printable(json.dumps(found.manifest[name], ensure_ascii=False))}")
        for name in found.manifest["files"]:
            print(f"{'CHANGED' if name in found.changed else 'unchanged':<11} {printable(name)}")
    for reason in found.suspicious:
        print(f"REFUSED     {printable(reason)}")
    if not found.suspicious:
        print("Nothing in it is suspicious.")
