"""`regraft check`."""

from __future__ import annotations

import textwrap
from collections import Counter
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import regraft.cli.options as opt
from regraft.errors import EnvironmentFault, UsageError
from regraft.recipe import Recipe
from regraft.system.console import TERMINAL, printable

if TYPE_CHECKING:
    from regraft.pipeline.check import Checkup

__all__ = ["check"]

SHOWN = 5  # cases of a problem


def check(  # noqa: PLR0917 - typer reads the options off the signature
    data: opt.DataArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make, with check.html and check.json.")
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", help="File to write JSON to; - for standard output.")
    ] = None,
    image: opt.ImageColumn = None,
    target: opt.TargetColumns = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups belong together.")] = None,
    split: opt.SplitColumn = None,
    separator: opt.SeparatorOption = None,
    task: opt.TaskOption = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Judge labels, which takes a backbone's weights.")
    ] = True,
    backbone: opt.BackboneOption = None,
    weights: opt.WeightsOption = None,
    pixels: opt.PixelsOption = None,
    image_size: opt.ImageSizeOption = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random. [0]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier OUT or file.")] = False,
    trust: opt.TrustOption = False,
    store: opt.StoreOption = None,
) -> None:
    """Find bad files, copies, leaks between parts, doubtful labels and more, before anything is trained."""
    from regraft.pipeline.check import check as look_over
    from regraft.pipeline.prepare import choose_backend
    from regraft.pipeline.run_folder import claim_folder

    if as_json not in (None, "-") and Path(as_json).exists() and not overwrite:
        raise UsageError(f"{as_json} exists already. Choose another file, or replace it with --overwrite.")
    recipe = opt.override(Recipe(), locals())
    choose_backend(recipe.backbone)
    with claim_folder(out, overwrite=overwrite, mark="check.json") if out else nullcontext() as folder:
        found = look_over(data, recipe, labels=labels, trust=trust, store=store)
        if folder is not None:
            (folder / "check.json").write_text(found.as_json(), "utf-8")
            (folder / "check.html").write_text(found.as_html(), "utf-8")
    if as_json == "-":
        print(found.as_json(), end="")
    else:
        _print_findings(found)
    if as_json not in (None, "-"):
        _write_text(Path(as_json), found.as_json())
    if out is not None:
        TERMINAL.info(f"Page: {out / 'check.html'}")
    if found.fault is not None:
        raise found.fault


def _print_findings(found: Checkup) -> None:
    """The problems a person should know of, with the first few cases of each."""
    said = found.findings
    reasons = Counter(item.code for item in said.refused)
    print(f"{said.used:,} images can be used; {len(said.refused):,} refused.")
    for code, count in reasons.most_common():
        names = ", ".join(printable(item.image) for item in said.refused if item.code == code)
        print(f"  {count} {code}: {textwrap.shorten(names, 300, placeholder=' ...')}")
    for problem in said.problems:
        print(f"{problem.weight}, {problem.code}: {printable(problem.summary)}")
        for case in problem.cases[:SHOWN]:
            names = " = ".join(printable(image.image) for image in case.images)
            print(f"  {names}{': ' if names and case.detail else ''}{printable(case.detail)}")
        if len(problem.cases) > SHOWN:
            print(f"  ... and {len(problem.cases) - SHOWN:,} more")
    if said.unchecked:
        print(f"Labels were not checked: {printable(said.unchecked)}")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror or error}.") from error
