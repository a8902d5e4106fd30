"""Whole processes from the shell: regraft beside another program, run in turn.

A round runs the other program, `regraft train --unfreeze none` with an empty store, and the same command
again with that store. Times are wall clock; memory is the peak of a process and its children together.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rows import IMAGES, Profile, Row, Sheet, Side, compute_ratios, make_parser

__all__ = [
    "ProcessRun", "Rounds", "add_comparison", "compare_scores", "make_comparison_parser", "run_process",
    "run_rounds",
]  # fmt: skip


@dataclass(frozen=True)
class ProcessRun:
    """One process: seconds, peak memory of its tree in MB, test top-1, seconds of its parts."""

    seconds: float
    megabytes: float
    top1: float
    parts: dict[str, float]


@dataclass
class Rounds:
    """The runs of each kind, one for each round."""

    other: list[ProcessRun] = field(default_factory=list)
    first: list[ProcessRun] = field(default_factory=list)
    again: list[ProcessRun] = field(default_factory=list)


def make_comparison_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the options of every comparison."""
    parser = make_parser(doc)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--weights", help='a file, or "random" [default: the real ones of MobileNetV2]')
    parser.add_argument("--auto", action="store_true", help="also measure the default command, once")
    return parser


def run_rounds(options: argparse.Namespace, run_other: Callable[[], ProcessRun], title: str) -> Rounds:
    """Run all rounds, and print a line for each kind of run; `title` names the other program."""
    rounds, default = Rounds(), []
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
            rounds.other.append(run_other())
            rounds.first.append(run_regraft(options, Path(folder), "--unfreeze", "none"))
            rounds.again.append(run_regraft(options, Path(folder), "--unfreeze", "none"))
            if options.auto and number == options.rounds - 1:
                default.append(run_regraft(options, Path(folder)))
    kinds = {
        title: rounds.other,
        "regraft --unfreeze none, first": rounds.first,
        "regraft --unfreeze none, again": rounds.again,
        "regraft, default (auto)": default,
    }
    for name, runs in kinds.items():
        if runs:
            seconds = [run.seconds for run in runs]
            spread = f"({min(seconds):.1f} to {max(seconds):.1f})"
            peak = max(run.megabytes for run in runs)
            print(f"{name:<34} {statistics.median(seconds):8.1f} s  {spread}   ", end="")
            print(f"peak {peak:6.0f} MB   test top-1 {runs[-1].top1:.3f}", flush=True)
    return rounds


def run_regraft(options: argparse.Namespace, folder: Path, *arguments: str) -> ProcessRun:
    """Run `regraft train` with its store and its run folder in `folder`."""
    out = folder / "run"
    command = [
        sys.executable, "-m", "regraft", "train", str(options.data), "-o", str(out), "--overwrite",
        "--backbone", options.backbone, "--weights", str(options.weights), "--store", str(folder / "store"),
        *arguments,
    ]  # fmt: skip
    seconds, memory, _ = run_process(command)
    metrics = json.loads((out / "metrics.json").read_text())
    parts = dict(metrics["seconds"])
    parts["imports, and writing the run folder"] = seconds - sum(parts.values())
    return ProcessRun(seconds, memory, metrics["test"]["top1"]["value"], parts)


def run_process(command: list[str]) -> tuple[float, float, str]:
    """Run a command; return its seconds, the peak memory of its process tree in MB, and its output."""
    start = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    peak = 0.0
    has_ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not has_ended.wait(1.0):  # counting pages takes the processor a hundredth of a second
            peak = max(peak, measure_tree(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    seconds = time.monotonic() - start
    has_ended.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{err[-2000:]}")
    return seconds, peak, out


def measure_tree(pid: int) -> float:
    """Return the MB of a process and its descendants; shared pages count once (Linux)."""
    total, todo, seen = 0.0, [pid], set()
    while todo:
        current = todo.pop()
        try:
            pages = Path(f"/proc/{current}/smaps_rollup").read_text()
            if pages not in seen:  # a child that has not started its program yet is its parent's memory
                seen.add(pages)
                lines = pages.splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
            for task in Path(f"/proc/{current}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return total


def add_comparison(
    sheet: Sheet, rounds: Rounds, *, other: str, title: str, targets: Sequence[float], remark: str
) -> None:
    """Add the ratios of both kinds of run to the other program, and the time of each part of all three."""
    slow = Side(other, "s", tuple(run.seconds for run in rounds.other))
    for kind, runs, target in zip(
        ("first run", "warm store"), (rounds.first, rounds.again), targets, strict=True
    ):
        fast = Side("regraft", "s", tuple(run.seconds for run in runs))
        values = compute_ratios(slow.values, fast.values)
        name = f"whole process, {kind}, {title}"
        sheet.rows.append(Row(name, "times", values, at_least=target, sides=(slow, fast), remark=remark))
        sheet.profiles.append(profile_runs(f"{title}: regraft, {kind}", runs))
    sheet.profiles.append(profile_runs(f"{title}: {other}", rounds.other))
    first, again = (row.median for row in sheet.rows[-2:])
    print(f"first run: {first:.2f} times as fast as {other}; again: {again:.1f} times")


def profile_runs(title: str, runs: Sequence[ProcessRun]) -> Profile:
    """Return the median of each part."""
    names = runs[0].parts
    return Profile(title, "s", {name: statistics.median(run.parts[name] for run in runs) for name in names})


def compare_scores(rounds: Rounds, *, name: str, other: str) -> Row:
    """Return how many points of test top-1 the head of the first run is above the other program."""
    pairs = zip(rounds.first, rounds.other, strict=True)
    points = tuple(100 * (run.top1 - other_run.top1) for run, other_run in pairs)
    return Row(name, "points", points, remark=f"{other}: {100 * rounds.other[-1].top1:.1f} %")
