"""The head, found on stored features: solved where it can be, trained by gradient otherwise.

In both cases nothing of the backbone runs: that is what its features were computed for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbone.cut import Cut
from regraft.backbone.head import OUTPUT, UNITS, is_linear
from regraft.console import Reporter
from regraft.data.catalog import Sample
from regraft.errors import UsageError
from regraft.recipe import HEAD_PHASE, HeadSpec, Phase, Solver
from regraft.training.fit import HEAD_EPOCHS, Fitted, Trainer
from regraft.training.kept import Kept
from regraft.training.linear import LinearHead
from regraft.training.material import Material
from regraft.training.progress import Progress
from regraft.training.solving import Weights, solve_head, solver_for, solver_name

__all__ = ["FoundHead", "find_head", "solver_of"]

CHUNK = 256  # samples answered at a time

Answers = NDArray[np.floating[Any]]


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
        solver: the one that a search chose; None where the recipe says it.
    """

    model: keras.Model
    head: keras.Model
    words: str
    fitted: Fitted | None = None
    trainable: bool = True
    kept: Kept | None = None
    solver: Solver | None = None

    def answers(self, material: Material, samples: tuple[Sample, ...]) -> Answers:
        """Answers to samples from their stored features, (n, units)."""
        inputs = material.inputs(samples)
        if self.kept is not None:
            answered: Answers = self.kept.predict(inputs[0])
            return answered
        if (linear := self.linear(material)) is not None:
            return linear.answers(inputs)
        chunks = [[array[at : at + CHUNK] for array in inputs] for at in range(0, len(samples), CHUNK)]
        found = [self.head(chunk if len(chunk) > 1 else chunk[0], training=False) for chunk in chunks]
        return np.concatenate([keras.ops.convert_to_numpy(answer) for answer in found])

    def linear(self, material: Material) -> LinearHead | None:
        """The head as the arrays that it holds now, where it is one Dense layer on the stored features."""
        if not self.trainable or not _is_linear(self.model, material):
            return None
        activation, units = _answering(self.model)
        kernel, bias = self.model.get_layer(OUTPUT).get_weights()
        if units is None:
            return LinearHead(kernel, bias, activation)
        scale, offset = (np.asarray(each, np.float32) for each in units)
        return LinearHead(kernel, bias, activation, scale, offset)


def find_head(
    model: keras.Model,
    whole: Cut,
    material: Material,
    *,
    solver: Any,
    phase: Phase | None,
    budget: float,
    reporter: Reporter,
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
    linear = _is_linear(model, material)
    if solver == "gradient" or (solver == "auto" and not linear):
        if not material.catalog.part("validation"):
            raise UsageError("A head with layers of its own needs validation images: they tell when to stop.")
        bookmark, phase = (progress or Progress()).bookmark("head"), phase or HEAD_PHASE
        trainer = Trainer(model, material.backbone, reporter, material.recipe.seed)
        fitted = (
            trainer.finish(phase, bookmark)
            if bookmark.done
            else trainer.train(
                phase,
                material.feature_lesson(phase),
                budget=budget,
                stored=whole,
                bookmark=bookmark,
                most=HEAD_EPOCHS,
            )
        )
        count = sum(int(np.prod(variable.shape)) for variable in whole.suffix.trainable_variables)
        words = f"{count:,} parameters trained on stored features, best after epoch {fitted.best}"
        return FoundHead(model, whole.suffix, words, fitted=fitted)
    if not linear:
        raise UsageError(
            f"head.solver: {solver_name(solver)} solves a head without weights before its output. "
            "Received: one with layers of its own; give it the solver gradient."
        )
    if material.recipe.feature_noise and not material.recipe.trains_backbone:
        raise UsageError(
            "feature_noise: expected 0 where nothing trains by gradient: the head is solved. "
            f"Received: {material.recipe.feature_noise:g}. Give the head the solver gradient."
        )
    return _solve(model, whole, material, solver_for(solver, material.catalog.task), reporter=reporter)


def _is_linear(model: keras.Model, material: Material) -> bool:
    """Whether the output layer is all that has to learn on the stored features.

    Layers that surgery put in have learned nothing: they train with the head, which then cannot be solved.
    """
    return is_linear(model) and not material.backbone.new_layers


def _solve(
    model: keras.Model, whole: Cut, material: Material, solver: Any, *, reporter: Reporter
) -> FoundHead:
    solution = solve_head(material, solver, reporter=reporter)
    if solution.head is None:
        activation, units = _answering(model)
        linear = LinearHead.solved(*cast("Weights", solution.linear), activation, units)
        model.get_layer(OUTPUT).set_weights([linear.kernel, linear.bias])
        return FoundHead(model, whole.suffix, solution.words)
    pixels, vector = whole.prefix.inputs[0], whole.prefix.outputs[0]
    if (kept := solution.head.kept) is not None:
        pooled = keras.Model(pixels, vector)
        return FoundHead(pooled, pooled, solution.words, trainable=False, kept=kept)
    answering = keras.Model(pixels, solution.head.apply(vector), name=model.name)
    head = keras.Model(vector, answering.outputs[0])
    return FoundHead(answering, head, solution.words, trainable=False)


def _answering(model: keras.Model) -> tuple[str, tuple[Any, Any] | None]:
    """The activation of a linear head's Dense layer; scale and offset of a change of units behind it."""
    layers = {layer.name: layer for layer in model.layers}
    units = layers.get(UNITS)
    return layers[OUTPUT].activation.__name__, units and (units.scale, units.offset)


def solver_of(head: HeadSpec | Any) -> Any:
    """The solver that a head asks for; a head of the user's own is trained."""
    return head.solver if isinstance(head, HeadSpec) else "gradient"
