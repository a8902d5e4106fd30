"""The command `regraft check`."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.errors import UsageError, wrap_os_errors
from regraft.system.console import TERMINAL, make_printable

if TYPE_CHECKING:
    from regraft.pipeline.check import Findings
    from regraft.recipe import Recipe

__all__ = ["check"]

MAX_CASES = 5  # shown of a problem


@opt.with_settings(
    "image", "target", "group", "split", "weight", "separator", "root", "task",
    "backbone", "weights", "pixels", "classifier", "image_size", "depth", "precision", "seed",
)  # fmt: skip
def check(
    data: opt.DataArgument,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder to create, with check.html and check.json; or see --apply. [default: none]",
        ),
    ] = None,
    *,
    as_json: Annotated[
        str | None, typer.Option("--json", help="File for JSON; - for standard output. [default: none]")
    ] = None,
    labels: Annotated[
        bool,
        typer.Option("--labels/--no-labels", help="Check the labels, which needs a backbone's weights."),
    ] = True,
    review: Annotated[
        Path | None,
        typer.Option(
            "--apply",
            help="Review of labels, from check.html: write the corrected data to OUT instead of a check, a "
            "folder of links or a table. [default: none]",
        ),
    ] = None,
    settings: Mapping[str, Any],
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier OUT, which holds nothing else, or JSON file."),
    ] = False,
    trust: opt.TrustFlag = False,
    store: opt.StoreOption = None,
) -> None:
    """Find bad files, copies, leaks between parts, likely label errors and more, before training."""
    from regraft.pipeline.check import check as check_data
    from regraft.pipeline.outputs import CHECK_FOLDER, claim_folder, require_inputs_outside, require_new_file
    from regraft.pipeline.prepare import choose_backend

    recipe = opt.make_recipe(settings)
    if review is not None:
        _apply(review, data, out, recipe, overwrite=overwrite)
        return
    file = None if as_json in (None, "-") else Path(as_json)
    for output in filter(None, (out, file)):
        require_inputs_outside(output, data, recipe, store=store)
    if file is not None:
        require_new_file(file, overwrite=overwrite)
    choose_backend(recipe.backbone)
    with claim_folder(out, overwrite=overwrite, kind=CHECK_FOLDER) if out else nullcontext() as folder:
        checkup = check_data(data, recipe, labels=labels, trust=trust, store=store)
        if folder is not None:
            (folder / "check.json").write_text(checkup.to_json(), "utf-8")
            (folder / "check.html").write_text(checkup.to_html(), "utf-8")
    if as_json == "-":
        print(checkup.to_json(), end="")
    else:
        _print_findings(checkup.findings)
    if file is not None:
        with wrap_os_errors(f"{file} cannot be written"):
            file.write_text(checkup.to_json(), "utf-8")
    if out is not None:
        TERMINAL.info(f"Page: {out / 'check.html'}")
    if checkup.fault is not None:
        raise checkup.fault


def _apply(review: Path, data: Path, out: Path | None, recipe: Recipe, *, overwrite: bool) -> None:
    from regraft.pipeline.apply_review import apply_review

    if out is None:
        raise UsageError("--apply: expected -o OUT, the corrected data to write. Received none.")
    if overwrite:
        raise UsageError("--apply replaces nothing: expected no --overwrite. Received both.")
    apply_review(data, review, out, recipe)
    if data.is_file() and not recipe.root and out.parent.resolve() != data.parent.resolve():
        TERMINAL.info(f"Its images are named as in {data}: pass --root {data.parent}.")


def _print_findings(findings: Findings) -> None:
    """Print each kind of refusal and each problem, with the first cases."""
    print(f"{findings.used:,} images can be used; {len(findings.refused):,} refused.")
    for code, count in Counter(file.code for file in findings.refused).most_common():
        names = ", ".join(make_printable(file.image) for file in findings.refused if file.code == code)
        print(f"  {count} {code}: {textwrap.shorten(names, 300, placeholder=' ...')}")
    for problem in findings.problems:
        print(f"{problem.weight}, {problem.code}: {make_printable(problem.summary)}")
        for case in problem.cases[:MAX_CASES]:
            names = " = ".join(make_printable(image.image) for image in case.images)
            print(f"  {names}{': ' if names and case.detail else ''}{make_printable(case.detail)}")
        if len(problem.cases) > MAX_CASES:
            print(f"  ... and {len(problem.cases) - MAX_CASES:,} more")
    if findings.unchecked:
        print(f"Labels were not checked: {make_printable(findings.unchecked)}")
