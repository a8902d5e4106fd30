"""regraft against the transfer-learning guide's recipe: whole processes from the shell, alternating.

Three kinds of run on the same photographs and network: the guide's recipe, `regraft train --unfreeze none`
with an empty store, and the same again with that store. The ratios are what counts: those of a round are
measured one after the other. Times are wall clock, memory is the peak of the process and its children
together. ResNet50 comes with random weights on both sides: the time is the same, the score means nothing.

With --epochs below 10 the recipe runs so many of its 10 epochs, and for each of those left out the time of
its last one is added: such a figure is marked as extrapolated.

What bounds it:
    whole process, first run, MobileNetV2: 40 to 45 s of processor time, so 20 to 22 s of two at best. Before
        the first image passes, 9 s of one thread: importing Keras and TensorFlow 4 to 5 s, building 2 s,
        converting and comparing 2 s. Then decoding and the network, 9 s of both, and after it 4 s of one
        thread again: copies, shortcuts and head, the model's file, its graph and the comparison of the two.
    whole process, first run, ResNet50: the network alone runs 29 images/s in f32, which is 47 s for
        these; decoding takes 9 s of a processor, converting the network 3.5 s; this processor has no bf16.

usage: against_the_guide.py [--rounds N] [--backbone mobilenet_v2|resnet50] [--epochs 10] [--data FOLDER]
    [--weights FILE|random] [--auto] [--json FILE]
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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rows import Profile, Row, Sheet, Side, add_json, ratios

SHARED = Path(__file__).resolve().parents[2] / "shared"
MOBILENET = SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
NAMES = {"mobilenet_v2": "MobileNetV2", "resnet50": "ResNet50"}
# Times faster: a first run without and with bf16 in the processor, a warm run.
ASKED = {"mobilenet_v2": (12.0, 15.0, 30.0), "resnet50": (11.0, 18.0, 30.0)}
EPOCHS = 10  # of the recipe


@dataclass(frozen=True)
class Measured:
    """One process: seconds, peak memory of its tree in MB, test top-1, seconds of its parts."""

    seconds: float
    megabytes: float
    top1: float
    parts: dict[str, float]


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
        while not done.wait(1.0):  # counting pages takes the processor a hundredth of a second
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
    total, todo, seen = 0.0, [pid], set()
    while todo:
        here = todo.pop()
        try:
            pages = Path(f"/proc/{here}/smaps_rollup").read_text()
            if pages not in seen:  # a child that has not begun its program yet is its parent's memory
                seen.add(pages)
                lines = pages.splitlines()
                total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
            for task in Path(f"/proc/{here}/task").iterdir():
                todo += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return total


def guide(options: argparse.Namespace) -> Measured:
    """The guide's recipe; the seconds are of 10 epochs, measured or extrapolated."""
    script = str(Path(__file__).with_name("guide_recipe.py"))
    command = [sys.executable, script, str(options.data), str(options.weights)]
    command += ["--backbone", options.backbone, "--epochs", str(options.epochs)]
    seconds, memory, out = measure(command, {})
    said = json.loads(out.splitlines()[-1])
    epochs = said["epochs"]
    left_out = (EPOCHS - len(epochs)) * epochs[-1]
    parts = {
        "the first epoch": epochs[0],
        f"{EPOCHS - 1} more": sum(epochs[1:]) + left_out,
        "imports, listing, the network, the test photographs": seconds - sum(epochs),
    }
    return Measured(seconds + left_out, memory, said["top1"], parts)


def regraft(options: argparse.Namespace, place: Path, *more: str) -> Measured:
    """`regraft train` with the store in `place`."""
    out = place / "run"
    command = [
        sys.executable, "-m", "regraft", "train", str(options.data), "-o", str(out), "--overwrite",
        "--backbone", options.backbone, "--weights", str(options.weights), "--store", str(place / "store"),
        *more,
    ]  # fmt: skip
    seconds, memory, _ = measure(command, {})
    metrics = json.loads((out / "metrics.json").read_text())
    parts = dict(metrics["seconds"])
    parts["imports, and writing the run folder"] = seconds - sum(parts.values())
    return Measured(seconds, memory, metrics["test"]["top1"]["value"], parts)


def show(name: str, runs: list[Measured]) -> None:
    """Print one row."""
    seconds = [run.seconds for run in runs]
    print(
        f"{name:<34} {statistics.median(seconds):8.1f} s  ({min(seconds):.1f} to {max(seconds):.1f})   "
        f"peak {max(run.megabytes for run in runs):6.0f} MB   test top-1 {runs[-1].top1:.3f}",
        flush=True,
    )


def profile(title: str, runs: Sequence[Measured]) -> Profile:
    """The median of each part."""
    names = runs[0].parts
    return Profile(title, "s", {name: statistics.median(run.parts[name] for run in runs) for name in names})


def side(name: str, runs: list[Measured]) -> Side:
    return Side(name, "s", tuple(run.seconds for run in runs))


def sheet(
    options: argparse.Namespace, recipe: list[Measured], first: list[Measured], again: list[Measured]
) -> Sheet:
    """Both ratios, and where each of the three spends its time."""
    name = NAMES[options.backbone]
    remark = f"{sum(1 for _ in options.data.glob('*/*/*')):,} photographs"
    if options.weights == "random":
        remark += ", random weights"
    if options.epochs < EPOCHS:
        remark += f"; the recipe extrapolated from {options.epochs} of its {EPOCHS} epochs"
    slow = side(f"the recipe, {EPOCHS} epochs", recipe)
    found = Sheet()
    from regraft.features.openvino import has_bf16

    plain, with_bf16, warm = ASKED[options.backbone]
    kinds = (("first run", first, with_bf16 if has_bf16() else plain), ("warm store", again, warm))
    for what, runs, asked in kinds:
        fast = side("regraft", runs)
        values = ratios(slow.values, fast.values)
        title = f"whole process, {what}, {name}"
        found.rows.append(Row(title, "times", values, at_least=asked, sides=(slow, fast), remark=remark))
        found.profiles.append(profile(f"{name}: regraft, {what}", runs))
    found.profiles.append(profile(f"{name}: the recipe", recipe))
    memory = tuple(run.megabytes for run in first)
    than = Side("the recipe", "MB", tuple(run.megabytes for run in recipe))
    most = 700.0 if options.backbone == "mobilenet_v2" else None
    found.rows.append(Row(f"peak memory, first run, {name}", "MB", memory, at_most=most, sides=(than,)))
    if options.weights != "random" and options.epochs == EPOCHS:
        points = tuple(100 * (run.top1 - other.top1) for run, other in zip(first, recipe, strict=True))
        title = f"test top-1 of the probe less the recipe's, {name}"
        found.rows.append(Row(title, "points", points, remark=f"the recipe: {100 * recipe[-1].top1:.1f} %"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument("--backbone", choices=list(NAMES), default="mobilenet_v2")
    parser.add_argument("--weights", help='a file, or "random"; of MobileNetV2 by default the real ones')
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="that the recipe runs")
    parser.add_argument("--auto", action="store_true", help="measure the default command too, once")
    add_json(parser)
    options = parser.parse_args()
    options.weights = options.weights or (str(MOBILENET) if options.backbone == "mobilenet_v2" else "random")
    for path in (options.data, *([] if options.weights == "random" else [Path(options.weights)])):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    recipe, first, again = [], [], []
    for _ in range(options.rounds):
        place = Path(tempfile.mkdtemp(prefix="regraft-bench-"))
        recipe.append(guide(options))
        first.append(regraft(options, place, "--unfreeze", "none"))
        again.append(regraft(options, place, "--unfreeze", "none"))
        if options.auto and len(first) == options.rounds:
            show("regraft, default (auto)", [regraft(options, place)])
        shutil.rmtree(place)
    show(f"the guide's recipe, {EPOCHS} epochs", recipe)
    show("regraft --unfreeze none, first", first)
    show("regraft --unfreeze none, again", again)
    found = sheet(options, recipe, first, again)
    one, other = found.rows[0].median, found.rows[1].median
    print(f"first run: {one:.1f} times faster than the recipe; again: {other:.1f} times")
    found.write(options.json)


if __name__ == "__main__":
    main()
