"""Compare features from several depths with those of the last layer: accuracy, and time of extraction.

    python benchmarks/taps.py [--photos FOLDER] [--weights FILE] [--backbone NAME] [--solver logistic]

The training images are split into five folds. Four of them choose the taps and solve the head, with settings
from an inner cross-validation; the fifth is predicted. Extraction is timed on noise, with the networks in
turn, in seconds of processor time, which other programs hardly change.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import keras
import numpy as np
from rows import IMAGES, MOBILENET

from regraft.backbones.load import Backbone, load_backbone
from regraft.data.catalog import Catalog
from regraft.features.engine import BATCH, make_engine
from regraft.features.extract import extract_features
from regraft.features.keras_engine import fingerprint
from regraft.features.store import Store
from regraft.models.attention import pool
from regraft.models.taps import find_taps
from regraft.recipe import Recipe, Taps
from regraft.solvers.cross_validation import make_folds
from regraft.solvers.feature_scoring import choose_taps
from regraft.solvers.solve import make_training_rows, solve

CHOICES: tuple[Taps, ...] = ("last", "late", "auto")


def build_network(backbone: Backbone, choice: Taps) -> keras.Model:
    """Return a network from pixels to the pooled activations of each tap, by its layer's name."""
    taps = find_taps(backbone, choice)
    pooled = {tap.layer: pool(tap.tensor, "avg", f"pool_{tap.name}") for tap in taps}
    return keras.Model(backbone.model.inputs[0], pooled)


def print_accuracy(backbone: Backbone, catalog: Catalog, store: Store, solver: str) -> None:
    """Print the accuracy of each choice of taps on held-out images."""
    model = build_network(backbone, "auto")
    layers = list(model.output)
    features = extract_features(model, catalog, store=store)
    samples = catalog.exclude(features.refused).samples
    labels = catalog.targets(samples)
    blocks = [features.matrix(samples, layer) for layer in layers]
    late = [layers.index(tap.layer) for tap in find_taps(backbone, "late")]
    correct = {choice: np.zeros(len(labels), bool) for choice in CHOICES}
    for held in make_folds(labels, task="multiclass", count=5, seed=0):
        start = time.process_time()
        train = [block[~held] for block in blocks]
        part, _ = make_training_rows(train[-1], labels[~held], task="multiclass", seed=0, weights=None)
        automatic = choose_taps(train, part)
        seconds = time.process_time() - start
        names = ", ".join(layers[number] for number in automatic)
        print(f"  chosen in {seconds:.1f} s of processor time: {names}")
        for choice, numbers in (("last", [len(blocks) - 1]), ("late", late), ("auto", automatic)):
            head = solve(solver, [train[number] for number in numbers], labels[~held], task="multiclass")
            predictions = head.predict(np.concatenate([blocks[number][held] for number in numbers], 1))
            correct[choice][held] = predictions.argmax(1) == labels[held]
    for choice, hits in correct.items():
        gain = hits.mean() - correct["last"].mean()
        print(f"{choice:<5} top-1 {hits.mean():.3f} of {len(hits):,} held-out images ({gain:+.3f})")


def print_extraction(backbone: Backbone, store: Store, rounds: int) -> None:
    """Print the time that an image takes in the network of each choice of taps."""
    networks = {choice: build_network(backbone, choice) for choice in CHOICES}
    engines = {
        choice: make_engine(network, store.folder("engines", fingerprint(network)))
        for choice, network in networks.items()
    }
    size = backbone.image_size
    noise = np.random.default_rng(0).integers(0, 256, (12, BATCH, size, size, 3)).astype(np.uint8)
    times: dict[str, list[float]] = {choice: [] for choice in CHOICES}
    for turn in range(rounds + 1):
        for choice, engine in engines.items():
            start = time.process_time()
            list(engine.run(noise))
            if turn:
                times[choice].append((time.process_time() - start) / (len(noise) * BATCH))
    for choice, seconds in times.items():
        growth = statistics.median(seconds) / statistics.median(times["last"]) - 1
        milliseconds = 1000 * statistics.median(seconds)
        print(f"{choice:<5} {milliseconds:.2f} ms of processor time an image ({growth:+.1%})")


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=Path, default=IMAGES / "train")
    parser.add_argument("--backbone", default="mobilenet_v2")
    parser.add_argument("--weights", default=str(MOBILENET))
    parser.add_argument("--solver", default="logistic")
    parser.add_argument("--store", type=Path, default=None)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    backbone, store = load_backbone(options.backbone, weights=options.weights), Store(options.store)
    print_accuracy(
        backbone, Catalog.open(options.photos, Recipe()).require_learnable(), store, options.solver
    )
    print_extraction(backbone, store, options.rounds)


if __name__ == "__main__":
    main()
