"""What a finished run prints: its scores, where its report is; and the exit code."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from regraft.signals import exit_code

if TYPE_CHECKING:
    from regraft.run import Run

__all__ = ["finish", "print_scores"]


def finish(run: Run) -> None:
    """Print a run's scores and the place of its report; exit with the signal's code if one stopped it."""
    print_scores(run.metrics)
    print(f"Report: {run.path / 'report.html'}")
    if run.interrupted:
        sys.exit(exit_code())


def print_scores(scores: dict[str, Any]) -> None:
    """The scores of each part with their intervals, as in metrics.json."""
    for part in ("test", "validation", "train", "all"):
        if part not in scores:
            continue
        print(f"{part}, {scores[part]['n']:,} images:")
        for name, score in scores[part].items():
            if name != "n":
                print(f"  {name:<18} {score['value']:.3f}   95 % {score['low']:.3f} to {score['high']:.3f}")
