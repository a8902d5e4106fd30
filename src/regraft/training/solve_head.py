"""Solving a run's head by a classical method, from the stored features of every view. Needs no Keras."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.solvers.feature_scoring import choose_taps
from regraft.solvers.solve import SolvedHead, make_training_rows, solve
from regraft.system.console import Reporter
from regraft.training.training_data import TrainingData

__all__ = [
    "HeldOutRows",
    "Solution",
    "Weights",
    "choose_tap_numbers",
    "resolve_solver",
    "solve_head",
    "solver_name",
]

Weights = tuple[NDArray[np.float64], NDArray[np.float64]]  # kernel (d, units) and bias (units,)


class HeldOutRows(NamedTuple):
    """Numbers of samples in the catalog, (m,), and answers to them, (m, units), by heads solved without them.

    `fewer` and `step` are those of `HeldOutAnswers`.
    """

    rows: NDArray[np.int64]
    answers: NDArray[np.float64]
    fewer: NDArray[np.float64] | None = None
    step: float = 0.0


@dataclass(frozen=True)
class Solution:
    """A solved head, or several side by side, one for each label.

    Attributes:
        description: how it was found, as a phrase.
        linear: kernel and bias of the one Dense layer that it is, in the targets' units; None for another.
        head: the solved head, if it is not linear.
        held_out: out-of-fold answers; None if nothing could be held out.
    """

    description: str
    linear: Weights | None
    head: SolvedHead | None = None
    held_out: HeldOutRows | None = None


class _Rows(NamedTuple):
    """Every view of every training sample: features, each (n, d), targets, weights (n, 1) or (n, units).

    `groups` is the number of each row's group: a fold never separates the views or the copies of an image.
    """

    blocks: list[NDArray[np.floating[Any]]]
    targets: NDArray[Any]
    weights: NDArray[np.float32] | None
    groups: NDArray[np.int64]

    @classmethod
    def read(cls, data: TrainingData) -> _Rows:
        catalog, count = data.catalog, len(data.views)
        samples = catalog.part("train")
        inputs = [data.read_inputs(samples, view) for view in range(count)]
        return cls(
            [np.concatenate(views) for views in zip(*inputs, strict=True)],
            np.concatenate([catalog.targets(samples)] * count),
            None if data.weights is None else np.concatenate([data.weights] * count),
            np.tile(data.list_groups("train"), count),
        )


def resolve_solver(solver: Any, task: str) -> Any:
    """Return the solver that "auto" stands for in a task; return any other as it is."""
    if solver == "auto":
        return "ridge" if task == "regression" else "logistic"
    return solver


def solver_name(solver: Any) -> str:
    """Return the name of a solver for messages."""
    return solver if isinstance(solver, str) else type(solver).__name__


def choose_tap_numbers(data: TrainingData) -> tuple[int, ...]:
    """Return which of the tensors in the data help as features of a linear head, see `choose_taps`."""
    blocks, targets, weights, groups = _Rows.read(data)
    part, _ = make_training_rows(
        blocks[-1],
        targets,
        task=data.catalog.task,
        seed=data.recipe.seed,
        weights=None if weights is None else weights.mean(1),
    )
    return choose_taps(blocks, part, groups=groups)


def solve_head(data: TrainingData, solver: Any, *, reporter: Reporter) -> Solution:
    """Solve a head on the training part.

    Args:
        data: what to learn from.
        solver: a name that `resolve_solver` returned, or a scikit-learn estimator.
        reporter: told how the head was found.

    Raises:
        UsageError, DataError: see `solvers.solve.solve`; or a solver that cannot weight each label
        separately.
    """
    blocks, targets, weights, groups = _Rows.read(data)
    features = blocks if len(blocks) > 1 else blocks[0]
    seed = data.recipe.seed
    numbers = np.flatnonzero([sample.part == "train" for sample in data.catalog.samples])
    if weights is not None and weights.shape[1] > 1:
        heads = [
            solve(solver, features, labels, task="binary", groups=groups, sample_weight=weight, seed=seed)
            for labels, weight in zip(targets.astype(np.int64).T, weights.T, strict=True)
        ]
        return Solution(
            heads[0].phrase, _join_weights(heads, solver), held_out=_join_held_out(heads, numbers)
        )
    solved = solve(
        solver,
        features,
        targets,
        task=data.catalog.task,
        groups=groups,
        sample_weight=None if weights is None else weights[:, 0],
        seed=seed,
    )
    width = sum(block.shape[1] for block in blocks)
    reporter.info(f"Head solved on {width:,} features of {len(targets):,} images: {solved.phrase}.")
    held_out = _join_held_out([solved], numbers)
    if solved.weights is None:
        return Solution(solved.phrase, None, solved, held_out)
    return Solution(solved.phrase, _join_weights([solved], solver), held_out=held_out)


def _join_held_out(heads: list[SolvedHead], numbers: NDArray[np.int64]) -> HeldOutRows | None:
    """Return the out-of-fold answers of heads side by side, to the rows that all heads answered.

    `numbers` are those of the training samples in the catalog. Of the views of a sample only the first
    counts, the image as it is: its rows come first.
    """
    parts = [head.held_out for head in heads if head.held_out is not None]
    if len(parts) < len(heads):
        return None
    rows = reduce(np.intersect1d, [part.rows[part.rows < len(numbers)] for part in parts])
    answers = [
        head.link(part.decisions[np.isin(part.rows, rows)]) for head, part in zip(heads, parts, strict=True)
    ]
    fewer = [
        head.link(part.fewer.decisions[np.isin(part.rows, rows)])
        for head, part in zip(heads, parts, strict=True)
        if part.fewer is not None
    ]
    if len(fewer) < len(heads) or parts[0].fewer is None:
        return HeldOutRows(numbers[rows], np.concatenate(answers, 1))
    step = parts[0].fewer.step
    return HeldOutRows(numbers[rows], np.concatenate(answers, 1), np.concatenate(fewer, 1), step)


def _join_weights(heads: list[SolvedHead], solver: Any) -> Weights:
    """Return the kernels and biases of linear heads, side by side."""
    kernels, biases = [], []
    for head in heads:
        if head.weights is None or head.bias is None:
            raise UsageError(
                "class_weight balanced weights each label separately. Expected for that the solver logistic, "
                f"ridge, svm, lda or gradient. Received: {solver_name(solver)}."
            )
        kernels.append(head.weights)
        biases.append(head.bias)
    return np.concatenate(kernels, 1), np.concatenate(biases)
