"""Features from several depths against the last layer's alone: accuracy in cross-validation, and extraction.

    python benchmarks/taps.py [--photos FOLDER] [--weights FILE] [--backbone NAME] [--solver logistic]

The photographs of the training part are cut in five. Four parts choose the taps and solve the head, settings
by an inner cross-validation; the fifth is answered. Extraction is timed on noise, the networks alternating:
seconds of processor time, which other programs on the machine disturb least.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import keras
import numpy as np

from regraft.backbones.load import Backbone, load_backbone
from regraft.data.catalog import Catalog
from regraft.features.engine import BATCH, make_engine
from regraft.features.extract import extract_features
from regraft.features.keras_engine import fingerprint
from regraft.features.store import Store
from regraft.models.attention import pool
from regraft.models.taps import find_taps
from regraft.recipe import Recipe, Taps
from regraft.solvers.cross_validation import folds
from regraft.solvers.feature_scoring import choose_taps
from regraft.solvers.solve import part_of, solve

SHARED = Path(__file__).resolve().parents[2] / "shared"
CHOICES: tuple[Taps, ...] = ("last", "late", "auto")


def network(backbone: Backbone, which: Taps) -> keras.Model:
    """Pixels to the pooled activations of each tap, by its layer's name."""
    taps = find_taps(backbone, which)
    pooled = {tap.layer: pool(tap.tensor, "avg", f"pool_{tap.name}") for tap in taps}
    return keras.Model(backbone.model.inputs[0], pooled)


def accuracy(backbone: Backbone, catalog: Catalog, store: Store, solver: str) -> None:
    """Print the accuracy on held-out photographs of each choice of taps."""
    model = network(backbone, "auto")
    layers = list(model.output)
    features = extract_features(model, catalog, store=store)
    samples = catalog.without(features.refused).samples
    labels = catalog.targets(samples)
    blocks = [features.matrix(samples, layer) for layer in layers]
    late = [layers.index(tap.layer) for tap in find_taps(backbone, "late")]
    right = {which: np.zeros(len(labels), bool) for which in CHOICES}
    for held in folds(labels, task="multiclass", count=5, seed=0):
        begun = time.process_time()
        train = [block[~held] for block in blocks]
        part, _ = part_of(train[-1], labels[~held], task="multiclass", seed=0, weights=None)
        found = choose_taps(train, part)
        took = time.process_time() - begun
        print(f"  chosen in {took:.1f} s of processor time: {', '.join(layers[number] for number in found)}")
        for which, numbers in (("last", [len(blocks) - 1]), ("late", late), ("auto", found)):
            head = solve(solver, [train[number] for number in numbers], labels[~held], task="multiclass")
            answers = head.predict(np.concatenate([blocks[number][held] for number in numbers], 1))
            right[which][held] = answers.argmax(1) == labels[held]
    for which, hits in right.items():
        gain = hits.mean() - right["last"].mean()
        print(f"{which:<5} top-1 {hits.mean():.3f} of {len(hits):,} held-out photographs ({gain:+.3f})")


def extraction(backbone: Backbone, store: Store, rounds: int) -> None:
    """Print the time of an image through the network of each choice of taps."""
    networks = {which: network(backbone, which) for which in CHOICES}
    engines = {
        which: make_engine(model, store.folder("engines", fingerprint(model)))
        for which, model in networks.items()
    }
    size = backbone.image_size
    noise = np.random.default_rng(0).integers(0, 256, (12, BATCH, size, size, 3)).astype(np.uint8)
    taken: dict[str, list[float]] = {which: [] for which in CHOICES}
    for turn in range(rounds + 1):
        for which, engine in engines.items():
            begun = time.process_time()
            list(engine.run(noise))
            if turn:
                taken[which].append((time.process_time() - begun) / (len(noise) * BATCH))
    for which, seconds in taken.items():
        more = statistics.median(seconds) / statistics.median(taken["last"]) - 1
        print(
            f"{which:<5} {1000 * statistics.median(seconds):.2f} ms of processor time an image ({more:+.1%})"
        )


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--photos", type=Path, default=SHARED / "images/clothing/train")
    options.add_argument("--backbone", default="mobilenet_v2")
    options.add_argument(
        "--weights", default=str(SHARED / "weights/mobilenet_v2_imagenet_224_notop.weights.h5")
    )
    options.add_argument("--solver", default="logistic")
    options.add_argument("--store", type=Path, default=None)
    options.add_argument("--rounds", type=int, default=7)
    given = options.parse_args()
    backbone, store = load_backbone(given.backbone, weights=given.weights), Store(given.store)
    accuracy(backbone, Catalog.open(given.photos, Recipe()).learnable(), store, given.solver)
    extraction(backbone, store, given.rounds)


if __name__ == "__main__":
    main()
