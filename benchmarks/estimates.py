"""Compare the estimated seconds of a phase of fine-tuning with the measured ones: once, per epoch, in all.

For each network, the plan that `auto` starts with runs on features stored at its boundary, then everything
trains on pixels. Neither was run before with this store, so only a forward pass has been measured. The second
estimate, after the first steps, is not compared: it is itself measured.

What bounds it:
    estimated against measured: other programs on the machine, and the time of compiling, which is estimated
        from the layers and not measured.

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
from rows import IMAGES, MOBILENET, Row, Sheet, Side, are_present, make_parser

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
from regraft.training.fit import FittedHead, fit_head
from regraft.training.planning import DepthPlan, DepthPlanner, ImageCounts, TrainingPace
from regraft.training.training_data import TrainingData

WEIGHTS = {"mobilenet_v2": str(MOBILENET), "resnet50": "random"}
WITHIN = 1.5  # times, in both directions
PLENTY = 1e9  # seconds and bytes: here neither limits anything


def prepare(name: str, options: argparse.Namespace, store: Store) -> tuple[FittedHead, TrainingData]:
    """Solve a head on some of the images."""
    catalog = Catalog.from_folder(options.data)
    count = min(options.images, len(catalog))
    chosen = sorted(np.random.default_rng(0).choice(len(catalog), count, replace=False))
    catalog = replace(catalog, samples=tuple(replace(catalog.samples[number], part="") for number in chosen))
    catalog = split(catalog, fraction=0.2, seed=0)
    recipe = Recipe(backbone=name, weights=WEIGHTS[name])
    backbone = load_backbone(name, weights=recipe.weights)
    model, halves = build_model(Context(store), backbone, catalog, recipe, ())
    features = extract_features(halves.prefix, catalog, store=store, keep_pixels=True)
    data = TrainingData(recipe, catalog, backbone, store, (features,), halves.names)
    reporter = SilentReporter()
    head = fit_head(model, halves, data=data, solver="logistic", reporter=reporter)
    return head, data


def compare(name: str, options: argparse.Namespace, store: Store) -> list[Row]:
    """Estimate and run the plan that `auto` starts with, then train everything."""
    head, data = prepare(name, options, store)
    parts = [len(data.catalog.part(part)) for part in ("train", "validation")]
    paces = TrainingPace(head.model, data.views[0], store)
    planner = DepthPlanner(head.model, data.backbone, ImageCounts(*parts), paces)
    phase = Phase("auto", epochs=options.epochs)
    first = planner.choose(phase, budget=PLENTY, limit=PLENTY)
    rows = measure(name, first, head, data)
    deeper = planner.choose(phase, budget=PLENTY, limit=PLENTY, beyond=first.phase)
    return rows + measure(name, deeper, head, data)


def measure(name: str, depth: DepthPlan, head: FittedHead, data: TrainingData) -> list[Row]:
    """Run a phase; return rows for what is done once, for an epoch, and for all of it."""
    runner = PhaseRunner(head, data, reporter=SilentReporter(), budget=PLENTY)
    start = time.monotonic()
    (fitted,), _ = runner.run(depth.phase)
    seconds = time.monotonic() - start
    epoch = statistics.median(record.seconds for record in fitted.history[2:])  # the first one compiles
    once = seconds - len(fitted.history[1:]) * epoch
    figures = {
        "once": (depth.once, once),
        "an epoch": (depth.epoch, epoch),
        f"all of {depth.epochs} epochs": (depth.seconds, seconds),
    }
    remark = f"{len(data.catalog.part('train'))} images to train on, {data.views[0].precision}"
    rows = []
    for share, (estimated, measured) in figures.items():
        times = max(estimated / measured, measured / estimated)
        title = f"{name}, {depth.phase.unfreeze}, {share}: estimated against measured, apart by"
        sides = (Side("estimated", "s", (estimated,)), Side("measured", "s", (measured,)))
        rows.append(Row(title, "times", (times,), at_most=WITHIN, sides=sides, remark=remark))
        print(f"{title} {times:.2f} times ({estimated:.1f} s, {measured:.1f} s); {remark}", flush=True)
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", default=list(WEIGHTS), metavar="NAME")
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    if not are_present(options.data, MOBILENET):
        return
    sheet = Sheet()
    for name in options.names:
        with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
            sheet.rows += compare(name, options, Store(Path(folder)))
        keras.backend.clear_session()
    sheet.write(options.json)


if __name__ == "__main__":
    main()
