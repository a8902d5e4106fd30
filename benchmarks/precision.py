"""Measure what bf16 does to predictions and to the rate, for two networks on images and one that it harms.

All images, those of training and of test, are split into five folds for each seed. A logistic head, solved on
the other four, predicts each fold, on features in f32 and in bf16. Rates are those of extraction from files
into an empty store, in turn, with a converted network. If the processor has no bf16, OpenVINO emulates it:
with the same numbers, slowly.

The network that bf16 harms gives mean colours, which differ in the fourth digit behind a large constant.
`--precision auto` has to run it in f32, and the others in bf16 if the processor has that.

usage: precision.py [--data FOLDER] [--seeds 5] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rows import IMAGES, MOBILENET, Row, Sheet, Side, are_present, compute_ratios, make_parser

from regraft import Recipe
from regraft.data.catalog import Catalog
from regraft.features.engine import EngineRunner
from regraft.features.extract import extract_features
from regraft.features.openvino import Precision, has_bf16
from regraft.features.store import Store
from regraft.pipeline.embed import load_embedding_network
from regraft.solvers.cross_validation import make_folds
from regraft.solvers.solve import solve
from regraft.system.console import SILENT
from regraft.tasks import TASKS

WEIGHTS = MOBILENET.parent
RECIPES = {
    "MobileNetV2": Recipe(backbone="mobilenet_v2", weights=str(MOBILENET)),
    "EfficientNet-Lite0": Recipe(backbone=str(WEIGHTS / "efficientnet_lite0_notop.keras")),
}
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16")
MULTICLASS = TASKS["multiclass"]


def build_mean_colours():
    """Return a network whose features differ in the fourth digit."""
    import keras

    image = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(keras.layers.Rescaling(0.001, offset=300)(image))
    x = keras.layers.Conv2D(3, 1, kernel_initializer=keras.initializers.Orthogonal(seed=0))(x)
    return keras.Model(image, {"cut_0": keras.layers.GlobalAveragePooling2D()(x)})


def cross_validate(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float]:
    """Return top-1 in % and mean log loss of predictions for held-out images."""
    encoded = MULTICLASS.encode(labels, int(labels.max()) + 1)
    predictions = np.zeros_like(encoded)
    held_out = np.zeros(len(labels), bool)
    for held in make_folds(labels, task="multiclass", count=5, seed=seed):
        head = solve("logistic", features[~held], labels[~held], task="multiclass", seed=seed)
        predictions[held] = head.predict(features[held])
        held_out |= held
    scored = predictions[held_out], encoded[held_out]
    return 100 * MULTICLASS.score(*scored), float(MULTICLASS.compute_losses(*scored).mean())


def compare_predictions(
    name: str, features: dict[str, np.ndarray], labels: np.ndarray, seeds: int
) -> list[Row]:
    """Return rows of top-1 and log loss in both precisions."""
    scores = {
        precision: np.array([cross_validate(rows, labels, seed) for seed in range(seeds)])
        for precision, rows in features.items()
    }
    exact, rough = scores["f32"], scores["bf16"]
    spread = np.linalg.norm(features["f32"] - features["f32"].mean(0))
    difference = np.linalg.norm(features["bf16"] - features["f32"]) / spread
    remark = f"mean of {seeds} seeds of five folds, {len(labels):,} images; "
    remark += f"features {100 * difference:.1f} % of their spread apart"
    sides = [
        tuple(Side(precision, unit, tuple(values[:, column])) for precision, values in scores.items())
        for column, unit in enumerate(("%", "log loss"))
    ]
    points = float((rough - exact).mean(0)[0])
    worse = 100 * float(rough.mean(0)[1] / exact.mean(0)[1] - 1)
    return [
        Row(f"top-1 in bf16 less f32, {name}", "points", (points,), -0.3, None, sides[0], remark),
        Row(f"log loss in bf16 above f32, {name}", "%", (worse,), None, 1.0, sides[1], remark),
    ]


def measure_rates(name: str, network, catalog: Catalog, rounds: int) -> Row:
    """Return the images per second in both precisions."""
    rates: dict[str, list[float]] = {precision: [] for precision in PRECISIONS}
    for _ in range(rounds):
        for precision, values in rates.items():
            with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
                store = Store(Path(folder))
                EngineRunner(network, store).engine  # noqa: B018 - converts the network
                start = time.monotonic()
                extract_features(network, catalog, store=store, precision=precision, reporter=SILENT)
                values.append(len(catalog) / (time.monotonic() - start))
    sides = tuple(Side(precision, "images/s", tuple(values)) for precision, values in rates.items())
    ratios = compute_ratios(rates["bf16"], rates["f32"])
    return Row(
        f"extraction in bf16 over f32, {name}", "times", ratios, None, None, sides, describe_processor()
    )


def describe_processor() -> str:
    kind = "of the processor's own" if has_bf16() else "emulated: this processor has none"
    return f"bf16 {kind}"


def check_choice(name: str, network, catalog: Catalog, expected: str) -> Row:
    """Return whether `auto` chooses the expected precision."""
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        chosen = extract_features(network, catalog, store=Store(Path(folder))).precision
    title = f"--precision auto takes {expected}, {name}"
    return Row(title, "yes", (float(chosen == expected),), at_least=1.0, remark=describe_processor())


def measure(name: str, recipe: Recipe, catalog: Catalog, options: argparse.Namespace) -> list[Row]:
    """Return all rows of one network."""
    recipe = replace(recipe, head=replace(recipe.head, taps="last"))
    network, features = load_embedding_network(recipe), {}
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        for precision in PRECISIONS:
            store = Store(Path(folder))
            result = extract_features(network, catalog, store=store, precision=precision, reporter=SILENT)
            samples = catalog.exclude(result.refused).samples
            features[precision] = result.matrix(samples, "cut_0").astype(np.float64)
    labels = catalog.targets(samples)
    return [
        *compare_predictions(name, features, labels, options.seeds),
        measure_rates(name, network, catalog, options.rounds),
        check_choice(name, network, catalog, "bf16" if has_bf16() else "f32"),
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if not are_present(options.data, WEIGHTS):
        return
    catalog, rows = Catalog.from_folder(options.data), []
    for name, recipe in RECIPES.items():
        rows += measure(name, recipe, catalog, options)
    rows.append(check_choice("mean colours behind a constant", build_mean_colours(), catalog, "f32"))
    for row in rows:
        sides = ", ".join(f"{side.name} {np.mean(side.values):.4g} {side.unit}" for side in row.sides)
        print(f"{row.name}: {row.median:.2f} {row.unit}; {sides}; {row.remark}", flush=True)
    Sheet(rows).write(options.json)


if __name__ == "__main__":
    main()
