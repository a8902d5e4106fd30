"""regraft against the transfer-learning guide's recipe: whole processes from the shell, alternating.

Three kinds of run on the same photographs and weights: the guide's recipe, `regraft train --unfreeze none`
with an empty store, and the same again with that store. The ratios are what counts: both sides of each are
measured in one sitting. Times are wall clock, memory is the peak of the process and its children together.

usage: against_the_guide.py [--rounds N] [--data FOLDER] [--weights FILE] [--auto]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"


@dataclass(frozen=True)
class Measured:
    """One process: seconds, peak resident memory of its tree in MB, test top-1."""

    seconds: float
    megabytes: float
    top1: float


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float, str]:
    """Run a command to its end; seconds, peak memory of its process tree in MB, standard output."""
    begun = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    peak = 0.0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.1):
            peak = max(peak, tree_megabytes(process.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    out, err = process.communicate()
    seconds = time.monotonic() - begun
    done.set()
    watcher.join()
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{err[-2000:]}")
    return seconds, peak, out


def tree_megabytes(pid: int) -> float:
    """Proportional memory of a process and all below it (pages that several share count once); Linux."""
    total, todo = 0.0, [pid]
    while todo:
        here = todo.pop()
        try:
            lines = Path(f"/proc/{here}/smaps_rollup").read_text().splitlines()
            total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
            for task in Path(f"/proc/{here}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return total


def guide(data: Path, weights: Path) -> Measured:
    """The guide's recipe."""
    script = str(Path(__file__).with_name("guide_recipe.py"))
    seconds, memory, out = measure([sys.executable, script, str(data), str(weights)], {})
    return Measured(seconds, memory, json.loads(out.splitlines()[-1])["top1"])


def regraft(data: Path, weights: Path, place: Path, *options: str) -> Measured:
    """`regraft train` with the store in `place`."""
    out = place / "run"
    command = [
        sys.executable, "-m", "regraft", "train", str(data), "-o", str(out), "--overwrite",
        "--backbone", "mobilenet_v2", "--weights", str(weights), "--store", str(place / "store"), *options,
    ]  # fmt: skip
    seconds, memory, _ = measure(command, {})
    top1 = json.loads((out / "metrics.json").read_text())["test"]["top1"]["value"]
    return Measured(seconds, memory, top1)


def show(name: str, runs: list[Measured]) -> float:
    """Print one row; returns the median seconds."""
    seconds = [run.seconds for run in runs]
    median = statistics.median(seconds)
    print(
        f"{name:<34} {median:8.1f} s  ({min(seconds):.1f} to {max(seconds):.1f})   "
        f"peak {max(run.megabytes for run in runs):6.0f} MB   test top-1 {runs[-1].top1:.3f}",
        flush=True,
    )
    return median


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument(
        "--weights", type=Path, default=SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
    )
    parser.add_argument("--auto", action="store_true", help="measure the default command too, once")
    options = parser.parse_args()
    for path in (options.data, options.weights):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    recipe, first, again = [], [], []
    for _ in range(options.rounds):
        place = Path(tempfile.mkdtemp(prefix="regraft-bench-"))
        recipe.append(guide(options.data, options.weights))
        first.append(regraft(options.data, options.weights, place, "--unfreeze", "none"))
        again.append(regraft(options.data, options.weights, place, "--unfreeze", "none"))
        if options.auto and len(first) == options.rounds:
            show("regraft, default (auto)", [regraft(options.data, options.weights, place)])
        shutil.rmtree(place)
    slow = show("the guide's recipe, 10 epochs", recipe)
    cold = show("regraft --unfreeze none, first", first)
    warm = show("regraft --unfreeze none, again", again)
    print(f"first run: {slow / cold:.1f} times faster than the recipe; again: {warm / cold:.2f} of the first")


if __name__ == "__main__":
    main()
