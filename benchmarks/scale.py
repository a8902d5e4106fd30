"""What grows with the number of photographs: time and memory of an extraction, bytes of the store.

The photographs are crops of real ones, 160 by 120 pixels, re-encoded at quality 75: 4 KB each, all different.
Each number of them is a process of its own with an empty store: it lists the folder, runs MobileNetV2 over
every photograph and stores the features, pooled to 1,280 numbers. A second process finds them all there and
reads them. What is done once, whatever the number, is left out of the time and is in the memory: loading the
network, compiling it, and the first 32 photographs. The smaller number runs before and after the larger one,
in every round, and is taken at its mean: so a machine that slows down does not look like growth.

With --added, whole processes of `regraft train --unfreeze none` instead: 1,000 photographs for the first
time, the same again, and again with 10 more.

usage: scale.py [--counts 10000 100000] [--image-size 224] [--data FOLDER] [--weights FILE|random]
    [--folder FOLDER] [--rounds 1] [--added] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from rows import Profile, Row, Sheet, Side, add_json

from regraft.features.store import FORM

CLASSES = 10
FEW = 32  # photographs that the engine is tried on
SIZE = (160, 120)
SOURCES = 256  # photographs that crops are taken from
WITHIN = 10.0  # %: most that time and memory may grow
BYTES = 2.6 * 1024  # most for the features of an image in the store
SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = SHARED / "weights/mobilenet_v2_imagenet_224_notop.weights.h5"


def generate(data: Path, folder: Path, first: int, last: int) -> None:
    """Photographs number `first` to `last` - 1."""
    jobs = [(data, folder, at, min(at + 500, last)) for at in range(first, last, 500)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_generate, jobs))


def _generate(job: tuple[Path, Path, int, int]) -> None:
    data, folder, first, last = job
    photos = sources(data)
    for number in range(first, last):
        rng = np.random.default_rng(number)
        photo = photos[rng.integers(len(photos))]
        left, top = (int(rng.integers(side - crop + 1)) for side, crop in zip(photo.size, SIZE, strict=True))
        place = folder / f"class{number % CLASSES}" / f"{number // 1000:03}" / f"{number:06}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        # Crops of a white wall are equal; the number in a comment makes them different files all the same.
        photo.crop((left, top, left + SIZE[0], top + SIZE[1])).save(place, quality=75, comment=str(number))


@lru_cache(maxsize=1)
def sources(data: Path) -> list[Image.Image]:
    """Photographs in memory, large enough to crop."""
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    step = max(1, len(files) // SOURCES)
    opened = []
    for file in files[::step][:SOURCES]:
        with Image.open(file) as image:
            opened.append(image.convert("RGB").resize((2 * SIZE[0], 2 * SIZE[1])))
    return opened


def extract(folder: Path, store: Path, image_size: int, weights: str) -> None:
    """The process that is measured; prints what it took as JSON."""
    from dataclasses import replace

    from regraft.data.catalog import Catalog
    from regraft.features.extract import extract_features
    from regraft.features.store import Store
    from regraft.pipeline.embed import embedding_network
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


def process(folder: Path, store: Path, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--process", folder, store]
    command += ["--image-size", str(options.image_size), "--weights", options.weights]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def stored_bytes(store: Path) -> Counter[str]:
    """Of features, called "prefix", and of what the decoder learnt, called "facts"."""
    found: Counter[str] = Counter()
    for key in store.glob(f"{FORM}/*/key.txt"):
        kind = key.read_text("utf-8").split()[0]
        found[kind] += sum(file.stat().st_size for file in key.parent.iterdir())
    return found


def measure(place: Path, count: int, options: argparse.Namespace) -> dict[str, float]:
    """An empty store, then a full one: of an image ms and bytes, of the process MB. Prints a line."""
    store, photos = place / "store", place / f"photos{count}"
    first, again = process(photos, store, options), process(photos, store, options)
    if (first["computed"], again["computed"], again["rows"]) != (count - FEW, 0, count):
        sys.exit(f"Not what was asked for: {first}, {again}")
    found = {f"{stage} ms": 1000 * first[stage]["seconds"] / count for stage in ("list", "extract", "read")}
    found |= {"MB": first["extract"]["megabytes"], "MB with the matrix": first["read"]["megabytes"]}
    found |= {f"bytes {kind}": size / count for kind, size in stored_bytes(store).items()}
    found["all again s"] = sum(again[stage]["seconds"] for stage in ("list", "extract", "read"))
    shutil.rmtree(store)
    print(
        f"{count:,} photographs: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()),
        flush=True,
    )
    return found


def compare(options: argparse.Namespace, place: Path) -> Sheet:
    """The smaller number, the larger and the smaller again, in every round."""
    few, many = sorted(options.counts)
    begun = time.monotonic()
    for count in (few, many):
        generate(options.data, place / f"photos{count}", 0, count)
    print(f"photographs made in {time.monotonic() - begun:.0f} s", flush=True)
    small, large = [], []
    for _ in range(options.rounds):
        before, middle, after = (measure(place, count, options) for count in (few, many, few))
        small.append({name: (before[name] + after[name]) / 2 for name in before})
        large.append(middle)
    return sheet(few, many, small, large)


def sheet(few: int, many: int, small: Sequence[dict[str, float]], large: Sequence[dict[str, float]]) -> Sheet:
    """What grew."""

    def row(title: str, name: str, unit: str) -> Row:
        ours, theirs = ([each[name] for each in runs] for runs in (small, large))
        grown = tuple(100 * (more / less - 1) for less, more in zip(ours, theirs, strict=True))
        sides = (Side(f"{few:,}", unit, tuple(ours)), Side(f"{many:,}", unit, tuple(theirs)))
        return Row(f"{title}, {many:,} photographs over {few:,}", "%", grown, at_most=WITHIN, sides=sides)

    features, facts = (tuple(each[f"bytes {kind}"] for each in large) for kind in ("prefix", "facts"))
    again = tuple(each["all again s"] for each in large)
    stages = {
        name: statistics.median(each[name] for each in large) for name in ("list ms", "extract ms", "read ms")
    }
    return Sheet(
        [
            row("growth of extraction's time for an image", "extract ms", "ms"),
            row("growth of peak memory", "MB", "MB"),
            Row(
                f"features stored for an image, of {many:,}",
                "bytes",
                features,
                at_most=BYTES,
                remark="1,280 pooled numbers",
            ),
            Row(
                f"facts stored for an image, of {many:,}",
                "bytes",
                facts,
                remark="768 of them a thumbnail; once, whatever networks see it",
            ),
            Row(f"{many:,} photographs again, everything stored, imports left out", "s", again),
        ],
        [
            Profile(
                f"{many:,} photographs: time for an image",
                "ms",
                {name[:-3]: ms for name, ms in stages.items()},
            )
        ],
    )


def added(options: argparse.Namespace, place: Path) -> Sheet:
    """Whole processes: the first, then in every round again, and again with 10 more."""
    count = options.counts[0]
    first = train(options, place, 0, count)
    runs, grown = [], []
    for _ in range(options.rounds):
        runs.append(train(options, place, count, count))
        grown.append(train(options, place, count, count + 10))
        count += 10
    warm, more = (tuple(each.seconds for each in some) for some in (runs, grown))
    sides = (Side("the warm run", "s", warm), Side("with 10 more", "s", more))
    longer = tuple(one - other for one, other in zip(more, warm, strict=True))
    computed = tuple(float(each.computed) for each in grown)
    made = f"{options.counts[0]:,} photographs"
    title = f"10 images added to {made}"
    return Sheet(
        [
            Row(f"{title}: whole process longer than warm by", "s", longer, at_most=2, sides=sides),
            Row(f"{title}: images computed", "images", computed, at_least=10, at_most=10),
            Row(f"{made}, whole process, the first time", "s", (first.seconds,)),
        ],
        [
            Profile(f"{made}, the first time", "s", first.stages),
            Profile(f"{made}, warm, the last round", "s", runs[-1].stages),
            Profile(f"{made}, 10 added, the last round", "s", grown[-1].stages),
        ],
    )


@dataclass(frozen=True)
class Trained:
    """A whole process: its seconds, the images it computed, the seconds of its stages."""

    seconds: float
    computed: int
    stages: dict[str, float]


def train(options: argparse.Namespace, place: Path, made: int, count: int) -> Trained:
    """A whole process on `count` photographs, of which `made` are there already. Prints a line."""
    generate(options.data, place / "photos", made, count)
    command = [
        sys.executable, "-m", "regraft", "train", place / "photos", "-o", place / "run", "--overwrite",
        "--backbone", "mobilenet_v2", "--weights", options.weights, "--store", place / "store",
        "--image-size", str(options.image_size), "--unfreeze", "none",
    ]  # fmt: skip
    begun = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - begun
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stderr[-3000:]}")
    metrics = json.loads((place / "run" / "metrics.json").read_text())
    computed, stages = metrics["features"]["computed"], dict(metrics["seconds"])
    stages["imports, and writing the run folder"] = seconds - sum(stages.values())
    print(f"{count:,} photographs {seconds:.1f} s, {computed:,} computed", flush=True)
    return Trained(seconds, computed, stages)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--counts", type=int, nargs="+", help="10,000 and 100,000; with --added 1,000")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument("--weights", default=str(WEIGHTS) if WEIGHTS.exists() else "random")
    parser.add_argument("--folder", type=Path, help="where photographs and stores are made")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--added", action="store_true")
    parser.add_argument("--process", type=Path, nargs=2, help=argparse.SUPPRESS)
    add_json(parser)
    options = parser.parse_args()
    if options.process:
        extract(*options.process, options.image_size, options.weights)
        return
    if not options.data.exists():
        print(f"skipped: {options.data} is not here")
        return
    options.counts = options.counts or ([1000] if options.added else [10_000, 100_000])
    place = Path(tempfile.mkdtemp(prefix="regraft-scale-", dir=options.folder))
    try:
        (added if options.added else compare)(options, place).write(options.json)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
