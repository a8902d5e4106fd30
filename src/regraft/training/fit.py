"""Training by gradient, phase by phase, and fitting a head on stored features.

A head is solved if that is possible, and trained by gradient otherwise. The backbone does not run for
either: its features are stored. A phase that trains part of the backbone runs that part, on pixels or on
activations that were stored at a boundary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.graph import find_operation
from regraft.backbones.load import Backbone
from regraft.data.catalog import Sample
from regraft.errors import UsageError
from regraft.models.cut import Cut, cut
from regraft.models.freeze import freeze, list_mutable_weights, resolve_plan
from regraft.models.head import UNITS, drop_units, is_linear
from regraft.recipe import HEAD_PHASE, Phase, Recipe, Solver
from regraft.solvers.decision import HEAD_OUTPUT, LinearHead
from regraft.solvers.estimator_io import EstimatorHead
from regraft.system.console import Reporter, SilentReporter
from regraft.training.checkpoint import PhaseCheckpoint
from regraft.training.compiled import CompiledNetwork, CompiledNetworks
from regraft.training.journal import RunJournal
from regraft.training.loop import PhaseResult, TrainingLoop, assign_values
from regraft.training.optimizers import Schedule
from regraft.training.solve_head import HeldOutRows, Weights, resolve_solver, solve_head, solver_name
from regraft.training.training_data import PhaseData, TrainingData

__all__ = [
    "EPOCHS",
    "FittedHead",
    "Trainer",
    "ValidationAnswers",
    "find_head_phase",
    "fit_head",
    "solve_on_all",
]

EPOCHS = 5  # of the backbone, if neither the recipe nor the budget sets them
HEAD_EPOCHS = 100  # of the head alone; patience ends most of them much earlier
CHUNK = 256  # samples predicted at a time

Answers = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Trainer:
    """Trains a model phase by phase: changes its weights and its layers' `trainable` flags.

    Attributes:
        model: from `graft`.
        backbone: the one in `model`.
        seed: of dropout; order and augmentation have the seed of the batches.
        compiled: networks of this model from earlier phases, to use again; None to compile new ones.
    """

    model: keras.Model
    backbone: Backbone
    reporter: Reporter
    seed: int = 0
    compiled: CompiledNetworks | None = None

    def train(
        self,
        phase: Phase,
        data: PhaseData,
        *,
        budget: float,
        stored: Cut | None = None,
        checkpoint: PhaseCheckpoint | None = None,
        max_epochs: int = EPOCHS,
    ) -> PhaseResult:
        """Train the head and what the phase's plan names; the model ends with the weights of the best epoch.

        Args:
            phase: freeze plan, rates, epochs, patience.
            data: batches of pixels, or of the tensors that cross where `stored` was cut.
            budget: seconds; epochs are chosen to fit, and training stops when they are over.
            stored: `model`, cut at one of the boundaries of the phase's plan; None to train on pixels.
            checkpoint: where to save, and what to resume from; None to save nothing.
            max_epochs: limit, if the phase does not fix the epochs.

        An epoch counts only if it beats the model before the phase on validation: a lower loss and no lower
        score. The best has the lowest loss: of a few hundred images it says more than accuracy.
        """
        result = PhaseResult(phase, freeze(self.backbone, phase.unfreeze))
        network = self.compile(phase, data, stored)
        checkpoint, reporter = checkpoint or PhaseCheckpoint(), self.reporter
        loop = TrainingLoop(
            self.model, network, phase=phase, data=data, checkpoint=checkpoint, reporter=reporter
        )
        return loop.run(result, Schedule(budget, len(data.train), phase, max_epochs), self.seed)

    def compile(self, phase: Phase, data: PhaseData, stored: Cut | None) -> CompiledNetwork:
        """Return the network that a phase trains, ready to train; arguments are those of `train`."""
        model, backbone = self.model, self.backbone
        outputs = [] if stored is None else stored.prefix.outputs
        crossing = tuple(find_operation(tensor).name for tensor in outputs)

        def make() -> keras.Model:
            if stored is not None:
                return drop_units(stored.make_trainable_suffix())
            return cut(drop_units(model), resolve_plan(backbone, phase.unfreeze)).join_halves()

        compiled = self.compiled or CompiledNetworks()
        return compiled.get(
            (phase.unfreeze, crossing), make, backbone=backbone, phase=phase, loss=_make_loss(data)
        )

    def restore(self, phase: Phase, checkpoint: PhaseCheckpoint) -> PhaseResult:
        """Give the model the weights of a phase that an earlier process finished, from its checkpoint."""
        result = PhaseResult(phase, freeze(self.backbone, phase.unfreeze))
        state, arrays = checkpoint.take_previous() or ({}, {})
        result.restore(state["fitted"])
        assign_values(list_mutable_weights(self.model), arrays["now"])
        return result


def _make_loss(data: PhaseData) -> Callable[[Any, Any], Any]:
    """Return the training loss, on targets with their weights beside them, (b, units, 2)."""
    name = data.task.name

    def loss(weighted: Any, answers: Any) -> Any:
        truth, weights = weighted[..., 0], weighted[..., 1]
        if name == "multiclass":
            return keras.ops.categorical_crossentropy(truth, answers) * weights[:, 0]
        if name == "regression":
            return keras.ops.mean(weights * (answers - truth) ** 2, axis=-1)
        return keras.ops.mean(weights * keras.ops.binary_crossentropy(truth, answers), axis=-1)

    return loss


class ValidationAnswers(NamedTuple):
    """Answers to the validation samples, (n, units), of a model that has learnt from them since.

    `source` is "cross-validation" if heads answered that were solved without them, and "before refit" if the
    model answered before it learnt from them.
    """

    answers: Answers
    source: Literal["cross-validation", "before refit"]


@dataclass(frozen=True)
class FittedHead:
    """A model with its head in place.

    Attributes:
        model: pixels to answers; to pooled features if the head is an estimator.
        head: the part of it that begins where the stored features are.
        description: how the head was found, as a phrase.
        result: what training did, if the head was trained.
        trainable: whether training by gradient can continue from it.
        estimator: scikit-learn estimators that answer from the features, if Keras has no layers for them.
        solver: the one that a search chose; None if the recipe sets it.
        held_out: out-of-fold answers of a solved head; None if it was trained, or nothing was held out.
        solved_by: the solver's name or a scikit-learn estimator; None if it was trained.
        validation: answers to the validation samples, if the head has learnt from these too; else None.
    """

    model: keras.Model
    head: keras.Model
    description: str
    result: PhaseResult | None = None
    trainable: bool = True
    estimator: EstimatorHead | None = None
    solver: Solver | None = None
    held_out: HeldOutRows | None = None
    solved_by: Any = None
    validation: ValidationAnswers | None = None

    @property
    def learnt_parts(self) -> tuple[str, ...]:
        """The parts of the data that the head has learnt from."""
        return ("train",) if self.validation is None else ("train", "validation")

    def predict(self, data: TrainingData, samples: tuple[Sample, ...]) -> Answers:
        """Return the answers to samples from their stored features, (n, units)."""
        inputs = data.read_inputs(samples)
        if self.estimator is not None:
            return cast("Answers", self.estimator.predict(inputs[0]))
        if (linear := self.as_linear(data)) is not None:
            return linear.predict(inputs)
        starts = range(0, len(samples), CHUNK)
        chunks = [[array[start : start + CHUNK] for array in inputs] for start in starts]
        outputs = [self.head(chunk if len(chunk) > 1 else chunk[0], training=False) for chunk in chunks]
        return np.concatenate([keras.ops.convert_to_numpy(output) for output in outputs])

    def as_linear(self, data: TrainingData) -> LinearHead | None:
        """Return the head as arrays, with its present weights, if it is one Dense layer on the features."""
        if not self.trainable or not _is_linear(self.model, data):
            return None
        activation, units = _read_output(self.model)
        kernel, bias = self.model.get_layer(HEAD_OUTPUT).get_weights()
        if units is None:
            return LinearHead(kernel, bias, activation)
        scale, offset = (np.asarray(values, np.float64) for values in units)
        return LinearHead(kernel, bias, activation, scale, offset)


def fit_head(
    model: keras.Model,
    head_cut: Cut,
    *,
    data: TrainingData,
    solver: Any,
    reporter: Reporter,
    journal: RunJournal | None = None,
) -> FittedHead:
    """Solve or train the head of a grafted model.

    Args:
        model: from `graft`; its head's weights are changed.
        head_cut: the model, cut where its head begins.
        data: what to learn from.
        solver: one of `HeadSpec.solver`, or a scikit-learn estimator.
        journal: of the run; None to save nothing.

    Raises:
        UsageError: a solver for a head with layers of its own before the output; noise on features that
            nothing trains on.
    """
    is_solvable = _is_linear(model, data)
    if solver == "gradient" or (solver == "auto" and not is_solvable):
        return _train_head(model, head_cut, data=data, reporter=reporter, journal=journal or RunJournal())
    if not is_solvable:
        raise UsageError(
            f"head.solver: {solver_name(solver)} solves a head without weights before its output. "
            "Received: one with layers of its own; give it the solver gradient."
        )
    if data.recipe.feature_noise and not data.recipe.trains_backbone:
        raise UsageError(
            "feature_noise: expected 0 where nothing trains by gradient: the head is solved. "
            f"Received: {data.recipe.feature_noise:g}. Give the head the solver gradient."
        )
    solver = resolve_solver(solver, data.catalog.task)
    # Where no phase follows, no validation images are needed to judge it.
    solve = solve_on_all if data.recipe.refit == "auto" and not data.recipe.phases else _solve_head
    return solve(model, head_cut, data=data, solver=solver, reporter=reporter)


def solve_on_all(
    model: keras.Model, head_cut: Cut, *, data: TrainingData, solver: Any, reporter: Reporter
) -> FittedHead:
    """Solve the head on the training and the validation samples together.

    Each validation sample has an answer by a head that was solved without it: out of fold, or, if
    cross-validation takes only some of many samples, by a head of the training part.

    Args:
        model, head_cut, data, reporter: as for `fit_head`.
        solver: a name that `resolve_solver` returned, or a scikit-learn estimator.
    """
    validation = data.catalog.part("validation")
    if not validation:
        return _solve_head(model, head_cut, data=data, solver=solver, reporter=reporter)
    head = _solve_head(model, head_cut, data=data.merge_validation(), solver=solver, reporter=reporter)
    answers = _read_held_out_answers(head, data)
    if answers is not None:
        return replace(head, validation=ValidationAnswers(answers, "cross-validation"))
    output = model.get_layer(HEAD_OUTPUT)
    weights = output.get_weights()
    before = _solve_head(model, head_cut, data=data, solver=solver, reporter=SilentReporter())
    answers = before.predict(data, validation)
    output.set_weights(weights)
    return replace(head, validation=ValidationAnswers(answers, "before refit"))


def _read_held_out_answers(head: FittedHead, data: TrainingData) -> Answers | None:
    """Return out-of-fold answers to the validation samples; None if one that counts has no such answer."""
    samples, held_out = data.catalog.samples, head.held_out
    if held_out is None:
        return None
    rows = {number: row for row, number in enumerate(held_out.rows.tolist())}
    numbers = [number for number, sample in enumerate(samples) if sample.part == "validation"]
    if any(number not in rows and samples[number].weight > 0 for number in numbers):
        return None
    answers = np.array(head.predict(data, data.catalog.part("validation")))  # of weight 0: it has not learnt
    for position, number in enumerate(numbers):
        if number in rows:
            answers[position] = held_out.answers[rows[number]]
    return answers


def find_head_phase(recipe: Recipe) -> Phase | None:
    """Return the phase that trains the head on stored features: the first one, if its plan is "none"."""
    first = recipe.phases[0] if recipe.phases else None
    return first if first is not None and first.unfreeze == "none" else None


def _is_linear(model: keras.Model, data: TrainingData) -> bool:
    """Tell whether the output layer is all that has to learn on the stored features.

    Layers that surgery inserted have learned nothing yet: they train with the head, which then is not solved.
    """
    return is_linear(model) and not data.backbone.new_layers


def _train_head(
    model: keras.Model, head_cut: Cut, *, data: TrainingData, reporter: Reporter, journal: RunJournal
) -> FittedHead:
    if not data.catalog.part("validation"):
        raise UsageError("A head with layers of its own needs validation images: they tell when to stop.")
    checkpoint, phase = journal.open_checkpoint("head"), find_head_phase(data.recipe) or HEAD_PHASE
    trainer = Trainer(model, data.backbone, reporter, data.recipe.seed)
    if checkpoint.is_done:
        result = trainer.restore(phase, checkpoint)
    else:
        result = trainer.train(
            phase,
            data.make_feature_data(phase),
            budget=data.recipe.seconds,
            stored=head_cut,
            checkpoint=checkpoint,
            max_epochs=HEAD_EPOCHS,
        )
    count = sum(int(np.prod(variable.shape)) for variable in head_cut.suffix.trainable_variables)
    description = f"{count:,} parameters trained on stored features, best after epoch {result.best}"
    return FittedHead(model, head_cut.suffix, description, result=result)


def _solve_head(
    model: keras.Model, head_cut: Cut, *, data: TrainingData, solver: Any, reporter: Reporter
) -> FittedHead:
    solution = solve_head(data, solver, reporter=reporter)
    description = solution.description
    if solution.head is None:
        activation, units = _read_output(model)
        linear = LinearHead.from_weights(*cast("Weights", solution.linear), activation, units)
        model.get_layer(HEAD_OUTPUT).set_weights([linear.kernel, linear.bias])
        return FittedHead(model, head_cut.suffix, description, held_out=solution.held_out, solved_by=solver)
    pixels, vector = head_cut.prefix.inputs[0], head_cut.prefix.outputs[0]
    if (estimator := solution.head.estimator_head) is not None:
        pooled = keras.Model(pixels, vector)
        return FittedHead(
            pooled,
            pooled,
            description,
            trainable=False,
            estimator=estimator,
            held_out=solution.held_out,
            solved_by=solver,
        )
    solved = keras.Model(pixels, solution.head.build_layers(vector), name=model.name)
    head = keras.Model(vector, solved.outputs[0])
    return FittedHead(
        solved, head, description, trainable=False, held_out=solution.held_out, solved_by=solver
    )


def _read_output(model: keras.Model) -> tuple[str, tuple[Any, Any] | None]:
    """Return the activation of a linear head's Dense layer, and scale and offset of its units layer."""
    layers = {layer.name: layer for layer in model.layers}
    units = layers.get(UNITS)
    return layers[HEAD_OUTPUT].activation.__name__, units and (units.scale, units.offset)
