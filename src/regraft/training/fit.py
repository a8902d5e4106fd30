"""A phase of training by gradient: the head on stored features, or part of the backbone with it.

The head, found on stored features: solved where it can be, trained by gradient otherwise.

In both cases nothing of the backbone runs: that is what its features were computed for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, cast

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.load import Backbone
from regraft.data.catalog import Sample
from regraft.errors import UsageError
from regraft.models.cut import Cut, cut
from regraft.models.freeze import freeze, may_move, resolve_plan
from regraft.models.head import UNITS, is_linear
from regraft.recipe import HEAD_PHASE, HeadSpec, Phase, Solver
from regraft.solvers.decision import OUTPUT, LinearHead
from regraft.solvers.estimator_io import Kept
from regraft.system.console import Reporter
from regraft.training.journal import Bookmark, Progress
from regraft.training.loop import EpochRecord, Fitted, Session
from regraft.training.optimizers import Clock, Rates, compile_network, shares
from regraft.training.solve_head import Weights, solve_head, solver_for, solver_name
from regraft.training.training_data import Lesson, Material

__all__ = [
    "EPOCHS",
    "HEAD_EPOCHS",
    "Compiled",
    "EpochRecord",
    "Fitted",
    "FoundHead",
    "Lesson",
    "Trainer",
    "find_head",
    "solver_of",
]


EPOCHS = 6  # of the backbone, where neither the recipe nor the budget says otherwise
HEAD_EPOCHS = 100  # of the head alone, which patience ends much earlier


@dataclass(frozen=True)
class Trainer:
    """Train a model phase by phase: changes its weights, and its layers' `trainable` flags.

    Attributes:
        model: from `graft`.
        backbone: the one in `model`.
        seed: of dropout; order and augmentation have the seed of the batches.
        compiled: networks of this model from phases before, to be used again; None to compile anew.
    """

    model: keras.Model
    backbone: Backbone
    reporter: Reporter
    seed: int = 0
    compiled: Compiled | None = None

    def train(
        self,
        phase: Phase,
        lesson: Lesson,
        *,
        budget: float,
        stored: Cut | None = None,
        bookmark: Bookmark | None = None,
        most: int = EPOCHS,
    ) -> Fitted:
        """Train what the phase's plan names, and the head; the model ends with the weights of the best epoch.

        Args:
            phase: freeze plan, rates, epochs, patience.
            lesson: batches of pixels, or of the tensors that cross where `stored` was cut.
            budget: seconds it may take; epochs are chosen to fit, and it stops there in any case.
            stored: `model`, cut at one of the boundaries of the phase's plan; None to train on pixels.
            bookmark: where checkpoints are kept, and the one to go on from; None to keep none.
            most: epochs, where the phase does not say how many.

        An epoch counts only if it beats the model as it was on validation: a lower loss and no lower score.
        Of those that do, the one with the lowest loss is best: of a few hundred images it says more than
        accuracy.
        """
        model, backbone, loss = self.model, self.backbone, _loss(lesson)
        fitted = Fitted(phase, freeze(backbone, phase.unfreeze))
        at = None if stored is None else tuple(x._keras_history.operation.name for x in stored.prefix.outputs)

        def make() -> keras.Model:
            plan = resolve_plan(backbone, phase.unfreeze)
            return cut(model, plan).joined() if stored is None else stored.trained()

        compiled = self.compiled or Compiled()
        network, rates = compiled.get((phase.unfreeze, at), make, backbone, phase, loss)
        session = Session(
            model,
            network,
            rates,
            phase=phase,
            lesson=lesson,
            bookmark=bookmark or Bookmark(),
            reporter=self.reporter,
            compile_in_parts=lambda parts: compile_network(network, backbone, phase, loss, parts=parts),
        )
        return session.run(fitted, Clock(budget, len(lesson.train), phase, most), self.seed)

    def finish(self, phase: Phase, bookmark: Bookmark) -> Fitted:
        """Give the model the weights of a phase that a process before this one finished.

        Args:
            phase: as for `train`.
            bookmark: one that is done.
        """
        fitted = Fitted(phase, freeze(self.backbone, phase.unfreeze))
        said, arrays = bookmark.take() or ({}, {})
        fitted.restore(said["fitted"])
        for variable, value in zip(may_move(self.model), arrays["now"], strict=True):
            variable.assign(value)
        return fitted


def _loss(lesson: Lesson) -> Callable[[Any, Any], Any]:
    """The training loss on targets with their weights beside them, (b, units, 2)."""
    name, spread = lesson.task.name, np.asarray(lesson.spread, np.float32)

    def loss(weighted: Any, answers: Any) -> Any:
        truth, weights = weighted[..., 0], weighted[..., 1]
        if name == "multiclass":
            return keras.ops.categorical_crossentropy(truth, answers) * weights[:, 0]
        if name == "regression":
            return keras.ops.mean(weights * ((answers - truth) / spread) ** 2, axis=-1)
        return keras.ops.mean(weights * keras.ops.binary_crossentropy(truth, answers), axis=-1)

    return loss


class Compiled:
    """Networks that are compiled once and trained many times, each time with optimizers as good as new.

    Keras traces the step of a network when it first runs, which for small data takes longer than an epoch. A
    search trains the same part of a network again and again: only the rates differ, and those are variables.
    """

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[keras.Model, Rates, Any]] = {}

    def get(
        self,
        what: Hashable,
        make: Callable[[], keras.Model],
        backbone: Backbone,
        phase: Phase,
        loss: Callable[..., Any],
    ) -> tuple[keras.Model, Rates]:
        """A network ready to train, and its rates.

        Args:
            what: names the network that `make` makes: the same for networks of the same layers.
            make: called where there is none yet.
            backbone, phase, loss: as for `compile_network`. Phases of one network that differ in more than
                their rates and epochs are compiled anew.
        """
        values = sorted({1.0, *shares(backbone, phase).values()})
        key = (what, len(values), phase.depth_decay, phase.weight_decay)
        if key not in self._kept or self._kept[key][0].optimizer is not self._kept[key][2]:
            network = make()  # or compiled by somebody else since
            rates = compile_network(network, backbone, phase, loss)
            self._kept[key] = network, rates, network.optimizer
        network, rates, _ = self._kept[key]
        rates.renew(values)
        return network, rates


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
