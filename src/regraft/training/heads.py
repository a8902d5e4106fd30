"""The head, found on stored features: solved where it can be, trained by gradient otherwise.

In both cases nothing of the backbone runs: that is what its features were computed for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbone.cut import Cut
from regraft.backbone.head import OUTPUT, UNITS, is_linear
from regraft.console import say
from regraft.data.catalog import Sample
from regraft.errors import UsageError
from regraft.recipe import HEAD_PHASE, HeadSpec, Phase
from regraft.training.classical import part_of, solve
from regraft.training.fit import Fitted, finished, fit_head
from regraft.training.kept import Kept
from regraft.training.material import Material
from regraft.training.progress import Bookmark, Progress
from regraft.training.solved import SolvedHead
from regraft.training.taps import choose_taps

__all__ = ["FoundHead", "find_head", "solver_of", "tap_numbers"]

CHUNK = 256  # samples answered at a time

Answers = NDArray[np.floating[Any]]
Weights = tuple[NDArray[np.float32], NDArray[np.float32]]  # kernel (d, units) and bias (units,)


@dataclass(frozen=True)
class FoundHead:
    """A model with its head in place.

    Attributes:
        model: pixels to answers; to pooled features where the head is an estimator.
        head: the part of it that begins where the stored features are.
        words: how the head was found, as a phrase.
        fitted: what training did, where the head was trained.
        trainable: whether training by gradient can go on from it.
        kept: scikit-learn estimators that answer from the features, where Keras has no layers for them.
    """

    model: keras.Model
    head: keras.Model
    words: str
    fitted: Fitted | None = None
    trainable: bool = True
    kept: Kept | None = None

    def answers(self, material: Material, samples: tuple[Sample, ...]) -> Answers:
        """Answers to samples from their stored features, (n, units)."""
        inputs = material.inputs(samples)
        if self.kept is not None:
            answered: Answers = self.kept.predict(inputs[0])
            return answered
        chunks = [[array[at : at + CHUNK] for array in inputs] for at in range(0, len(samples), CHUNK)]
        found = [self.head(chunk if len(chunk) > 1 else chunk[0], training=False) for chunk in chunks]
        return np.concatenate([keras.ops.convert_to_numpy(answer) for answer in found])


def find_head(
    model: keras.Model,
    whole: Cut,
    material: Material,
    *,
    solver: Any,
    phase: Phase | None,
    budget: float,
    progress: Progress | None = None,
) -> FoundHead:
    """Solve or train the head of a grafted model.

    Args:
        model: from `graft`; its head's weights are changed.
        whole: the model, cut where its head begins.
        material: what to learn from.
        solver: one of `HeadSpec.solver`, or a scikit-learn estimator.
        phase: how to train it; None for the defaults.
        budget: seconds that training may take.
        progress: of the run; None to keep none.

    Raises:
        UsageError: a solver for a head with layers of its own before the output; noise on features that
            nothing trains on.
    """
    # Layers that surgery put in have learned nothing: they train with the head, which then cannot be solved.
    linear = is_linear(model) and not material.backbone.new_layers
    if solver == "gradient" or (solver == "auto" and not linear):
        bookmark = (progress or Progress()).bookmark()
        phase = phase or HEAD_PHASE
        return _trained(model, whole, material, phase=phase, budget=budget, bookmark=bookmark)
    if not linear:
        raise UsageError(
            f"head.solver: {_name(solver)} solves a head without weights before its output. Received: one "
            "with layers of its own; give it the solver gradient."
        )
    if material.recipe.feature_noise and not material.recipe.trains_backbone:
        raise UsageError(
            "feature_noise: expected 0 where nothing trains by gradient: the head is solved. "
            f"Received: {material.recipe.feature_noise:g}. Give the head the solver gradient."
        )
    if solver == "auto":
        solver = "ridge" if material.catalog.task == "regression" else "logistic"
    return _solved(model, whole, material, solver)


def _trained(
    model: keras.Model, whole: Cut, material: Material, *, phase: Phase, budget: float, bookmark: Bookmark
) -> FoundHead:
    if not material.catalog.part("validation"):
        raise UsageError("A head with layers of its own needs validation images: they tell when to stop.")
    if bookmark.done:
        fitted = finished(model, material.backbone, phase=phase, bookmark=bookmark)
    else:
        fitted = fit_head(
            model,
            material.backbone,
            head=whole,
            phase=phase,
            lesson=material.feature_lesson(phase),
            budget=budget,
            bookmark=bookmark,
            seed=material.recipe.seed,
        )
    count = sum(int(np.prod(variable.shape)) for variable in whole.suffix.trainable_variables)
    words = f"{count:,} parameters trained on stored features, best after epoch {fitted.best}"
    return FoundHead(model, whole.suffix, words, fitted=fitted)


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


def _solved(model: keras.Model, whole: Cut, material: Material, solver: Any) -> FoundHead:
    blocks, targets, weights, groups = _Rows.of(material)
    features = blocks if len(blocks) > 1 else blocks[0]
    seed = material.recipe.seed
    if weights is not None and weights.shape[1] > 1:
        each = [
            solve(solver, features, yes, task="binary", groups=groups, sample_weight=weight, seed=seed)
            for yes, weight in zip(targets.astype(np.int64).T, weights.T, strict=True)
        ]
        return _filled(model, whole, [_linear(head, solver) for head in each], each[0].phrase)
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
    say(f"Head solved on {width:,} features of {len(targets):,} images: {solved.phrase}.")
    if solved.weights is not None:
        return _filled(model, whole, [_linear(solved, solver)], solved.phrase)
    pixels, vector = whole.prefix.inputs[0], whole.prefix.outputs[0]
    if solved.kept is not None:
        pooled = keras.Model(pixels, vector)
        return FoundHead(pooled, pooled, solved.phrase, trainable=False, kept=solved.kept)
    answering = keras.Model(pixels, solved.apply(vector), name=model.name)
    head = keras.Model(vector, answering.outputs[0])
    return FoundHead(answering, head, solved.phrase, trainable=False)


def _linear(solved: SolvedHead, solver: Any) -> Weights:
    if solved.weights is None or solved.bias is None:
        raise UsageError(
            f"class_weight balanced weighs each label by itself. Expected for that the solver logistic, "
            f"ridge, svm, lda or gradient. Received: {_name(solver)}."
        )
    return solved.weights, solved.bias


def _filled(model: keras.Model, whole: Cut, linear: list[Weights], words: str) -> FoundHead:
    """The model with solved weights, side by side, in its output layer."""
    kernel = np.concatenate([weights for weights, _ in linear], 1)
    bias = np.concatenate([bias for _, bias in linear])
    model.get_layer(OUTPUT).set_weights(_in_units(model, kernel, bias))
    return FoundHead(model, whole.suffix, words)


def _in_units(
    model: keras.Model, kernel: NDArray[np.float32], bias: NDArray[np.float32]
) -> list[NDArray[np.float32]]:
    """Weights that answer in the targets' units, for a Dense layer that a change of units follows."""
    if not any(layer.name == UNITS for layer in model.layers):
        return [kernel, bias]
    layer = model.get_layer(UNITS)
    scale, offset = np.asarray(layer.scale), np.asarray(layer.offset)
    return [kernel / scale, (bias - offset) / scale]


def _name(solver: Any) -> str:
    return solver if isinstance(solver, str) else type(solver).__name__


def solver_of(head: HeadSpec | Any) -> Any:
    """The solver that a head asks for; a head of the user's own is trained."""
    return head.solver if isinstance(head, HeadSpec) else "gradient"
