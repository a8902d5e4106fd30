"""Measure how long programs take for something small, and where that time goes.

    regraft predict RUN IMAGE       one image in a new process; the target is 1.5 s
    regraft train --unfreeze none   with everything stored already

Each runs several times, in turn with an empty Python, which shows the machine's state. Both wall-clock time
and processor time (with child processes) are shown: on a busy machine only the second can be compared.

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

from rows import IMAGES, MOBILENET, are_present

IMPORTED = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\w+)")
# The steps of predict after its imports, timed in a process of their own.
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
engine = bundle.make_engine(1)
mark("digests, reading and compiling the graph")
list(bundle.predict([sys.argv[2]]))
mark("decoding process and prediction")
for (_, before), (name, after) in zip(marks, marks[1:]):
    print(f"{after - before:.3f} {name}")
"""


@dataclass
class Times:
    """The seconds of several processes of one kind."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def run(self, command: list[str]) -> None:
        """Run one more process."""
        used = _measure_children()
        start = time.monotonic()
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        self.wall.append(time.monotonic() - start)
        self.processor.append(_measure_children() - used)
        if process.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{process.stderr[-2000:]}")

    def print_row(self, name: str) -> None:
        """Print a row: medians and the range."""
        wall, processor = statistics.median(self.wall), statistics.median(self.processor)
        spread = f"({min(self.wall):.2f} to {max(self.wall):.2f})"
        print(f"{name:<34} {wall:6.2f} s {spread:<18} processor {processor:6.2f} s", flush=True)


def _measure_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_train_command(data: Path, weights: Path, folder: Path) -> list[str]:
    """Return a command whose second run finds everything in the store."""
    return [
        sys.executable, "-m", "regraft", "train", str(data), "-o", str(folder / "run"), "--overwrite",
        "--weights", str(weights), "--unfreeze", "none", "--store", str(folder / "store"),
    ]  # fmt: skip


def measure_imports(command: list[str]) -> Counter[str]:
    """Return the seconds of imports by package, with the cost of measuring them."""
    traced = [command[0], "-X", "importtime", *command[1:]]
    environment = {**os.environ, "REGRAFT_NATIVE_LOGS": "1"}
    err = subprocess.run(traced, capture_output=True, text=True, check=True, env=environment).stderr
    seconds: Counter[str] = Counter()
    for microseconds, package in IMPORTED.findall(err):
        seconds[package] += int(microseconds) / 1e6
    return seconds


def print_imports(name: str, command: list[str], most: int) -> None:
    """Print the packages whose import takes longest."""
    seconds = measure_imports(command)
    packages = ", ".join(f"{package} {value:.2f}" for package, value in seconds.most_common(most))
    print(f"imports of {name}, {seconds.total():.2f} s: {packages}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--weights", type=Path, default=MOBILENET)
    options = parser.parse_args()
    if not are_present(options.data, options.weights):
        return
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        command = make_train_command(options.data, options.weights, Path(folder))
        measure(command, options.data, Path(folder), options.rounds)


def measure(train: list[str], data: Path, folder: Path, rounds: int) -> None:
    """Fill the store, then run all commands in turn."""
    subprocess.run(train, check=True, capture_output=True)
    image = next(file for file in sorted(data.rglob("*")) if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    predict = [sys.executable, "-m", "regraft", "predict", str(folder / "run"), str(image)]
    commands = {
        "an empty Python": [sys.executable, "-c", "pass"],
        "import openvino, without regraft": [sys.executable, "-c", "import openvino"],
        "regraft predict, one image": predict,
        "import keras, without regraft": [sys.executable, "-c", "import keras"],
        "regraft train, everything stored": train,
    }
    times = {name: Times() for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            times[name].run(command)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    for name, seconds in times.items():
        seconds.print_row(name)
    steps = subprocess.run(
        [sys.executable, "-c", STEPS, *predict[-2:]], capture_output=True, text=True, check=True
    )
    print(f"predict, step by step:\n{steps.stdout.rstrip()}")
    stages = json.loads((folder / "run" / "metrics.json").read_text())["seconds"]
    print("train, stage by stage: " + ", ".join(f"{name} {seconds:.2f}" for name, seconds in stages.items()))
    print_imports("predict", predict, 8)
    print_imports("train", train, 12)


if __name__ == "__main__":
    main()
