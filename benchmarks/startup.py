"""How long programs take until they have done something small, and where that time goes.

    regraft predict RUN PHOTO       one photograph, a cold process; the target is under 1.5 s
    regraft train --unfreeze none   everything in the store already, the whole process

Each is run several times, in turn with an empty Python for the machine's own state. Both wall clock and the
processor's time (child processes included) are shown: on a busy machine only the second can be compared.

usage: startup.py [--rounds N] [--data FOLDER] [--weights FILE] [--run FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2] / "shared"
IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)")
# What predict does after its imports, timed in a process of its own.
STEPS = """
import sys, time
marks = [("", time.perf_counter())]
def mark(name): marks.append((name, time.perf_counter()))
from regraft.cli import app
mark("the command line")
from regraft.inference.bundle import load
mark("imports of predict")
from regraft.system.imports import import_openvino
import_openvino()
mark("import of OpenVINO")
bundle = load(sys.argv[1])
engine = bundle.engine(1)
mark("digests, reading and compiling the graph")
list(bundle.predict([sys.argv[2]]))
mark("decoding process and answer")
for (_, before), (name, after) in zip(marks, marks[1:]):
    print(f"{after - before:.3f} {name}")
"""


@dataclass
class Times:
    """Seconds of several processes of one kind."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def add(self, command: list[str]) -> None:
        """Run one more."""
        spent = _children_seconds()
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.wall.append(time.monotonic() - begun)
        self.processor.append(_children_seconds() - spent)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")

    def show(self, name: str) -> None:
        """One row: medians and the range."""
        wall, processor = statistics.median(self.wall), statistics.median(self.processor)
        span = f"({min(self.wall):.2f} to {max(self.wall):.2f})"
        print(f"{name:<34} {wall:6.2f} s {span:<18} processor {processor:6.2f} s", flush=True)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def train(data: Path, weights: Path, place: Path) -> list[str]:
    """The command whose second run finds everything in the store."""
    return [
        sys.executable, "-m", "regraft", "train", str(data), "-o", str(place / "run"), "--overwrite",
        "--weights", str(weights), "--unfreeze", "none", "--store", str(place / "store"),
    ]  # fmt: skip


def imports(command: list[str]) -> Counter[str]:
    """Seconds that importing took, by package; with what measuring them costs."""
    watched = [command[0], "-X", "importtime", *command[1:]]
    environment = {**os.environ, "REGRAFT_NATIVE_LOGS": "1"}
    err = subprocess.run(watched, capture_output=True, text=True, check=True, env=environment).stderr
    found: Counter[str] = Counter()
    for microseconds, package in IMPORTED.findall(err):
        found[package] += int(microseconds) / 1e6
    return found


def show_imports(name: str, command: list[str], most: int) -> None:
    """The packages whose import takes longest."""
    found = imports(command)
    listed = ", ".join(f"{package} {seconds:.2f}" for package, seconds in found.most_common(most))
    print(f"imports of {name}, {found.total():.2f} s: {listed}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument(
        "--weights", type=Path, default=SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
    )
    options = parser.parse_args()
    for path in (options.data, options.weights):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        measure(
            train(options.data, options.weights, Path(folder)), options.data, Path(folder), options.rounds
        )


def measure(again: list[str], data: Path, place: Path, rounds: int) -> None:
    """Fill the store, then run everything in turn."""
    subprocess.run(again, check=True, capture_output=True)
    photo = next(file for file in sorted(data.rglob("*")) if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    predict = [sys.executable, "-m", "regraft", "predict", str(place / "run"), str(photo)]
    commands = {
        "an empty Python": [sys.executable, "-c", "pass"],
        "import openvino, as it comes": [sys.executable, "-c", "import openvino"],
        "regraft predict, one photograph": predict,
        "import keras, as it comes": [sys.executable, "-c", "import keras"],
        "regraft train, everything stored": again,
    }
    times = {name: Times() for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].add(command)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for name, measured in times.items():
        measured.show(name)
    steps = subprocess.run(
        [sys.executable, "-c", STEPS, *predict[-2:]], capture_output=True, text=True, check=True
    )
    print(f"predict, step by step:\n{steps.stdout.rstrip()}")
    stages = json.loads((place / "run" / "metrics.json").read_text())["seconds"]
    print("train, stage by stage: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items()))
    show_imports("predict", predict, 8)
    show_imports("train", again, 12)


if __name__ == "__main__":
    main()
