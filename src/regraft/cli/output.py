"""What a finished command prints, and its exit code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regraft.system.console import TERMINAL, Reporter, make_printable
from regraft.system.reporters import JsonReporter
from regraft.system.signals import get_exit_code

if TYPE_CHECKING:
    from regraft.pipeline.train import Run

__all__ = ["finish_run", "print_scores"]


_SOURCES = {  # of answers to images that the model has learnt from since
    "cross-validation": ", by cross-validation",
    "before refit": ", before the model learnt from them",
}


def finish_run(run: Run, reporter: Reporter = TERMINAL) -> None:
    """Print a run's scores and the path of its report; exit with the signal's code if a signal stopped it.

    A reporter for programs gets them as the event "done".
    """
    report, here = run.path / "report.html", Path.cwd()
    if isinstance(reporter, JsonReporter):
        reporter.emit(
            "done", run=str(run.path), report=str(report), interrupted=run.interrupted, metrics=run.metrics
        )
    else:
        print_scores(run.metrics)
        print(f"Report: {report.relative_to(here) if report.is_relative_to(here) else report}")
    if run.interrupted:
        sys.exit(get_exit_code())


def print_scores(scores: dict[str, Any]) -> None:
    """Print the scores of each part with their intervals, as they are in metrics.json."""
    for part in ("test", "validation", "train", "all"):
        if part not in scores:
            continue
        source = scores[part].get("source", "")
        print(f"{part}, {scores[part]['n']:,} images{_SOURCES.get(source, '')}:")
        for name, score in scores[part].items():
            if isinstance(score, dict) and "value" in score:
                print(f"  {name:<18} {score['value']:.3f}   95 % {score['low']:.3f} to {score['high']:.3f}")
        if "ece" in scores[part]:
            error, chance = scores[part]["ece"], scores[part]["ece_chance"]
            print(f"  {'ece':<18} {error:.3f}   by chance {chance['low']:.3f} to {chance['high']:.3f}")
        for one in scores[part].get("coverage", []):
            print(_describe_coverage(one))


def _describe_coverage(coverage: dict[str, Any]) -> str:
    """Return a line on the coverage of sets or intervals, as it is in metrics.json."""
    name = f"coverage {100 * coverage['level']:g} %"
    target = f" of {make_printable(coverage['target'])}" if coverage.get("target") else ""
    band = "" if coverage["low"] is None else f"   chance {coverage['low']:.3f} to {coverage['high']:.3f}"
    measure = "width" if target else "size"
    size = "" if coverage["mean_size"] is None else f", mean {measure} {coverage['mean_size']:.3g}"
    value = "-" if coverage["coverage"] is None else f"{coverage['coverage']:.3f}"
    return f"  {name + target:<18} {value}{band}{size}"
