"""What heat maps cost, and whether they show what decides.

- the time of predicting with heat maps of the class and its runner-up, over that of predicting without, and
  the time that the report's heat maps add to a run;
- the rank correlation between the heat maps of a probe and those of the same probe with its classes' weights
  replaced by random ones: heat that does not depend on the head explains nothing;
- photographs with a coloured square at a random position, which alone decides the class: the share of the
  heat in the map's cells that the square touches.

usage: heat_maps.py [--rounds N] [--images N] [--marks N] [--data FOLDER] [--weights FILE] [--json FILE]
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rows import IMAGES, MOBILENET, Row, Sheet, Side, are_present, make_parser
from scipy.stats import spearmanr

import regraft
from regraft.explanation.explainer import Explainer
from regraft.explanation.heads import read_head
from regraft.explanation.heat import HeatMaker, PooledLinear
from regraft.features.openvino import OpenVinoEngine
from regraft.inference.model_files import GRAPH
from regraft.models.inner_outputs import ANSWERS, FEATURES, MAP
from regraft.pipeline import run_folder

SIDE, MARK, CELL = 224, 64, 32  # pixels of the images, of the square, and of a position of the map
BATCH = 8


def train(data: Path, out: Path, weights: Path) -> tuple[Path, tuple[float, float]]:
    """Train a probe; return its folder, and the seconds that its heat maps took, also of the processor."""
    taken = []
    add_heat_maps = run_folder.add_heat_maps

    def add_and_time(*arguments):
        start, used = time.perf_counter(), sum(os.times()[:4])
        parts = add_heat_maps(*arguments)
        taken.append((time.perf_counter() - start, sum(os.times()[:4]) - used))
        return parts

    run_folder.add_heat_maps = add_and_time
    recipe = regraft.Recipe(backbone="mobilenet_v2", weights=str(weights), phases=(), precision="f32")
    run = regraft.train(data, recipe, out, store=out.parent / "store")
    run_folder.add_heat_maps = add_heat_maps
    return run.path, taken[0]


def list_images(data: Path) -> list[Path]:
    return sorted(file for file in data.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png"))


def read_pixels(files: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file).convert("RGB").resize((SIDE, SIDE))) for file in files])


# --- time


def measure_cost(run: Path, pixels: np.ndarray, rounds: int) -> Row:
    """Compare the processor's time of predicting with and without heat maps, in turn."""
    graph = run / GRAPH[0]
    plain = OpenVinoEngine(graph, batch=BATCH, outputs=(ANSWERS, FEATURES))
    full = OpenVinoEngine(graph, batch=BATCH, outputs=(ANSWERS, FEATURES, MAP))
    heat_maker, batches = HeatMaker(read_head(graph, "softmax")), np.split(pixels, len(pixels) // BATCH)

    def predict() -> None:
        for _ in plain.run(batches):
            pass

    def explain() -> None:
        for outputs in full.run(batches):
            for answers, features in zip(outputs[ANSWERS], outputs[MAP], strict=True):
                first, second = np.argsort(-answers)[:2]
                single = np.eye(len(answers))
                heat_maker.compute(features, np.stack([single[first], single[first] - single[second]]))

    seconds: dict[str, list[float]] = {"predicting": [], "with heat maps": []}
    for work in (predict, explain):
        work()
    for _ in range(rounds):
        for name, work in zip(seconds, (predict, explain), strict=True):
            used = time.process_time()
            work()
            seconds[name].append(1000 * (time.process_time() - used) / len(pixels))
    longer = tuple(100 * (b / a - 1) for a, b in zip(*seconds.values(), strict=True))
    sides = tuple(
        Side(name, "ms of the processor an image", tuple(values)) for name, values in seconds.items()
    )
    return Row("heat maps: prediction takes longer with them", "%", longer, at_most=5, sides=sides)


# --- do they depend on the head?


def compare_with_random_head(run: Path, pixels: np.ndarray) -> Row:
    """Return the rank correlation of each image's heat with that of a head with other weights."""
    graph = run / GRAPH[0]
    engine, head = OpenVinoEngine(graph, batch=BATCH), read_head(graph, "softmax")
    rng, correlations, other = np.random.default_rng(0), [], None
    for outputs in engine.run(np.split(pixels, len(pixels) // BATCH)):
        for answers, features in zip(outputs[ANSWERS], outputs[MAP], strict=True):
            linear = PooledLinear.from_head(head, features.shape[-1])
            assert linear is not None
            if other is None:
                shuffled = rng.normal(0, linear.average.std(), linear.average.shape)
                other = PooledLinear(shuffled, np.zeros_like(shuffled), linear.bias)
            direction = np.eye(len(answers))[[answers.argmax()]] - 1 / len(answers)
            one, two = (maker.compute(features, direction).ravel() for maker in (linear, other))
            correlations.append(spearmanr(one, two).statistic)
    return Row(
        "heat maps: rank correlation with those of a random head",
        "of 1",
        (abs(statistics.mean(correlations)),),
        at_most=0.2,
        remark=f"mean over {len(correlations)} photographs",
    )


# --- do they show what decides?


def write_marked(data: Path, out: Path, count: int) -> dict[str, tuple[int, int]]:
    """Write photographs of which every other has a square; return its place by file name, (row, column)."""
    files = list_images(data)
    rng = np.random.default_rng(0)
    places = {}
    for number, row in enumerate(rng.permutation(len(files))[: count + count // 8]):
        image = Image.open(files[row]).convert("RGB").resize((SIDE, SIDE))
        left, top = (int(value) for value in rng.integers(0, SIDE - MARK, 2))
        name = f"{number:04}.png"
        if number % 2:
            ImageDraw.Draw(image).rectangle((left, top, left + MARK - 1, top + MARK - 1), (230, 20, 160))
            places[name] = top, left
        folder = out / ("train" if number < count else "test") / ("marked" if number % 2 else "plain")
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / name)
    return places


def find_marks(folder: Path, data: Path, weights: Path, count: int) -> list[Row]:
    """Train on marked photographs, and look where the heat of those of the test part is."""
    places = write_marked(data, folder / "marks", count)
    run, _ = train(folder / "marks", folder / "marks-run", weights)
    shares, areas = [], []
    for item in Explainer(regraft.load(run)).explain(folder / "marks" / "test" / "marked"):
        if item.prediction.label != "marked":
            continue
        top, left = places[Path(item.prediction.image).name]
        rows, columns = (slice(start // CELL, -(-(start + MARK) // CELL)) for start in (top, left))
        heat = np.maximum(item.heat[0], 0)
        shares.append(float(heat[rows, columns].sum() / heat.sum()))
        areas.append(100 * heat[rows, columns].size / heat.size)
    remark = f"{len(shares)} photographs; these cells are {statistics.mean(areas):.0f} % of the map"
    share = (100 * statistics.mean(shares),)
    return [Row("heat maps: heat on the mark that decides", "%", share, at_least=50, remark=remark)]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=160)
    parser.add_argument("--marks", type=int, default=640, help="photographs with and without a mark")
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--weights", type=Path, default=MOBILENET)
    options = parser.parse_args()
    if not are_present(options.data, options.weights):
        return
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as name:
        folder = Path(name)
        run, (wall, processor) = train(options.data, folder / "run", options.weights)
        pixels = read_pixels(list_images(options.data)[: options.images // BATCH * BATCH])
        sheet = Sheet(
            [
                measure_cost(run, pixels, options.rounds),
                Row(
                    "heat maps: time that a report's take",
                    "s",
                    (wall,),
                    at_most=1.5,
                    sides=(Side("processor", "s", (processor,)),),
                ),
                compare_with_random_head(run, pixels),
                *find_marks(folder, options.data, options.weights, options.marks),
            ]
        )
    for row in sheet.rows:
        sides = ", ".join(
            f"{side.name} {statistics.median(side.values):.2f} {side.unit}" for side in row.sides
        )
        print(f"{row.name}: {row.median:.2f} {row.unit} {row.remark} {sides}")
    sheet.write(options.json)


if __name__ == "__main__":
    main()
