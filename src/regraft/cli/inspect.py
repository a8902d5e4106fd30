"""`regraft inspect`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.cli.options import Json
from regraft.cli.show import safe
from regraft.console import print_table
from regraft.errors import ModelRefused

if TYPE_CHECKING:
    from regraft.deploy.inspection import Inspection

__all__ = ["inspect"]


def inspect(
    model: Annotated[Path, typer.Argument(help="A .keras file, or a run folder.")],
    as_json: Json = False,
) -> None:
    """Say what a model file holds without opening it in Keras; exit 5 if it would be refused."""
    from regraft.deploy.inspection import inspect as look

    found = look(model)
    if as_json:
        print(json.dumps(asdict(found)))
    else:
        _print_inspection(found)
    if found.suspicious or found.changed:
        sys.exit(ModelRefused.exit_code)


def _print_inspection(found: Inspection) -> None:
    print(f"{safe(found.file)}: {found.bytes:,} bytes, sha256 {found.sha256}")
    print(f"saved by    {safe(found.saved_by)}")
    for name, shape in found.inputs:
        print(f"takes       {safe(name)} {safe(str(shape))}")
    print(f"gives       {safe(', '.join(found.outputs))}")
    print(f"parameters  {found.parameters:,} in {safe(', '.join(found.types))}")
    for digest in found.savedmodels:
        print(f"SavedModel  sha256 {safe(digest)}, a program: loaded only with --trust")
    if found.kinds:
        rows = [
            (safe(kind.name), str(kind.layers), f"{kind.parameters:,}", kind.package) for kind in found.kinds
        ]
        print_table(("layers", "number", "parameters", "package"), rows)
    if found.manifest is not None:
        for name in ("task", "outputs", "backbone", "head", "trained", "versions"):
            print(f"{name:<11} {safe(json.dumps(found.manifest[name], ensure_ascii=False))}")
        for name in found.manifest["files"]:
            print(f"{'CHANGED' if name in found.changed else 'unchanged':<11} {safe(name)}")
    for reason in found.suspicious:
        print(f"REFUSED     {safe(reason)}")
    if not found.suspicious:
        print("Nothing in it is suspicious.")
