"""Time a solved head with cross-validated settings, and compare it with scikit-learn's.

    python benchmarks/solvers.py [--rows 10000] [--width 2048] [--classes 100] [--rounds 3] [--json FILE]
        [--data FOLDER] [ridge lda logistic]

**Size.** 20 settings in 5 folds on drawn features: classes around centres of their own, and noise whose
spread falls by a power law along random directions, as that of pooled activations does. Seconds on the wall
and of both processors; accuracy on rows that no fold has seen.

What bounds it:
    ridge, 20 settings in cross-validation: five eigendecompositions of 2,048 by 2,048, 1.2 to 2 s each of one
        thread, are 5 s of two cores; sums over the rows 1.5 s, 20 settings 2 s, the head on all rows 1.2 s.
    lda, 20 settings in cross-validation: as for ridge.
    logistic, 20 settings in cross-validation: for each of 100 problems (20 settings, five folds) three
        Newton steps at least, of ten products of 8,000 by 2,048 by 100 each, 0.3 s of one thread.

**Against scikit-learn**, on MobileNetV2's features of the training images, all and every fourth (more
features than images, and fewer): the same whole grid, the same folds, features standardised once.
`LogisticRegressionCV`, `RidgeClassifierCV` and `LinearDiscriminantAnalysis` in `GridSearchCV` have a thread
for each processor, which is their fastest way here. Both heads answer the test images: each with its own
setting, and for the difference of probabilities both with ours. Two short cuts are timed as well:
`RidgeClassifierCV` that leaves out single rows, which cannot hold out groups, and `LogisticRegressionCV` with
its usual tolerance, whose answers are less exact.
"""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import keras
import numpy as np
from joblib import parallel_config
from numpy.typing import NDArray
from rows import IMAGES, MOBILENET, Row, Sheet, Side, compute_ratios, make_parser
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeClassifier, RidgeClassifierCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from regraft.backbones.load import load_backbone
from regraft.data.catalog import Catalog
from regraft.features.extract import extract_features
from regraft.features.store import Store
from regraft.models.attention import pool
from regraft.recipe import Recipe
from regraft.solvers.cross_validation import Settings, TrainingRows, make_folds
from regraft.solvers.solve import SOLVER_SPECS, SolvedHead, make_training_rows, solve

MAX_SECONDS = 10.0
MIN_RATIO = 3.0
GRIDS = {
    "ridge": ("penalty", np.logspace(2, -3, 20)),
    "lda": ("shrinkage", np.linspace(0.98, 0.03, 20)),
    "logistic": ("penalty", np.logspace(0, -4, 20)),
}
SPECS = dict(SOLVER_SPECS)

Features = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Data:
    """Features and class numbers of training and test rows, (n, d) and (n,)."""

    train: Features
    labels: Labels
    test: Features
    truth: Labels


def draw_data(rows: int, width: int, classes: int, *, seed: int = 0) -> Data:
    rng = np.random.default_rng(seed)
    unseen = max(1_000, classes)
    labels = np.arange(rows + unseen) % classes
    spread = (1 + np.arange(width)) ** -0.5
    rotation = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
    centres = rng.normal(size=(classes, width)) * spread
    noise = rng.normal(size=(len(labels), width)).astype(np.float32) * (2 * spread).astype(np.float32)
    features = (centres.astype(np.float32)[labels] + noise) @ rotation
    return Data(features[unseen:], labels[unseen:], features[:unseen], labels[:unseen])


def extract_data(folder: str, weights: str) -> Data:
    """Compute MobileNetV2's features of the images in `train` and `test`, standardised on the former."""
    catalog = Catalog.open(folder, Recipe())
    backbone = load_backbone("mobilenet_v2", weights=weights)
    network = keras.Model(backbone.model.inputs[0], {"pooled": pool(backbone.model.output, "avg", "pool")})
    features = extract_features(network, catalog, store=Store(None))
    catalog = catalog.exclude(features.refused)
    parts = [catalog.part("train"), catalog.part("test")]
    train, test = (features.matrix(samples, "pooled").astype(np.float64) for samples in parts)
    scaler = StandardScaler().fit(train)
    labels, truth = (catalog.targets(samples) for samples in parts)
    return Data(scaler.transform(train), labels, scaler.transform(test), truth)


# --- size


@dataclass(frozen=True)
class Timing:
    """Seconds on the wall and of processors, share of correct unseen rows, and the choice in words."""

    wall: float
    busy: float
    accuracy: float
    phrase: str

    def __str__(self) -> str:
        seconds = f"{self.wall:6.1f} s, {self.busy:6.1f} s of processor time"
        return f"{seconds}; {self.phrase}; {self.accuracy:.3f} correct"


def measure(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return a result with its seconds on the wall and of processors."""
    wall, busy = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - busy


def set_grid(solver: str, settings: list[Settings]) -> None:
    """Have a solver try all of these settings, even after two losses in a row have risen."""
    spec = SPECS[solver]

    def list_settings(rows: TrainingRows) -> list[Settings]:
        return settings

    SOLVER_SPECS[solver] = replace(spec, grid=list_settings, is_unimodal=False)


def time_solver(solver: str, data: Data) -> Timing:
    name, values = GRIDS[solver]
    set_grid(solver, [{name: float(value)} for value in values])
    head, wall, busy = measure(partial(solve, solver, data.train, data.labels, task="multiclass"))
    accuracy = (head.predict(data.test).argmax(1) == data.truth).mean()
    return Timing(wall, busy, float(accuracy), head.phrase)


def make_size_row(solver: str, shape: str, timings: list[Timing]) -> Row:
    busy = Side("of processors", "s", tuple(timing.busy for timing in timings))
    return Row(
        f"{solver}, 20 settings in cross-validation",
        "s",
        tuple(timing.wall for timing in timings),
        at_most=MAX_SECONDS,
        sides=(busy,),
        remark=f"{shape}; {100 * timings[-1].accuracy:.1f} % of unseen rows correct",
    )


# --- against scikit-learn


@dataclass(frozen=True)
class Rival:
    """A solver of scikit-learn's.

    Attributes:
        make_search: rows, folds (pairs of row numbers) and settings -> the unfitted search.
        make_estimator: rows and setting -> the unfitted estimator.
        read_setting: search and rows -> the chosen setting.
    """

    name: str
    make_search: Callable[[int, list[Any], list[float]], Any]
    make_estimator: Callable[[int, float], Any]
    read_setting: Callable[[Any, int], float]


def make_logistic_rival(name: str, tol: float) -> Rival:
    options = {"tol": tol, "max_iter": 5_000}
    return Rival(
        name,
        lambda rows, folds, values: LogisticRegressionCV(
            Cs=[1 / (rows * value) for value in values],
            cv=folds,
            scoring="neg_log_loss",
            l1_ratios=(0,),
            use_legacy_attributes=False,
            **options,
        ),
        lambda rows, value: LogisticRegression(C=1 / (rows * value), **options),
        lambda search, rows: 1 / (rows * float(search.C_)),
    )


RIDGE = Rival(
    "RidgeClassifierCV",
    lambda rows, folds, values: RidgeClassifierCV([rows * value for value in values], cv=folds),
    lambda rows, value: RidgeClassifier(alpha=rows * value),
    lambda search, rows: search.alpha_ / rows,
)
RIVALS = {  # the first has to be beaten; short cuts follow
    "ridge": (
        RIDGE,
        replace(
            RIDGE,
            name="RidgeClassifierCV without folds",
            make_search=lambda rows, folds, values: RidgeClassifierCV([rows * value for value in values]),
        ),
    ),
    "lda": (
        Rival(
            "LinearDiscriminantAnalysis",
            lambda rows, folds, values: GridSearchCV(
                LinearDiscriminantAnalysis(solver="lsqr"),
                {"shrinkage": values},
                scoring="neg_log_loss",
                cv=folds,
            ),
            lambda rows, value: LinearDiscriminantAnalysis(solver="lsqr", shrinkage=value),
            lambda search, rows: search.best_params_["shrinkage"],
        ),
    ),
    "logistic": (
        make_logistic_rival("LogisticRegressionCV", 1e-6),
        make_logistic_rival("LogisticRegressionCV with its usual tolerance", 1e-4),
    ),
}


def fit_search(search: Any, data: Data) -> Any:
    with (
        warnings.catch_warnings(action="ignore"),
        threadpool_limits(1),
        parallel_config(backend="threading", n_jobs=os.cpu_count()),
    ):
        return search.fit(data.train, data.labels)


def compare_solver(solver: str, data: Data, rounds: int) -> list[Row]:
    """Time all sides in turn, and compare their answers to the test images."""
    rivals, name = RIVALS[solver], GRIDS[solver][0]
    rows, _ = make_training_rows(data.train, data.labels, task="multiclass", seed=0, weights=None)
    settings = list(SPECS[solver].grid(rows))
    values = [float(setting[name]) for setting in settings]
    set_grid(solver, settings)
    folds = [
        (np.flatnonzero(~held), np.flatnonzero(held)) for held in make_folds(data.labels, count=5, seed=0)
    ]
    sides: dict[str, Callable[[], Any]] = {
        "regraft": partial(solve, solver, data.train, data.labels, task="multiclass")
    }
    for rival in rivals:
        sides[rival.name] = partial(fit_search, rival.make_search(len(data.train), folds, values), data)
    results, timings = {}, {side: ([], []) for side in sides}
    for _ in range(rounds):
        for side, work in sides.items():
            results[side], wall, busy = measure(work)
            timings[side][0].append(wall)
            timings[side][1].append(busy)
    shape = f"{len(data.train):,} images with {data.train.shape[1]:,} features"
    return [
        Row(
            f"{solver}, {shape}, against {rival.name}",
            "times",
            compute_ratios(timings[rival.name][0], timings["regraft"][0]),
            at_least=MIN_RATIO if rival is rivals[0] else None,
            sides=tuple(
                Side(f"{side}, {kind}", "s", tuple(seconds))
                for side in (rival.name, "regraft")
                for kind, seconds in zip(("wall", "processors"), timings[side], strict=True)
            ),
            remark=describe_answers(results["regraft"], results[rival.name], rival, name, data),
        )
        for rival in rivals
    ]


def describe_answers(head: SolvedHead, search: Any, rival: Rival, name: str, data: Data) -> str:
    """Say what both sides chose, how well they answer the test images, and how far apart they are."""
    count, setting = len(data.train), float(head.settings[name])
    theirs = rival.make_estimator(count, setting).fit(data.train, data.labels)
    difference = np.abs(head.link(theirs.decision_function(data.test)) - head.predict(data.test)).max()
    losses = [log_loss(data.truth, head.predict(data.test))]
    if hasattr(search, "predict_proba"):
        losses.append(log_loss(data.truth, search.predict_proba(data.test)))
    accuracies = [(head.predict(data.test).argmax(1) == data.truth).mean()]
    accuracies.append((search.predict(data.test) == data.truth).mean())
    return (
        f"chosen {setting:.3g} and {rival.read_setting(search, count):.3g}, "
        f"test log loss {' and '.join(f'{loss:.3f}' for loss in losses)}, "
        f"accuracy {' and '.join(f'{100 * accuracy:.1f}' for accuracy in accuracies)} %, "
        f"probabilities at most {difference:.1g} apart"
    )


def main() -> None:
    """Time each requested solver by itself, then against scikit-learn's."""
    parser = make_parser(__doc__)
    parser.add_argument("solvers", nargs="*", default=list(GRIDS))
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=2_048)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default=str(IMAGES), help="folder with train and test")
    options = parser.parse_args()
    shape = f"{options.rows:,} x {options.width:,} x {options.classes} classes"
    drawn = draw_data(options.rows, options.width, options.classes, seed=options.seed)
    timings: dict[str, list[Timing]] = {solver: [] for solver in options.solvers}
    for _ in range(options.rounds):
        for solver, results in timings.items():
            results.append(time_solver(solver, drawn))
            print(f"{solver:<9} {shape}: {results[-1]}", flush=True)
    sheet = Sheet([make_size_row(solver, shape, results) for solver, results in timings.items()])
    data = extract_data(options.data, str(MOBILENET))
    narrow = Data(data.train[:, ::4], data.labels, data.test[:, ::4], data.truth)
    for solver, part in ((solver, part) for solver in options.solvers for part in (data, narrow)):
        for row in compare_solver(solver, part, options.rounds):
            seconds = ", ".join(f"{side.name} {statistics.median(side.values):.2f} s" for side in row.sides)
            print(f"{row.name}: {row.median:.1f} times as fast ({seconds}); {row.remark}", flush=True)
            sheet.rows.append(row)
    sheet.write(options.json)


if __name__ == "__main__":
    main()
