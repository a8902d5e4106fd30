"""What a phase of fine-tuning is said to take, beforehand, against what it takes: once, an epoch, in all.

Of each network the plan that `auto` begins with, on what is stored at its boundary, and then everything, on
pixels. Neither was run before on this store, so nothing is known but a forward pass. What is said again after
the first steps is not compared: it is measured.

What bounds it:
    estimated against measured: other programs on the machine, and what compiling takes, which is reckoned by
        layers and not measured.

usage: estimates.py [--data FOLDER] [--images 400] [--epochs 3] [--json FILE] [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rows import Row, Sheet, Side, add_json

from regraft.backbones.load import load_backbone
from regraft.data.catalog import Catalog
from regraft.data.split import split
from regraft.features.extract import extract_features
from regraft.features.store import Store
from regraft.pipeline.context import Context
from regraft.pipeline.stages import build_model
from regraft.recipe import Phase, Recipe
from regraft.system.console import SilentReporter
from regraft.training.fine_tuning import PhaseRunner
from regraft.training.fit import FoundHead, find_head
from regraft.training.planning import Depth, Images, Search, TrainingPace
from regraft.training.training_data import Material

SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = {
    "mobilenet_v2": str(SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"),
    "resnet50": "random",
}
WITHIN = 1.5  # times, either way
PLENTY = 1e9  # seconds, bytes: neither time nor room decides anything here


def prepare(name: str, options: argparse.Namespace, store: Store) -> tuple[FoundHead, Material]:
    """Solve a head on so many of the photographs."""
    catalog = Catalog.from_folder(options.data)
    count = min(options.images, len(catalog))
    chosen = sorted(np.random.default_rng(0).choice(len(catalog), count, replace=False))
    catalog = replace(catalog, samples=tuple(replace(catalog.samples[at], part="") for at in chosen))
    catalog = split(catalog, fraction=0.2, seed=0)
    recipe = Recipe(backbone=name, weights=WEIGHTS[name])
    backbone = load_backbone(name, weights=recipe.weights)
    model, whole = build_model(Context(store), backbone, catalog, recipe, ())
    features = extract_features(whole.prefix, catalog, store=store, keep_pixels=True)
    material = Material(recipe, catalog, backbone, store, (features,), whole.names)
    reporter = SilentReporter()
    found = find_head(model, whole, material, solver="logistic", phase=None, budget=PLENTY, reporter=reporter)
    return found, material


def compare(name: str, options: argparse.Namespace, store: Store) -> list[Row]:
    """Estimate and run the plan that `auto` begins with, and then everything."""
    found, material = prepare(name, options, store)
    parts = [len(material.catalog.part(part)) for part in ("train", "validation")]
    paces = TrainingPace(found.model, material.views[0], store)
    search = Search(found.model, material.backbone, Images(*parts), paces)
    asked = Phase("auto", epochs=options.epochs)
    first = search.choose(asked, budget=PLENTY, limit=PLENTY)
    rows = measure(name, first, found, material)
    deeper = search.choose(asked, budget=PLENTY, limit=PLENTY, beyond=first.phase)
    return rows + measure(name, deeper, found, material)


def measure(name: str, depth: Depth, found: FoundHead, material: Material) -> list[Row]:
    """Run a phase; a row each for what comes once, an epoch, and all of it."""
    runner = PhaseRunner(found, material, reporter=SilentReporter(), budget=PLENTY)
    begun = time.monotonic()
    (fitted,), _ = runner.run(depth.phase)
    whole = time.monotonic() - begun
    epoch = statistics.median(record.seconds for record in fitted.history[2:])  # the first one compiles
    once = whole - len(fitted.history[1:]) * epoch
    sides = {
        "once": (depth.once, once),
        "an epoch": (depth.epoch, epoch),
        f"all of {depth.epochs} epochs": (depth.seconds, whole),
    }
    remark = f"{len(material.catalog.part('train'))} photographs to train on, {material.views[0].precision}"
    rows = []
    for what, (estimated, measured) in sides.items():
        times = max(estimated / measured, measured / estimated)
        title = f"{name}, {depth.phase.unfreeze}, {what}: estimated against measured, apart by"
        both = (Side("estimated", "s", (estimated,)), Side("measured", "s", (measured,)))
        rows.append(Row(title, "times", (times,), at_most=WITHIN, sides=both, remark=remark))
        print(f"{title} {times:.2f} times ({estimated:.1f} s, {measured:.1f} s); {remark}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(WEIGHTS), metavar="NAME")
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3)
    add_json(parser)
    options = parser.parse_args()
    for path in (options.data, Path(WEIGHTS["mobilenet_v2"])):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    sheet = Sheet()
    for name in options.names:
        with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
            sheet.rows += compare(name, options, Store(Path(folder)))
        keras.backend.clear_session()
    sheet.write(options.json)


if __name__ == "__main__":
    main()
