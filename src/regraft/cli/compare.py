"""The command `regraft compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import regraft.cli.options as opt
from regraft.errors import wrap_os_errors
from regraft.system.console import TERMINAL, make_printable

if TYPE_CHECKING:
    from regraft.evaluation.comparison import PairedComparison
    from regraft.pipeline.compare import Comparison

__all__ = ["compare"]

MAX_CHANGES = 5  # shown of the images that are better, and of those that are worse


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run folders, two or more; each is compared with the first.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="HTML page to create. [default: none]")
    ] = None,
    as_json: opt.JsonFlag = False,
    seed: Annotated[
        int, typer.Option(help="Random seed of the bootstrap. [default: 0]", show_default=False)
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier page.")] = False,
    trust: opt.TrustFlag = False,
) -> None:
    """Tell which of several runs is better on the same test images, how surely, and what changed."""
    from regraft.pipeline.compare import compare as compare_runs
    from regraft.pipeline.outputs import require_new_file

    if out is not None:
        require_new_file(out, overwrite=overwrite)
    comparison = compare_runs(runs, seed=seed, trust=trust)
    if out is not None:
        with wrap_os_errors(f"{out} cannot be written"):
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(comparison.to_html(), "utf-8")
    if as_json:
        print(comparison.to_json(), end="")
    else:
        _print_comparison(comparison)
    if out is not None:
        TERMINAL.info(f"Page: {out}")


def _print_comparison(comparison: Comparison) -> None:
    """Print which images were compared, then for each run scores, differences, verdict and changes."""
    for note in comparison.notes:
        print(make_printable(note))
    for other in comparison.comparisons:
        print(f"{make_printable(comparison.reference)} and {make_printable(other.run)}:")
        for name, difference in other.differences.items():
            before, after = comparison.scores[name].value, other.scores[name].value
            interval = f"95 % {difference.low:+.3f} to {difference.high:+.3f}"
            print(f"  {name:<18} {before:.3f}  {after:.3f}  {difference.value:+.3f}   {interval}")
        print(make_printable(other.summary))
        _print_changes(other)


def _print_changes(other: PairedComparison) -> None:
    for word, sign in (("better", 1), ("worse", -1)):
        changes = [change for change in other.changes if change.gain * sign > 0]
        print(f"{len(changes):,} images {word}{':' if changes else '.'}")
        for change in changes[:MAX_CHANGES]:
            words = f"{change.image}: {change.target}; {change.before} before, {change.after} now"
            print(f"  {make_printable(words)}")
        if len(changes) > MAX_CHANGES:
            print(f"  ... and {len(changes) - MAX_CHANGES:,} more")
