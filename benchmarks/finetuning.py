"""Compare what a run makes of the same photographs by its defaults and without their parts.

    last       the head on the last layer, fine-tuned, no refit
    taps       the head on chosen layers, solved on training and validation images, nothing fine-tuned
    default    the head on chosen layers, then fine-tuning, averaging and a refit: the defaults
    again      the default run once more, with everything in the store

In every round another third of each class is held out and predicted by the model once. Every round begins
with an empty store, in which `last` comes after `default`, so its seconds are not those of a first run. Wall
time counts other programs too; processor seconds divided by the number of cores do not.

usage: finetuning.py [--photos FOLDER] [--backbone mobilenet_v2] [--weights FILE] [--rounds 3] [--budget 90s]
                     [--only default,again,taps,last]
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
from rows import IMAGES, MOBILENET, are_present

SETTINGS = {
    "default": [],
    "again": [],
    "taps": ["--unfreeze", "none"],
    "last": ["--taps", "last", "--refit", "never"],
}
HELD_OUT = 1 / 3


def write_split(photos: Path, table: Path, seed: int) -> None:
    """Write a table of the photographs in class folders, with a third of each class as test."""
    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    classes = defaultdict(list)
    for path in files:
        classes[path.parent.name].append(path)
    rng = np.random.default_rng(seed)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "part"])
        for name, paths in classes.items():
            order = rng.permutation(len(paths))
            test = set(order[: round(HELD_OUT * len(paths))].tolist())
            for number, path in enumerate(paths):
                part = "test" if number in test else "train"
                writer.writerow([path.relative_to(photos), name, part])


def run(options: argparse.Namespace, folder: Path, name: str) -> dict[str, float]:
    """Train in a process of its own; return scores on test, and what it took."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        sys.executable, "-m", "regraft", "train", folder / "table.csv", "--root", options.photos,
        "--image", "image", "--target", "label", "--split", "part",
        "--backbone", options.backbone, "--weights", options.weights, "-o", folder / name,
        "--store", folder / "store", *SETTINGS[name],
    ]  # fmt: skip
    if options.budget and name != "taps":
        command += ["--budget", options.budget]
    subprocess.run([str(part) for part in command], check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    metrics = json.loads((folder / name / "metrics.json").read_text())
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "top1": metrics["test"]["top1"]["value"],
        "log_loss": metrics["test"]["log_loss"]["value"],
        "seconds": time.monotonic() - begun,
        "cores": processor / (os.cpu_count() or 1),
        "refitted": float(metrics["decision"].get("refitted", False)),
    }


def print_summary(results: dict[str, list[dict[str, float]]]) -> None:
    """Print the mean of each setting, and its difference from the default with its standard error."""
    for name, rounds in results.items():
        columns = {key: np.array([row[key] for row in rounds]) for key in rounds[0]}
        line = (
            f"{name:<8} top-1 {columns['top1'].mean():.3f}  log loss {columns['log_loss'].mean():.3f}  "
            f"{columns['seconds'].mean():.0f} s, processor {columns['cores'].mean():.0f} s a core, "
            f"refitted {int(columns['refitted'].sum())} of {len(rounds)}"
        )
        if name not in ("default", "again") and "default" in results:
            gains = 100 * (np.array([row["top1"] for row in results["default"]]) - columns["top1"])
            error = gains.std(ddof=1) / np.sqrt(len(gains)) if len(gains) > 1 else float("nan")
            line += f"; default {gains.mean():+.1f} points (standard error {error:.1f})"
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, default=IMAGES)
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default=str(MOBILENET))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--budget", default="", help="as for regraft train [default: its default]")
    parser.add_argument("--only", default=",".join(SETTINGS))
    options = parser.parse_args()
    if not are_present(options.photos):
        return
    results: dict[str, list[dict[str, float]]] = {name: [] for name in options.only.split(",")}
    for number in range(options.rounds):
        with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
            write_split(options.photos, Path(folder) / "table.csv", number)
            for name, rows in results.items():
                rows.append(run(options, Path(folder), name))
                values = "  ".join(f"{key} {value:.3f}" for key, value in rows[-1].items())
                print(f"round {number + 1}, {name}: {values}", flush=True)
    print_summary(results)


if __name__ == "__main__":
    main()
