"""The time of a solved head, its settings chosen from 20 by cross-validation on stored features.

    python benchmarks/solvers.py [--rows 10000] [--width 2048] [--classes 100] [--rounds 1] [--json FILE]
        [ridge lda logistic]

The features are drawn: classes about centres of their own, noise whose spread falls by a power law along
directions of its own, as that of pooled activations does. Seconds on the wall and of both processors; the
accuracy on rows that no fold has seen.

What bounds it:
    ridge, 20 settings in cross-validation: five eigendecompositions of 2,048 by 2,048, 1.2 to 2 s each of one
        thread, are 5 s of two cores; sums over the rows 1.5 s, 20 settings 2 s, the head on all rows 1.2 s.
    lda, 20 settings in cross-validation: as for ridge.
    logistic, 20 settings in cross-validation: for each of 100 problems (20 settings, five folds) three
        Newton steps at least, of ten products of 8,000 by 2,048 by 100 each, 0.3 s of one thread.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from rows import Row, Sheet, Side, add_json

from regraft.solvers import solve as classical
from regraft.solvers.cross_validation import Part, Settings
from regraft.solvers.sklearn_heads import FAMILIES

MOST = 10.0  # seconds
PATHS = {
    "ridge": ("penalty", np.logspace(2, -3, 20)),
    "lda": ("shrinkage", np.linspace(0.98, 0.03, 20)),
    "logistic": ("penalty", np.logspace(0, -4, 20)),
}


def drawn(
    rows: int, width: int, classes: int, *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Features (rows, width), and class numbers (rows,)."""
    rng = np.random.default_rng(seed)
    labels = np.arange(rows) % classes
    spread = (1 + np.arange(width)) ** -0.5
    turn = np.linalg.qr(rng.normal(size=(width, width)))[0].astype(np.float32)
    centres = rng.normal(size=(classes, width)) * spread
    noise = rng.normal(size=(rows, width)).astype(np.float32) * (2 * spread).astype(np.float32)
    return (centres.astype(np.float32)[labels] + noise) @ turn, labels


def main() -> None:
    """Time each solver that is asked for, in turn."""
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("solvers", nargs="*", default=list(PATHS))
    options.add_argument("--rows", type=int, default=10_000)
    options.add_argument("--width", type=int, default=2_048)
    options.add_argument("--classes", type=int, default=100)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--seed", type=int, default=0)
    add_json(options)
    given = options.parse_args()
    unseen = max(1_000, given.classes)
    features, labels = drawn(given.rows + unseen, given.width, given.classes, seed=given.seed)
    shape = f"{given.rows:,} x {given.width:,} x {given.classes} classes"
    taken: dict[str, list[Taken]] = {solver: [] for solver in given.solvers}
    for _ in range(given.rounds):
        for solver, times in taken.items():
            times.append(solve(solver, features, labels, unseen))
            print(f"{solver:<9} {shape}: {times[-1]}", flush=True)
    Sheet([row(solver, shape, times) for solver, times in taken.items()]).write(given.json)


@dataclass(frozen=True)
class Taken:
    """Seconds on the wall and of processors, share of unseen rows answered right, what was chosen."""

    wall: float
    busy: float
    right: float
    phrase: str

    def __str__(self) -> str:
        times = f"{self.wall:6.1f} s, {self.busy:6.1f} s of processor time"
        return f"{times}; {self.phrase}; {self.right:.3f} right"


def solve(solver: str, features: NDArray[np.float32], labels: NDArray[np.int64], unseen: int) -> Taken:
    """One solver on all rows but the first `unseen`, which it answers."""
    name, values = PATHS[solver]
    # All 20 are solved: no end of the path where two losses in a row have risen.
    FAMILIES[solver] = replace(FAMILIES[solver], grid=partial(_grid, name, values), ordered=False)
    wall, busy = time.perf_counter(), time.process_time()
    head = classical.solve(solver, features[unseen:], labels[unseen:], task="multiclass")
    wall, busy = time.perf_counter() - wall, time.process_time() - busy
    right = (head.predict(features[:unseen]).argmax(1) == labels[:unseen]).mean()
    return Taken(wall, busy, float(right), head.phrase)


def row(solver: str, shape: str, times: list[Taken]) -> Row:
    busy = Side("of processors", "s", tuple(each.busy for each in times))
    return Row(
        f"{solver}, 20 settings in cross-validation",
        "s",
        tuple(each.wall for each in times),
        at_most=MOST,
        sides=(busy,),
        remark=f"{shape}; {100 * times[-1].right:.1f} % of unseen rows right",
    )


def _grid(name: str, values: NDArray[np.float64], part: Part) -> list[Settings]:
    return [{name: float(value)} for value in values]


if __name__ == "__main__":
    main()
