"""Measure how often prediction sets and intervals hold the truth, over random splits of real photographs.

    python benchmarks/coverage.py [--splits 100] [--cache FOLDER] [--json FILE] [classes labels angles scales]

MobileNetV2's features of all photographs are split at random into images to train and images to test. A head
is solved on the former, with settings by cross-validation, and its out-of-fold answers set the limits, which
the latter are tried on.

    classes  ten kinds of clothes, logistic head; also with one limit for all classes, and with the limit that
             covers exactly the asked share of the test images, which nobody can know: what it needs is what
             the head's own accuracy bounds
    labels   pairs of photographs, each in one pair: the mean of their features, with both classes as labels;
             the share of labels that are in the set
    angles   photographs turned by a known angle, ridge head: frozen features hardly know it, so the intervals
             are wide, but they know how far a photograph is turned
    scales   photographs at a known scale, ridge head

For each level: the mean coverage, in how many splits of a hundred it is inside its chance band, and the mean
size. Coverage of classes is that of the limits, before the most probable class is added to every set.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sets
from numpy.typing import NDArray
from rows import IMAGES, MOBILENET, Row, Sheet, Side, make_parser

from regraft.metrics.coverage import LEVELS, Coverage
from regraft.solvers.solve import SolvedHead, solve
from regraft.uncertainty.conformal import fit_conformal, measure_coverages
from regraft.uncertainty.held_out import HeldOutAnswers
from regraft.uncertainty.prediction_sets import ClassSets

MAX_BIAS = {"classes": 0.5, "labels": 1.0, "angles": 1.0, "scales": 1.0}  # points of mean coverage
MAX_SIZE = 1.3  # classes in a set at 90 %
TRAIN_SHARE = 0.73  # of the images

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Data:
    """Features (n, d), targets as in `regraft.tasks`, and how to solve them."""

    features: NDArray[np.float32]
    targets: NDArray
    task: str
    solver: str


def extract(folder: Path, **columns) -> tuple[NDArray[np.float32], list[str], NDArray]:
    """Compute MobileNetV2's features of a folder or table: (n, d), paths and targets."""
    import keras

    from regraft.backbones.load import load_backbone
    from regraft.data.catalog import Catalog
    from regraft.features.extract import extract_features
    from regraft.features.store import Store
    from regraft.models.attention import pool
    from regraft.recipe import Recipe

    catalog = Catalog.open(folder, Recipe(**columns))
    backbone = load_backbone("mobilenet_v2", weights=str(MOBILENET))
    network = keras.Model(backbone.model.inputs[0], {"pooled": pool(backbone.model.output, "avg", "pool")})
    features = extract_features(network, catalog, store=Store(None))
    catalog = catalog.exclude(features.refused)
    samples = catalog.samples
    return features.matrix(samples, "pooled"), [sample.path for sample in samples], catalog.targets(samples)


def read_features(name: str, cache: Path | None) -> tuple[NDArray[np.float32], NDArray]:
    """Read features and targets of a set from `NAME.npz` in the cache; compute and write them if need be."""
    path = cache / f"{name}.npz" if cache else None
    if path and path.is_file():
        with np.load(path, allow_pickle=False) as stored:
            return stored["features"], stored["targets" if "targets" in stored.files else "labels"]
    if name == "clothing":
        features, _, targets = extract(IMAGES)
    else:
        with tempfile.TemporaryDirectory() as folder:
            table = getattr(sets, name)(IMAGES, Path(folder))
            columns = {"image": ("image",), "target": (name.removesuffix("s"),)}
            features, _, targets = extract(table, **columns)
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, features=features, targets=targets)
    return features, targets


def make_data(name: str, cache: Path | None) -> Data:
    """Return one of the sets of the module's docstring."""
    if name in ("angles", "scales"):
        features, targets = read_features(name, cache)
        return Data(features, targets.astype(np.float64).reshape(len(features), -1), "regression", "ridge")
    features, labels = read_features("clothing", cache)
    labels = labels.astype(np.int64)
    if name == "classes":
        return Data(features, labels, "multiclass", "logistic")
    order = np.random.default_rng(0).permutation(len(labels) // 2 * 2)
    one, two = order[::2], order[1::2]
    targets = np.zeros((len(one), int(labels.max()) + 1), np.int64)
    rows = np.arange(len(one))
    targets[rows, labels[one]] = 1
    targets[rows, labels[two]] = 1
    return Data((features[one] + features[two]) / 2, targets, "multilabel", "logistic")


@dataclass(frozen=True)
class Split:
    """What one split gives.

    Attributes:
        coverages: by level.
        shared: mean size and coverage with one limit for all classes, by level; empty for other tasks.
        oracle: mean size with the limit that covers the level exactly, by level; empty for other tasks.
        score: of the head on the test images: top-1, mAP or R2.
    """

    coverages: list[Coverage]
    shared: list[tuple[float, float]]
    oracle: list[float]
    score: float


def measure_split(data: Data, seed: int) -> Split:
    """Solve a head on one split, and try its limits on the test images."""
    from regraft.tasks import TASKS

    order = np.random.default_rng(seed).permutation(len(data.features))
    train, test = np.split(order, [round(TRAIN_SHARE * len(order))])
    head = solve(data.solver, data.features[train], data.targets[train], task=data.task, seed=seed)
    conformal = fit_conformal(gather_held_out(head, data, train), task=data.task, seed=seed)
    answers, truth, features = head.predict(data.features[test]), data.targets[test], data.features[test]
    names = [str(number) for number in range(answers.shape[1])]
    coverages = measure_coverages(conformal, truth, answers, features, names=names)
    encoded = TASKS[data.task].encode(truth, answers.shape[1])
    score = TASKS[data.task].score(answers, encoded)
    if not isinstance(conformal, ClassSets):
        return Split(coverages, [], [], score)
    one = ClassSets(conformal.scores, np.zeros(len(conformal.scores), np.int64), 1)
    shared = [try_limit(answers, truth, float(one.find_limits(level)[0])) for level in LEVELS]
    own = answers[np.arange(len(truth)), truth]
    oracle = [try_limit(answers, truth, float(np.quantile(own, 1 - level)))[0] for level in LEVELS]
    return Split(coverages, shared, oracle, score)


def gather_held_out(head: SolvedHead, data: Data, train: NDArray[np.int64]) -> HeldOutAnswers:
    """Return the out-of-fold answers of a head in the form of a run."""
    rows, fewer = train[head.held_out.rows], head.held_out.fewer
    return HeldOutAnswers(
        (),
        data.targets[rows],
        head.link(head.held_out.decisions),
        data.features[rows],
        "cross-validation",
        None if fewer is None else head.link(fewer.decisions),
        0.0 if fewer is None else fewer.step,
    )


def try_limit(answers: Array, truth: NDArray[np.int64], limit: float) -> tuple[float, float]:
    """Return the mean size of the sets with one limit for all classes, and the coverage of the limit."""
    members = answers >= limit
    covered = float(members[np.arange(len(truth)), truth].mean())
    members[np.arange(len(truth)), answers.argmax(1)] = True
    return float(members.sum(1).mean()), covered


def make_rows(name: str, splits: list[Split]) -> list[Row]:
    """Return the lines of one set."""
    rows = []
    for number, level in enumerate(LEVELS):
        ours = [split.coverages[number] for split in splits]
        covered = np.array([one.within_limits for one in ours])
        inside = 100 * np.mean([one.is_as_expected for one in ours])
        sides = [
            Side("coverage of the limits", "%", tuple(100 * covered)),
            Side("coverage of the sets", "%", tuple(100 * one.coverage for one in ours)),
            Side("mean size", "", tuple(one.mean_size for one in ours)),
        ]
        error = 100 * covered.std() / len(covered) ** 0.5
        remark = (
            f"standard error {error:.2f}, inside its band in {inside:.0f} of 100 splits, mean size "
            f"{np.mean(sides[2].values):.3f}, of the sets as answered {np.mean(sides[1].values):.2f} %; "
            f"score of the head {np.mean([split.score for split in splits]):.3f}"
        )
        if splits[0].shared:
            size, share = np.mean([split.shared[number] for split in splits], axis=0)
            remark += f"; with one limit for all classes {100 * share:.2f} %, mean size {size:.3f}"
            remark += f"; by the exact limit {np.mean([split.oracle[number] for split in splits]):.3f}"
        bias = abs(100 * (covered.mean() - level))
        text = f"{name}: mean coverage {100 * covered.mean():.2f} %, asked {100 * level:g} %"
        rows.append(Row(text, "points", (bias,), at_most=MAX_BIAS[name], sides=tuple(sides), remark=remark))
        if name == "classes" and level == 0.9:
            sizes = (float(np.mean(sides[2].values)),)
            rows.append(Row(f"{name}: mean size of a set at 90 %", "classes", sizes, at_most=MAX_SIZE))
    return rows


def main() -> None:
    """Measure each requested set."""
    parser = make_parser(__doc__)
    parser.add_argument(
        "sets", nargs="*", default=list(MAX_BIAS), help="of classes, labels, angles and scales"
    )
    parser.add_argument("--splits", type=int, default=100)
    parser.add_argument("--cache", type=Path, help="folder of computed features")
    options = parser.parse_args()
    sheet = Sheet()
    for name in options.sets:
        data = make_data(name, options.cache)
        splits = []
        for seed in range(options.splits):
            splits.append(measure_split(data, seed))
            if seed % 10 == 9:
                print(f"{name}: {seed + 1} of {options.splits} splits", flush=True)
        for row in make_rows(name, splits):
            verdict = {True: "met", False: "MISSED", None: ""}[row.met]
            print(f"{row.name}: {row.median:.2f} {row.unit} {verdict} ({row.remark})", flush=True)
            sheet.rows.append(row)
    sheet.write(options.json)


if __name__ == "__main__":
    main()
