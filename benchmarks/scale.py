"""What grows with the number of photographs: time and memory of an extraction, bytes of the store.

Photographs are generated, all different. Each number of them is a process of its own with an empty store: it
lists the folder, runs MobileNetV2 over every photograph and stores the features, pooled to 1,280 numbers. A
second process finds them all there and reads them. What is done once, whatever the number, is left out of the
time and is in the memory: loading the network, compiling it, and the first 32 photographs.

With --added, whole processes of `regraft train --unfreeze none` instead: 1,000 photographs for the first
time, the same again, and again with 10 more.

usage: scale.py [--counts 10000 100000] [--image-size 224] [--weights FILE] [--folder FOLDER] [--added]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = 10
FEW = 32  # photographs that the engine is tried on
WEIGHTS = Path(__file__).resolve().parents[2] / "shared/weights/mobilenet_v2_imagenet_224_notop.weights.h5"


def generate(folder: Path, first: int, last: int) -> None:
    """Photographs number `first` to `last` - 1: blurred noise, 160 by 120 pixels, a hue a class."""
    jobs = [(folder, at, min(at + 500, last)) for at in range(first, last, 500)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_generate, jobs))


def _generate(job: tuple[Path, int, int]) -> None:
    folder, first, last = job
    for number in range(first, last):
        rng = np.random.default_rng(number)
        label = number % CLASSES
        coarse = rng.integers(0, 256, (9, 12, 3)) * (0.3 + 0.7 * np.roll([1, label / CLASSES, 0], label))
        place = folder / f"class{label}" / f"{number // 1000:03}" / f"{number:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(coarse.astype(np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
        picture.save(place, quality=85)


def extract(folder: Path, store: Path, image_size: int, weights: str) -> None:
    """The process that is measured; prints what it took as JSON."""
    from dataclasses import replace

    from regraft.data.catalog import Catalog
    from regraft.embedding import embedding_network
    from regraft.features.extract import extract_features
    from regraft.features.store import Store
    from regraft.recipe import Recipe

    took, kept = {}, Store(store)

    def lap(name: str, begun: float) -> None:
        took[name] = {"seconds": time.monotonic() - begun, "megabytes": _peak()}

    begun = time.monotonic()
    catalog = Catalog.from_folder(folder)
    lap("list", begun)
    begun = time.monotonic()
    network = embedding_network(Recipe(backbone="mobilenet_v2", weights=weights, image_size=image_size))
    few = replace(catalog, samples=catalog.samples[:: len(catalog) // FEW][:FEW])
    extract_features(network, few, store=kept)
    lap("load", begun)
    begun = time.monotonic()
    features = extract_features(network, catalog, store=kept)
    lap("extract", begun)
    begun = time.monotonic()
    shape = features.matrix(catalog.samples, "cut_0").shape
    lap("read", begun)
    print(json.dumps({"computed": features.computed, "rows": shape[0], **took}))


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(folder: Path, store: Path, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--process", folder, store]
    command += ["--image-size", str(options.image_size), "--weights", options.weights]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def stored_bytes(store: Path) -> int:
    return sum(file.stat().st_size for file in store.glob("features-*/*/*"))


def compare(options: argparse.Namespace, place: Path) -> None:
    """A row for each number of photographs."""
    print(
        "photographs  list ms/image  extract ms/image  read ms/image  peak MB  with matrix  bytes/image"
        "  all again s"
    )
    made = 0
    for count in sorted(options.counts):
        generate(place / "photos", made, count)
        made = count
        store = place / f"store{count}"
        first = measure(place / "photos", store, options)
        again = measure(place / "photos", store, options)
        if (first["computed"], again["computed"], again["rows"]) != (count - FEW, 0, count):
            sys.exit(f"Not what was asked for: {first}, {again}")
        pace = [f"{1000 * first[stage]['seconds'] / count:.3f}" for stage in ("list", "extract", "read")]
        warm = sum(again[stage]["seconds"] for stage in ("list", "extract", "read"))
        print(
            f"{count:11,}  {pace[0]:>13}  {pace[1]:>16}  {pace[2]:>13}  {first['extract']['megabytes']:7.0f}"
            f"  {first['read']['megabytes']:11.0f}  {stored_bytes(store) / count:11.1f}  {warm:11.2f}",
            flush=True,
        )


def added(options: argparse.Namespace, place: Path) -> None:
    """Seconds of whole processes: first, again, again with 10 more, and so on alternating."""
    for number, (name, count) in enumerate(
        [("first", 1000), ("again", 1000), ("10 added", 1010), ("again", 1010), ("10 added", 1020)]
    ):
        made = 0 if number == 0 else len(list((place / "photos").rglob("*.jpg")))
        generate(place / "photos", made, count)
        command = [
            sys.executable, "-m", "regraft", "train", place / "photos", "-o", place / "run", "--overwrite",
            "--backbone", "mobilenet_v2", "--weights", options.weights, "--store", place / "store",
            "--image-size", str(options.image_size), "--unfreeze", "none",
        ]  # fmt: skip
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.monotonic() - begun
        said = [
            line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Frozen features")
        ]
        print(f"{name:<9} {count:5,} photographs {seconds:6.1f} s   {said[-1] if said else ''}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--weights", default=str(WEIGHTS) if WEIGHTS.exists() else "random")
    parser.add_argument("--folder", type=Path, help="where photographs and stores are made")
    parser.add_argument("--added", action="store_true")
    parser.add_argument("--process", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        extract(*options.process, options.image_size, options.weights)
        return
    place = Path(tempfile.mkdtemp(prefix="regraft-scale-", dir=options.folder))
    try:
        (added if options.added else compare)(options, place)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
