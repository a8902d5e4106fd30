"""`regraft check`."""

from __future__ import annotations

import textwrap
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from regraft.cli.options import StoreOption, given, names
from regraft.cli.show import safe
from regraft.console import say
from regraft.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    from regraft.checkup import Checkup

__all__ = ["check"]

SHOWN = 5  # cases of a problem


def check(  # noqa: PLR0917 - typer reads the options off the signature
    data: Annotated[Path, typer.Argument(help="Folder of class folders, or a table, as for train.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder to make, with check.html and check.json.")
    ] = None,
    as_json: Annotated[
        str | None, typer.Option("--json", help="File to write JSON to; - for standard output.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Column of the table with image files.")] = None,
    target: Annotated[str | None, typer.Option(help="Column or columns to predict, by commas.")] = None,
    group: Annotated[str | None, typer.Option(help="Column whose groups belong together.")] = None,
    split: Annotated[str | None, typer.Option(help="Column that says train, validation or test.")] = None,
    separator: Annotated[str | None, typer.Option(help="What stands between labels in one cell.")] = None,
    task: Annotated[str | None, typer.Option(help="As for train. [told from the data]")] = None,
    labels: Annotated[
        bool, typer.Option("--labels/--no-labels", help="Judge labels, which takes a backbone's weights.")
    ] = True,
    backbone: Annotated[str | None, typer.Option(help="As for train. [mobilenet_v2]")] = None,
    weights: Annotated[str | None, typer.Option(help="imagenet, a file, or random. [imagenet]")] = None,
    pixels: Annotated[str | None, typer.Option(help="What your own backbone expects. [raw]")] = None,
    image_size: Annotated[
        int | None, typer.Option(help="Side in pixels the backbone sees. [the backbone's own]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random. [0]")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier OUT or file.")] = False,
    store: StoreOption = None,
) -> None:
    """Find bad files, copies, leaks between parts, doubtful labels and more, before anything is trained."""
    from regraft.artifacts import claim_folder
    from regraft.checkup import check as look_over
    from regraft.recipe import Recipe

    chosen = {
        "image": names(image),
        "target": names(target),
        "group": group,
        "split": split,
        "separator": separator,
        "task": task,
        "backbone": backbone,
        "weights": weights,
        "pixels": pixels,
        "image_size": image_size,
        "seed": seed,
    }
    if as_json not in (None, "-") and Path(as_json).exists() and not overwrite:
        raise UsageError(f"{as_json} exists already. Choose another file, or replace it with --overwrite.")
    with claim_folder(out, overwrite=overwrite, mark="check.json") if out else nullcontext() as folder:
        found = look_over(data, replace(Recipe(), **given(chosen)), labels=labels, store=store)
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
        say(f"Page: {out / 'check.html'}")
    if found.fault is not None:
        raise found.fault


def _print_findings(found: Checkup) -> None:
    """The problems a person should know of, with the first few cases of each."""
    said = found.findings
    reasons = Counter(item.code for item in said.refused)
    print(f"{said.used:,} images can be used; {len(said.refused):,} refused.")
    for code, count in reasons.most_common():
        names = ", ".join(safe(item.image) for item in said.refused if item.code == code)
        print(f"  {count} {code}: {textwrap.shorten(names, 300, placeholder=' ...')}")
    for problem in said.problems:
        print(f"{problem.weight}, {problem.code}: {safe(problem.summary)}")
        for case in problem.cases[:SHOWN]:
            names = " = ".join(safe(image.image) for image in case.images)
            print(f"  {names}{': ' if names and case.detail else ''}{safe(case.detail)}")
        if len(problem.cases) > SHOWN:
            print(f"  ... and {len(problem.cases) - SHOWN:,} more")
    if said.unchecked:
        print(f"Labels were not checked: {safe(said.unchecked)}")


def _write_text(path: Path, text: str) -> None:
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be written: {error.strerror or error}.") from error
