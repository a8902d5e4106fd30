"""What bf16 costs a probe: its answers on photographs it has not seen, from features in f32 and in bf16.

All photographs, those of training and of test, are cut in five; each fifth is answered by a logistic head
solved on the other four. Where the processor has no bf16, OpenVINO imitates it: the same numbers, slowly.

What bounds it:
    bf16 against f32: MobileNetV2's activations end at 6 and its depthwise layers add up few numbers, so eight
        digits show. `--precision auto` measures the features' distance and uses f32 here: above 10 % of
        their spread it does not take bf16.

usage: precision.py [--data FOLDER] [--weights FILE] [--solver logistic] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from rows import Row, Sheet, Side, add_json

from regraft import Recipe
from regraft.console import quiet
from regraft.data.catalog import Catalog
from regraft.embedding import embedding_network
from regraft.features.extract import extract_features
from regraft.features.openvino import Precision, has_bf16
from regraft.features.store import Store
from regraft.training.classical import solve
from regraft.training.folds import folds

SHARED = Path(__file__).resolve().parents[2] / "shared"
PRECISIONS: tuple[Precision, ...] = ("f32", "bf16")


def answered(features: np.ndarray, labels: np.ndarray, solver: str) -> np.ndarray:
    """The class that each photograph is given by a head that has not seen it, of shape (n,)."""
    answers = np.empty_like(labels)
    for held in folds(labels, task="multiclass", count=5, seed=0):
        head = solve(solver, features[~held], labels[~held], task="multiclass")
        answers[held] = head.predict(features[held]).argmax(1)
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=SHARED / "images" / "clothing")
    weights = SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"
    parser.add_argument("--weights", type=Path, default=weights)
    parser.add_argument("--solver", default="logistic")
    add_json(parser)
    options = parser.parse_args()
    for path in (options.data, options.weights):
        if not path.exists():
            print(f"skipped: {path} is not here")
            return
    network = embedding_network(Recipe(backbone="mobilenet_v2", weights=str(options.weights)))
    found, rates = {}, {}
    with tempfile.TemporaryDirectory(prefix="regraft-bench-") as folder, quiet():
        catalog = Catalog.from_folder(options.data)
        for precision in PRECISIONS:
            begun = time.monotonic()
            features = extract_features(network, catalog, store=Store(Path(folder)), precision=precision)
            rates[precision] = len(catalog) / (time.monotonic() - begun)
            samples = catalog.without(features.refused).samples
            found[precision] = features.matrix(samples, "cut_0")
    labels = np.asarray(catalog.targets(samples))
    answers = {each: answered(values, labels, options.solver) for each, values in found.items()}
    right = {each: 100 * float((given == labels).mean()) for each, given in answers.items()}
    exact, rough = found["f32"].astype(np.float64), found["bf16"].astype(np.float64)
    apart = np.linalg.norm(rough - exact) / np.linalg.norm(exact - exact.mean(0))
    others = int((answers["f32"] != answers["bf16"]).sum())
    kind = "the processor's own" if has_bf16() else "imitated: this processor has none"
    row = Row(
        "bf16 against f32: top-1 of the probe, apart by",
        "points",
        (abs(right["bf16"] - right["f32"]),),
        at_most=0.3,
        sides=tuple(Side(each, "%", (value,)) for each, value in right.items()),
        remark=f"{len(labels):,} photographs in five folds; bf16 {kind}; {others} answered otherwise; "
        f"features {100 * apart:.1f} % of their spread apart",
    )
    speed = Row(
        "extraction in bf16 over f32",
        "times",
        (rates["bf16"] / rates["f32"],),
        sides=tuple(Side(each, "images/s", (value,)) for each, value in rates.items()),
        remark=f"once each, converting included; bf16 {kind}",
    )
    for each in (row, speed):
        print(f"{each.name} {each.median:.2f} {each.unit}: {each.remark}")
    Sheet([row, speed]).write(options.json)


if __name__ == "__main__":
    main()
