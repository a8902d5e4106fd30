"""Measure what a second and a third network beside the first are worth, and what they cost.

The features of all photographs are extracted once by each network, as `train --backbone a,b` does: on one
image of the size of the first network. Then, ten times, a head is solved on two thirds of the photographs, on
the outputs of one, two and three networks, and scored on the other third. Differences are paired: the same
photographs, the same folds.

With --time, `regraft train --unfreeze none` is run with an empty store: with the first network, with the
second, and with both.

usage: several_networks.py [--data FOLDER] [--repeats 10] [--solver ridge] [--store FOLDER] [--time]
                           [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rows import IMAGES, MOBILENET, SHARED, Row, Sheet, are_present, make_parser

NETWORKS = (
    ("mobilenet_v2", str(MOBILENET)),
    (str(SHARED / "weights" / "efficientnet_lite0_notop.keras"), "imagenet"),
    ("xception", str(SHARED / "weights" / "xception_imagenet_notop_f16.weights.h5")),
)
LABELS = ("MobileNetV2", "and EfficientNet-Lite0", "and Xception")
TARGETS = (None, 2.0, 4.0)  # points of top-1 above the first network alone
SLOWER = 3.0  # seconds that both at once may take beyond the sum of their times


def extract_blocks(data: Path, store: Path | None) -> tuple[list[np.ndarray], np.ndarray]:
    """Return the pooled output of each network for all photographs, each (n, d), and their classes, (n,)."""
    from regraft import HeadSpec, Recipe
    from regraft.models.joint_taps import make_pooled_networks
    from regraft.pipeline.context import Context
    from regraft.pipeline.prepare import extract_and_remember, list_data, list_network_recipes, open_networks

    names, weights = (",".join(items) for items in zip(*NETWORKS, strict=True))
    recipe = Recipe(backbone=names, weights=weights, head=HeadSpec(taps="last"))
    context = Context.open(store)
    catalog, _ = list_data(context, data, recipe)
    backbone = open_networks(recipe, reporter=context.reporter)
    networks = make_pooled_networks(backbone, recipe.head)
    parts = [
        extract_and_remember(context, network, catalog, own)
        for network, own in zip(networks, list_network_recipes(recipe), strict=True)
    ]
    catalog = catalog.exclude(parts[0].refused)
    blocks = [part.matrix(catalog.samples, list(networks[0].output)[-1]) for part in parts]
    return blocks, catalog.targets(catalog.samples)


def score_heads(blocks: list[np.ndarray], labels: np.ndarray, *, seed: int, solver: str) -> list[float]:
    """Return the top-1 in percent, on a random third, of heads on one block, two blocks, and so on."""
    from regraft.solvers.solve import solve

    order = np.random.default_rng(seed).permutation(len(labels))
    held, train = order[: len(labels) // 3], order[len(labels) // 3 :]
    scores = []
    for count in range(1, len(blocks) + 1):
        rows = [block[train] for block in blocks[:count]]
        head = solve(solver, rows, labels[train], task="multiclass", seed=seed)
        answers = head.predict(np.concatenate([block[held] for block in blocks[:count]], 1))
        scores.append(100 * float((answers.argmax(1) == labels[held]).mean()))
    return scores


def measure_accuracy(options: argparse.Namespace) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
        blocks, labels = extract_blocks(options.data, options.store or Path(folder))
    table = np.array(
        [score_heads(blocks, labels, seed=seed, solver=options.solver) for seed in range(options.repeats)]
    )
    remark = f"{options.repeats} times a third of {len(labels):,} photographs held out, {options.solver}"
    rows = [Row(f"several networks: top-1 of {LABELS[0]}", "%", tuple(table[:, 0]), remark=remark)]
    print(f"{LABELS[0]:<24} top-1 {table[:, 0].mean():.2f} %")
    for number in range(1, len(LABELS)):
        gains = table[:, number] - table[:, 0]
        error = gains.std(ddof=1) / np.sqrt(len(gains))
        mean = table[:, number].mean()
        print(f"{LABELS[number]:<24} top-1 {mean:.2f} %, {gains.mean():+.2f} +- {error:.2f} points")
        name = f"several networks: top-1 {' '.join(LABELS[1 : number + 1])}, above {LABELS[0]}"
        rows.append(Row(name, "points", tuple(gains), at_least=TARGETS[number], remark=remark))
    return rows


def measure_time(data: Path) -> Row:
    """Time `regraft train` with the first network, the second, and both, each with an empty store."""
    seconds = []
    for chosen in ([0], [1], [0, 1]):
        names, weights = (",".join(items) for items in zip(*(NETWORKS[n] for n in chosen), strict=True))
        with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder:
            options = [
                "--backbone",
                names,
                "--weights",
                weights,
                "--unfreeze",
                "none",
                "--store",
                f"{folder}/store",
            ]
            command = [sys.executable, "-m", "regraft", "train", str(data), *options, "-o", f"{folder}/run"]
            start = time.monotonic()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.monotonic() - start)
        print(
            f"regraft train with {len(chosen)} network{'s' if len(chosen) > 1 else ''}: {seconds[-1]:.1f} s"
        )
    more = seconds[2] - seconds[0] - seconds[1]
    return Row("several networks: two at once, beyond the sum of their times", "s", (more,), at_most=SLOWER)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--data", type=Path, default=IMAGES)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--solver", default="ridge")
    parser.add_argument("--store", type=Path)
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    files = [name for pair in NETWORKS for name in pair if name.startswith("/")]
    if not are_present(options.data, *files):
        return
    rows = measure_accuracy(options)
    if options.time:
        rows.append(measure_time(options.data))
    Sheet(rows).write(options.json)


if __name__ == "__main__":
    main()
