"""Measure what grows with the number of images: time and memory of an extraction, bytes of the store.

The images are crops of real ones, 160 by 120 pixels, re-encoded at quality 75: 4 KB each, all different. For
each number of them, a process with an empty store lists the folder, runs MobileNetV2 over all images and
stores the features, pooled to 1,280 numbers. A second process finds them all in the store and reads them.
Work that is done once, whatever the number, counts in the memory but not in the time: loading and compiling
the network, and the first 32 images. In each round the smaller number runs before and after the larger one,
and its mean is used: so a machine that slows down does not look like growth.

With --added, full processes of `regraft train --unfreeze none` run instead: on 1,000 images for the first
time, on the same again, and again with 10 more.

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
from rows import IMAGES, MOBILENET, Profile, Row, Sheet, Side, are_present, make_parser

from regraft.features.store import FORM

CLASSES = 10
PRECISION = "f32"  # everywhere: "auto" may choose another for the first images than for all of them
FEW = 32  # images that are run before the time counts
SIZE = (160, 120)
SOURCES = 256  # images that crops are taken from
WITHIN = 10.0  # % that time and memory may grow
BYTES = 2.6 * 1024  # that the features of an image may take in the store


def generate(data: Path, folder: Path, first: int, last: int) -> None:
    """Write the images number `first` to `last` - 1."""
    jobs = [(data, folder, start, min(start + 500, last)) for start in range(first, last, 500)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_generate_block, jobs))


def _generate_block(job: tuple[Path, Path, int, int]) -> None:
    data, folder, first, last = job
    sources = read_sources(data)
    for number in range(first, last):
        rng = np.random.default_rng(number)
        image = sources[rng.integers(len(sources))]
        x, y = (int(rng.integers(side - crop + 1)) for side, crop in zip(image.size, SIZE, strict=True))
        path = folder / f"class{number % CLASSES}" / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Crops of a white wall are equal; the number in a comment makes their files different.
        image.crop((x, y, x + SIZE[0], y + SIZE[1])).save(path, quality=75, comment=str(number))


@lru_cache(maxsize=1)
def read_sources(data: Path) -> list[Image.Image]:
    """Return images that are large enough to crop."""
    files = sorted(file for file in data.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))
    step = max(1, len(files) // SOURCES)
    sources = []
    for file in files[::step][:SOURCES]:
        with Image.open(file) as image:
            sources.append(image.convert("RGB").resize((2 * SIZE[0], 2 * SIZE[1])))
    return sources


def extract(folder: Path, store: Path, image_size: int, weights: str) -> None:
    """Extract and read in this process, and print its seconds and memory as JSON."""
    from dataclasses import replace

    from regraft.data.catalog import Catalog
    from regraft.features.extract import extract_features
    from regraft.features.store import Store
    from regraft.pipeline.embed import load_embedding_network
    from regraft.recipe import Recipe

    stages, feature_store = {}, Store(store)

    def record(name: str, start: float) -> None:
        stages[name] = {"seconds": time.monotonic() - start, "megabytes": _measure_peak()}

    start = time.monotonic()
    catalog = Catalog.from_folder(folder)
    record("list", start)
    start = time.monotonic()
    network = load_embedding_network(Recipe(backbone="mobilenet_v2", weights=weights, image_size=image_size))
    few = replace(catalog, samples=catalog.samples[:: len(catalog) // FEW][:FEW])
    extract_features(network, few, store=feature_store, precision=PRECISION)
    record("load", start)
    start = time.monotonic()
    features = extract_features(network, catalog, store=feature_store, precision=PRECISION)
    record("extract", start)
    start = time.monotonic()
    shape = features.matrix(catalog.samples, "cut_0").shape
    record("read", start)
    print(json.dumps({"computed": features.computed, "rows": shape[0], **stages}))


def _measure_peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_process(folder: Path, store: Path, options: argparse.Namespace) -> dict:
    command = [sys.executable, __file__, "--process", folder, store]
    command += ["--image-size", str(options.image_size), "--weights", options.weights]
    process = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    )
    if process.returncode:
        sys.exit(f"{command} failed:\n{process.stderr[-3000:]}")
    return json.loads(process.stdout.splitlines()[-1])


def count_bytes(store: Path) -> Counter[str]:
    """Return the bytes of features, called "prefix", and of facts about images, called "facts"."""
    counts: Counter[str] = Counter()
    for key in store.glob(f"{FORM}/*/key.txt"):
        kind = key.read_text("utf-8").split()[0]
        counts[kind] += sum(file.stat().st_size for file in key.parent.iterdir())
    return counts


def measure(folder: Path, count: int, options: argparse.Namespace) -> dict[str, float]:
    """Run with an empty store, then with a full one; return ms and bytes per image, and MB. Print a line."""
    store, images = folder / "store", folder / f"images{count}"
    first, again = run_process(images, store, options), run_process(images, store, options)
    if (first["computed"], again["computed"], again["rows"]) != (count - FEW, 0, count):
        sys.exit(f"Unexpected counts: {first}, {again}")
    figures = {f"{stage} ms": 1000 * first[stage]["seconds"] / count for stage in ("list", "extract", "read")}
    figures |= {"MB": first["extract"]["megabytes"], "MB with the matrix": first["read"]["megabytes"]}
    figures |= {f"bytes {kind}": size / count for kind, size in count_bytes(store).items()}
    figures["all again s"] = sum(again[stage]["seconds"] for stage in ("list", "extract", "read"))
    shutil.rmtree(store)
    print(
        f"{count:,} images: " + ", ".join(f"{name} {value:.3f}" for name, value in figures.items()),
        flush=True,
    )
    return figures


def compare(options: argparse.Namespace, folder: Path) -> Sheet:
    """Measure the smaller number, the larger and the smaller again, in each round."""
    few, many = sorted(options.counts)
    start = time.monotonic()
    for count in (few, many):
        generate(options.data, folder / f"images{count}", 0, count)
    print(f"images written in {time.monotonic() - start:.0f} s", flush=True)
    small, large = [], []
    for _ in range(options.rounds):
        before, middle, after = (measure(folder, count, options) for count in (few, many, few))
        small.append({name: (before[name] + after[name]) / 2 for name in before})
        large.append(middle)
    return make_sheet(few, many, small, large)


def make_sheet(
    few: int, many: int, small: Sequence[dict[str, float]], large: Sequence[dict[str, float]]
) -> Sheet:
    """Return the growth of each figure."""

    def make_row(title: str, name: str, unit: str) -> Row:
        less, more = ([figures[name] for figures in runs] for runs in (small, large))
        growth = tuple(100 * (after / before - 1) for before, after in zip(less, more, strict=True))
        sides = (Side(f"{few:,}", unit, tuple(less)), Side(f"{many:,}", unit, tuple(more)))
        return Row(f"{title}, {many:,} images over {few:,}", "%", growth, at_most=WITHIN, sides=sides)

    features, facts = (tuple(figures[f"bytes {kind}"] for figures in large) for kind in ("prefix", "facts"))
    again = tuple(figures["all again s"] for figures in large)
    stages = {
        name: statistics.median(figures[name] for figures in large)
        for name in ("list ms", "extract ms", "read ms")
    }
    return Sheet(
        [
            make_row("growth of extraction's time per image", "extract ms", "ms"),
            make_row("growth of peak memory", "MB", "MB"),
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
                remark="768 of them for a thumbnail; once for all networks",
            ),
            Row(f"{many:,} images again, everything stored, without imports", "s", again),
        ],
        [
            Profile(
                f"{many:,} images: time per image",
                "ms",
                {name[:-3]: ms for name, ms in stages.items()},
            )
        ],
    )


def add_images(options: argparse.Namespace, folder: Path) -> Sheet:
    """Run full processes: the first, then in each round again, and again with 10 more."""
    count = options.counts[0]
    first = train(options, folder, existing=0, count=count)
    warm, grown = [], []
    for _ in range(options.rounds):
        warm.append(train(options, folder, existing=count, count=count))
        grown.append(train(options, folder, existing=count, count=count + 10))
        count += 10
    short, long = (tuple(run.seconds for run in runs) for runs in (warm, grown))
    sides = (Side("the warm run", "s", short), Side("with 10 more", "s", long))
    differences = tuple(after - before for before, after in zip(short, long, strict=True))
    computed = tuple(float(run.computed) for run in grown)
    images = f"{options.counts[0]:,} images"
    title = f"10 images added to {images}"
    return Sheet(
        [
            Row(f"{title}: whole process longer than warm by", "s", differences, at_most=2, sides=sides),
            Row(f"{title}: images computed", "images", computed, at_least=10, at_most=10),
            Row(f"{images}, whole process, the first time", "s", (first.seconds,)),
        ],
        [
            Profile(f"{images}, the first time", "s", first.stages),
            Profile(f"{images}, warm, the last round", "s", warm[-1].stages),
            Profile(f"{images}, 10 added, the last round", "s", grown[-1].stages),
        ],
    )


@dataclass(frozen=True)
class TrainRun:
    """A full process: its seconds, the images that it computed, the seconds of its stages."""

    seconds: float
    computed: int
    stages: dict[str, float]


def train(options: argparse.Namespace, folder: Path, *, existing: int, count: int) -> TrainRun:
    """Run a full process on `count` images, of which `existing` are written already. Print a line."""
    generate(options.data, folder / "images", existing, count)
    command = [
        sys.executable, "-m", "regraft", "train", folder / "images", "-o", folder / "run", "--overwrite",
        "--backbone", "mobilenet_v2", "--weights", options.weights, "--store", folder / "store",
        "--image-size", str(options.image_size), "--unfreeze", "none", "--precision", PRECISION,
    ]  # fmt: skip
    start = time.monotonic()
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - start
    if process.returncode:
        sys.exit(f"{command} failed:\n{process.stderr[-3000:]}")
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    computed, stages = metrics["features"]["computed"], dict(metrics["seconds"])
    stages["imports, and writing the run folder"] = seconds - sum(stages.values())
    print(f"{count:,} images {seconds:.1f} s, {computed:,} computed", flush=True)
    return TrainRun(seconds, computed, stages)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument(
        "--counts", type=int, nargs="+", help="numbers of images [default: 10000 100000; with --added 1000]"
    )
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--weights", default=str(MOBILENET) if MOBILENET.exists() else "random")
    parser.add_argument("--folder", type=Path, help="parent of the temporary folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--added", action="store_true")
    parser.add_argument("--process", type=Path, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.process:
        extract(*options.process, options.image_size, options.weights)
        return
    if not are_present(options.data):
        return
    options.counts = options.counts or ([1000] if options.added else [10_000, 100_000])
    folder = Path(tempfile.mkdtemp(prefix="regraft-scale-", dir=options.folder))
    try:
        (add_images if options.added else compare)(options, folder).write(options.json)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
