"""What bf16 does to answers, and to the rate: two networks on photographs, and one network that it harms.

All photographs, those of training and of test, are cut in five, once for every seed; each fifth is answered
by a logistic head solved on the other four, on features in f32 and in bf16. Rates are of extraction from
files into an empty store, in alternation, the network converted before. Where the processor has no bf16,
OpenVINO imitates it: the same numbers, slowly.

The network that bf16 harms gives mean colours, which begin at the fourth digit behind a large constant.
`--precision auto` has to keep it in f32, and the others in bf16 where the processor has it.

usage: precision.py [--data FOLDER] [--seeds 5] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rows import Row, Sheet, Side, add_json, ratios

from regraft import Recipe
from regraft.data.catalog import Catalog
from regraft.features.engine import Speed
from regraft.features.extract import extract_features
from regraft.features.openvino import Precision, has_bf16
from regraft.features.store import Store
from regraft.pipeline.embed import embedding_network
from regraft.solvers.cross_validation import folds
from regraft.solvers.solve import solve
from regraft.system.console import SILENT
from regraft.tasks import TASKS

SHARED = Path(__file__).resolve().parents[2] / "shared"
WEIGHTS = SHARED / "weights"
RECIPES = {
    "MobileNetV2": Recipe(
        backbone="mobilenet_v2", weights=str(WEIGHTS / "mobilenet_v2_imagenet_224_notop.weights.h5")
    ),
    "EfficientNet-Lite0": Recipe(backbone=str(WEIGHTS / "efficientnet_lite0_notop.keras")),
}
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16")
MULTICLASS = TASKS["multiclass"]


def mean_colours():
    """A network whose features differ from the fourth digit on."""
    import keras

    image = keras.Input((32, 32, 3))
    x = keras.layers.ReLU()(keras.layers.Rescaling(0.001, offset=300)(image))
    x = keras.layers.Conv2D(3, 1, kernel_initializer=keras.initializers.Orthogonal(seed=0))(x)
    return keras.Model(image, {"cut_0": keras.layers.GlobalAveragePooling2D()(x)})


def cross_validate(features: np.ndarray, labels: np.ndarray, seed: int) -> tuple[float, float]:
    """Top-1 in % and mean log loss of heads that have not seen what they answer."""
    encoded = MULTICLASS.encode(labels, int(labels.max()) + 1)
    answers = np.zeros_like(encoded)
    answered = np.zeros(len(labels), bool)
    for held in folds(labels, task="multiclass", count=5, seed=seed):
        head = solve("logistic", features[~held], labels[~held], task="multiclass", seed=seed)
        answers[held] = head.predict(features[held])
        answered |= held
    scored = answers[answered], encoded[answered]
    return 100 * MULTICLASS.score(*scored), float(MULTICLASS.losses(*scored).mean())


def compare_answers(name: str, features: dict[str, np.ndarray], labels: np.ndarray, seeds: int) -> list[Row]:
    """Top-1 and log loss of both precisions, a value a seed."""
    scores = {
        each: np.array([cross_validate(rows, labels, seed) for seed in range(seeds)])
        for each, rows in features.items()
    }
    exact, rough = scores["f32"], scores["bf16"]
    spread = np.linalg.norm(features["f32"] - features["f32"].mean(0))
    apart = np.linalg.norm(features["bf16"] - features["f32"]) / spread
    remark = f"mean of {seeds} seeds of five folds, {len(labels):,} photographs; "
    remark += f"features {100 * apart:.1f} % of their spread apart"
    sides = [
        tuple(Side(each, unit, tuple(values[:, column])) for each, values in scores.items())
        for column, unit in enumerate(("%", "log loss"))
    ]
    points = float((rough - exact).mean(0)[0])
    worse = 100 * float(rough.mean(0)[1] / exact.mean(0)[1] - 1)
    return [
        Row(f"top-1 in bf16 less f32, {name}", "points", (points,), -0.3, None, sides[0], remark),
        Row(f"log loss in bf16 above f32, {name}", "%", (worse,), None, 1.0, sides[1], remark),
    ]


def measure_rates(name: str, network, catalog: Catalog, rounds: int) -> Row:
    """Images a second in both precisions."""
    rates: dict[str, list[float]] = {each: [] for each in PRECISIONS}
    for _ in range(rounds):
        for precision, measured in rates.items():
            with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
                store = Store(Path(folder))
                Speed(network, store).engine  # noqa: B018 - converted and kept
                begun = time.monotonic()
                extract_features(network, catalog, store=store, precision=precision, reporter=SILENT)
                measured.append(len(catalog) / (time.monotonic() - begun))
    sides = tuple(Side(each, "images/s", tuple(measured)) for each, measured in rates.items())
    values = ratios(rates["bf16"], rates["f32"])
    return Row(f"extraction in bf16 over f32, {name}", "times", values, None, None, sides, processor())


def processor() -> str:
    kind = "the processor's own" if has_bf16() else "imitated: this processor has none"
    return f"bf16 {kind}"


def choice(name: str, network, catalog: Catalog, right: str) -> Row:
    """Whether `auto` chooses what is right."""
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        chosen = extract_features(network, catalog, store=Store(Path(folder))).precision
    title = f"--precision auto takes {right}, {name}"
    return Row(title, "yes", (float(chosen == right),), at_least=1.0, remark=processor())


def measure(name: str, recipe: Recipe, catalog: Catalog, options: argparse.Namespace) -> list[Row]:
    """All rows of one network."""
    network, features = embedding_network(recipe), {}
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        for precision in PRECISIONS:
            store = Store(Path(folder))
            found = extract_features(network, catalog, store=store, precision=precision, reporter=SILENT)
            samples = catalog.without(found.refused).samples
            features[precision] = found.matrix(samples, "cut_0").astype(np.float64)
    labels = catalog.targets(samples)
    return [
        *compare_answers(name, features, labels, options.seeds),
        measure_rates(name, network, catalog, options.rounds),
        choice(name, network, catalog, "bf16" if has_bf16() else "f32"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    add_json(parser)
    options = parser.parse_args()
    for path in (options.data, WEIGHTS):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    catalog, rows = Catalog.from_folder(options.data), []
    for name, recipe in RECIPES.items():
        rows += measure(name, recipe, catalog, options)
    rows.append(choice("mean colours behind a constant", mean_colours(), catalog, "f32"))
    for row in rows:
        sides = ", ".join(f"{side.name} {np.mean(side.values):.4g} {side.unit}" for side in row.sides)
        print(f"{row.name}: {row.median:.2f} {row.unit}; {sides}; {row.remark}", flush=True)
    Sheet(rows).write(options.json)


if __name__ == "__main__":
    main()
