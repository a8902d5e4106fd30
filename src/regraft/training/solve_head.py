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
from regraft.training.checkpoint import Arrays
from regraft.training.stored_results import HEADS, Result, StoredResults, digest_inputs
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

    def pack(self) -> Result:
        """Return a linear head as state and arrays, for the store."""
        out = self.held_out
        state = {"description": self.description, "step": 0.0 if out is None else out.step}
        arrays: Arrays = {
            "linear": list(self.linear or ()),
            "held_out": [] if out is None else [out.rows, out.answers],
            "fewer": [] if out is None or out.fewer is None else [out.fewer],
        }
        return state, arrays

    @classmethod
    def unpack(cls, state: dict[str, Any], arrays: Arrays) -> Solution:
        """Return the head that `pack` stored."""
        kernel, bias = arrays["linear"]
        held_out = None
        if arrays.get("held_out"):
            numbers, answers = arrays["held_out"]
            fewer = arrays["fewer"][0] if arrays.get("fewer") else None
            held_out = HeldOutRows(numbers, answers, fewer, state["step"])
        return cls(state["description"], (kernel, bias), held_out=held_out)


class _Rows(NamedTuple):
    """Every view of every training sample: features, each (n, d), targets, weights (n, 1) or (n, units).

    `groups` is the number of each row's group: a fold never separates the views or the copies of an image.
    `numbers` are those of the training samples in the catalog.
    """

    blocks: list[NDArray[np.floating[Any]]]
    targets: NDArray[Any]
    weights: NDArray[np.float32] | None
    groups: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @property
    def has_weights_by_label(self) -> bool:
        """Whether each label weighs the samples in its own way."""
        return self.weights is not None and self.weights.shape[1] > 1

    def digest(self, data: TrainingData, name: str) -> str:
        """Return a digest of all that decides what is solved on the rows; `name` tells what."""
        settings = {"name": name, "task": data.catalog.task, "seed": data.recipe.seed}
        return digest_inputs(settings, [*self.blocks, self.targets, self.weights, self.groups, self.numbers])

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
            np.flatnonzero([sample.part == "train" for sample in catalog.samples]),
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
    """Return which of the tensors in the data help as features of a linear head, see `choose_taps`.

    The choice is stored for the same features and targets.
    """
    rows, results = _Rows.read(data), StoredResults(data.store, HEADS)
    inputs = rows.digest(data, "taps")
    if (stored := results.read(inputs)) is not None:
        return tuple(stored[0]["taps"])
    part, _ = make_training_rows(
        rows.blocks[-1],
        rows.targets,
        task=data.catalog.task,
        seed=data.recipe.seed,
        weights=None if rows.weights is None else rows.weights.mean(1),
    )
    numbers = choose_taps(rows.blocks, part, groups=rows.groups)
    results.write(inputs, ({"taps": numbers}, {}))
    return numbers


def solve_head(data: TrainingData, solver: Any, *, reporter: Reporter) -> Solution:
    """Solve a head on the training part, or read it from the store if it was solved on the same before.

    Args:
        data: what to learn from.
        solver: a name that `resolve_solver` returned, or a scikit-learn estimator.
        reporter: told how the head was found.

    Raises:
        UsageError, DataError: see `solvers.solve.solve`; or a solver that cannot weight each label
        separately.
    """
    rows, results = _Rows.read(data), StoredResults(data.store, HEADS)
    inputs = rows.digest(data, solver) if isinstance(solver, str) else ""
    stored = results.read(inputs) if inputs else None
    solution = _solve(rows, solver, data) if stored is None else Solution.unpack(*stored)
    if inputs and stored is None and solution.linear is not None:
        results.write(inputs, solution.pack())
    if not rows.has_weights_by_label:
        width = sum(block.shape[1] for block in rows.blocks)
        reporter.info(
            f"Head solved on {width:,} features of {len(rows.targets):,} images: {solution.description}."
        )
    return solution


def _solve(rows: _Rows, solver: Any, data: TrainingData) -> Solution:
    features = rows.blocks if len(rows.blocks) > 1 else rows.blocks[0]
    seed, weights, targets = data.recipe.seed, rows.weights, rows.targets
    if weights is not None and rows.has_weights_by_label:
        heads = [
            solve(
                solver, features, labels, task="binary", groups=rows.groups, sample_weight=weight, seed=seed
            )
            for labels, weight in zip(targets.astype(np.int64).T, weights.T, strict=True)
        ]
        return Solution(
            heads[0].phrase, _join_weights(heads, solver), held_out=_join_held_out(heads, rows.numbers)
        )
    solved = solve(
        solver,
        features,
        targets,
        task=data.catalog.task,
        groups=rows.groups,
        sample_weight=None if weights is None else weights[:, 0],
        seed=seed,
    )
    held_out = _join_held_out([solved], rows.numbers)
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
