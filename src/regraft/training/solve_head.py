"""A run's head by a classical method: every view of every training sample goes in, weights come out.

No Keras: what is solved needs the stored features only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.solvers.feature_scoring import choose_taps
from regraft.solvers.solve import SolvedHead, part_of, solve
from regraft.system.console import Reporter
from regraft.training.training_data import Material

__all__ = ["Solution", "Weights", "solve_head", "solver_for", "solver_name", "tap_numbers"]

Answers = NDArray[np.floating[Any]]
Weights = tuple[NDArray[np.float32], NDArray[np.float32]]  # kernel (d, units) and bias (units,)


@dataclass(frozen=True)
class Solution:
    """What was solved: one head, or one a label side by side.

    Attributes:
        words: how, as a phrase.
        linear: kernel and bias of the one Dense layer that it is, in the targets' units; None for another.
        head: the only one, where it is not linear.
    """

    words: str
    linear: Weights | None
    head: SolvedHead | None = None


class _Rows(NamedTuple):
    """Every view of every training sample: blocks of features (n, d), targets, weights (n, 1 or units), and
    the sample of each row, whose views stay on one side of a fold."""

    blocks: list[Answers]
    targets: NDArray[Any]
    weights: NDArray[np.float32] | None
    groups: NDArray[np.int64]

    @classmethod
    def of(cls, material: Material) -> _Rows:
        catalog, count = material.catalog, len(material.views)
        samples = catalog.part("train")
        inputs = [material.inputs(samples, view) for view in range(count)]
        return cls(
            [np.concatenate(views) for views in zip(*inputs, strict=True)],
            np.concatenate([catalog.targets(samples)] * count),
            None if material.weights is None else np.concatenate([material.weights] * count),
            np.tile(np.arange(len(samples)), count),
        )


def solver_for(solver: Any, task: str) -> Any:
    """The solver that "auto" is for a task; any other one as it is."""
    if solver == "auto":
        return "ridge" if task == "regression" else "logistic"
    return solver


def solver_name(solver: Any) -> str:
    """A solver in messages."""
    return solver if isinstance(solver, str) else type(solver).__name__


def tap_numbers(material: Material) -> tuple[int, ...]:
    """Which of the tensors in a material are worth it as features of a linear head, see `choose_taps`."""
    blocks, targets, weights, groups = _Rows.of(material)
    part, _ = part_of(
        blocks[-1],
        targets,
        task=material.catalog.task,
        seed=material.recipe.seed,
        weights=None if weights is None else weights.mean(1),
    )
    return choose_taps(blocks, part, groups=groups)


def solve_head(material: Material, solver: Any, *, reporter: Reporter) -> Solution:
    """Solve a head on the training part; says how it went.

    Args:
        material: what to learn from.
        solver: a name that `solver_for` gave, or a scikit-learn estimator.

    Raises:
        UsageError, DataError: see `classical.solve`; or a solver that cannot weigh each label by itself.
    """
    blocks, targets, weights, groups = _Rows.of(material)
    features = blocks if len(blocks) > 1 else blocks[0]
    seed = material.recipe.seed
    if weights is not None and weights.shape[1] > 1:
        each = [
            solve(solver, features, yes, task="binary", groups=groups, sample_weight=weight, seed=seed)
            for yes, weight in zip(targets.astype(np.int64).T, weights.T, strict=True)
        ]
        return Solution(each[0].phrase, _side_by_side(each, solver))
    solved = solve(
        solver,
        features,
        targets,
        task=material.catalog.task,
        groups=groups,
        sample_weight=None if weights is None else weights[:, 0],
        seed=seed,
    )
    width = sum(block.shape[1] for block in blocks)
    reporter.info(f"Head solved on {width:,} features of {len(targets):,} images: {solved.phrase}.")
    if solved.weights is None:
        return Solution(solved.phrase, None, solved)
    return Solution(solved.phrase, _side_by_side([solved], solver))


def _side_by_side(heads: list[SolvedHead], solver: Any) -> Weights:
    linear = [_linear(head, solver) for head in heads]
    kernel = np.concatenate([weights for weights, _ in linear], 1)
    return kernel, np.concatenate([bias for _, bias in linear])


def _linear(solved: SolvedHead, solver: Any) -> Weights:
    if solved.weights is None or solved.bias is None:
        raise UsageError(
            f"class_weight balanced weighs each label by itself. Expected for that the solver logistic, "
            f"ridge, svm, lda or gradient. Received: {solver_name(solver)}."
        )
    return solved.weights, solved.bias
