"""The training loop of a phase: epochs, best weights, budget, interruption, checkpoints.

The loop is written out, not left to `Model.fit`, for what it must promise: the learning rate of every step,
the weights of the best epoch, a stop by budget or Ctrl-C at the end of a step, the same bits after a kill
and a resume, and a check at the end that nothing outside the plan has changed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.graph import flatten_layers
from regraft.metrics.intervals import Interval
from regraft.models.freeze import FrozenWeightsGuard, TrainableCount, list_mutable_weights
from regraft.recipe import Phase
from regraft.system.console import Reporter, format_duration
from regraft.system.signals import stop_after_step
from regraft.training.checkpoint import Arrays, PhaseCheckpoint
from regraft.training.compiled import CompiledNetwork, as_network_input
from regraft.training.optimizers import Schedule
from regraft.training.training_data import PhaseData

__all__ = ["EpochRecord", "PhaseResult", "TrainingLoop"]


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history; see `tasks` for loss and score. Epoch 0 is the model before the phase."""

    epoch: int
    loss: float
    val_loss: float
    val_score: float
    learning_rate: float
    seconds: float


@dataclass
class PhaseResult:
    """What a phase did.

    Attributes:
        phase: the phase, its plan resolved; "none" trains the head alone.
        trained: how much of the backbone trained.
        remark: phrases on the choice of the plan and its pace, if there are any.
        history: a record an epoch.
        planned_epochs: the number of epochs that the schedule of rates is made for.
        best: the epoch whose weights the model now has, 0 for those it had before.
        stopped: what ended it: "done", "no progress", "budget", "interrupted" or "diverged".
        seconds_left: what was left of the budget then.
        gain: by how much the score on validation is higher than before the phase; None for no such epoch.
    """

    phase: Phase
    trained: TrainableCount
    remark: str = ""
    history: list[EpochRecord] = field(default_factory=list)
    planned_epochs: int = 0
    best: int = 0
    stopped: str = "done"
    seconds_left: float = 0.0
    gain: Interval | None = None

    @property
    def unfreeze(self) -> str:
        """The plan, in words."""
        return str(self.phase.unfreeze)

    def add_remark(self, phrase: str) -> None:
        """Add a phrase to the remark."""
        self.remark = "; ".join(filter(None, [self.remark, phrase]))

    def state(self) -> dict[str, Any]:
        """Return the state as JSON, for `restore`."""
        state = {"planned": self.planned_epochs, "best": self.best, "stopped": self.stopped}
        gain = asdict(self.gain) if self.gain else None
        return {
            "history": [asdict(r) for r in self.history],
            **state,
            "left": self.seconds_left,
            "gain": gain,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.planned_epochs, self.best = state["planned"], state["best"]
        self.stopped, self.seconds_left = state["stopped"], state["left"]
        self.gain = Interval(**state["gain"]) if state.get("gain") else None


@dataclass
class _Position:
    """How far training has come.

    Attributes:
        epoch, step: the epoch, from 1, and how many of its steps are done.
        total, count: sum of the losses so far, and over how many samples.
        seconds: what the epoch took in earlier processes.
    """

    epoch: int = 1
    step: int = 0
    total: float = 0.0
    count: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The mean loss; NaN before the first step."""
        return self.total / self.count if self.count else math.nan


class TrainingLoop:
    """The loop over the epochs of a phase. `network` is the part of `model` that runs: suffix, or all of it.

    Everything that changes from step to step is in the checkpoint: weights, the optimizers' state, random
    numbers of layers, schedule, history. Order and augmentation are functions of epoch and step.
    """

    def __init__(
        self,
        model: keras.Model,
        network: CompiledNetwork,
        *,
        phase: Phase,
        data: PhaseData,
        checkpoint: PhaseCheckpoint,
        reporter: Reporter,
    ) -> None:
        self._network, self._phase, self._data = network, phase, data
        self._weights, self._guard = list_mutable_weights(model), FrozenWeightsGuard(model)
        self._checkpoint, self._reporter = checkpoint, reporter
        self._stop = threading.Event()

    def run(self, result: PhaseResult, schedule: Schedule, seed: int) -> PhaseResult:
        """Train until something ends the phase and fill in its result; the model ends at its best epoch."""
        self._result, self._schedule = result, schedule
        previous = self._checkpoint.take_previous()
        position = self._begin(seed) if previous is None else self._restore(*previous)
        with stop_after_step(self._reporter) as self._stop:
            while result.stopped == "done" and position.epoch <= schedule.epochs:
                position = self._run_epoch(position)
        for variable, value in zip(self._weights, self._best, strict=True):
            variable.assign(value)
        self._guard.check()
        if result.best:
            data, (before, after) = self._data, self._best_answers
            result.gain = data.task.compare(before, after, data.validation.targets, seed=seed)
        result.planned_epochs, result.seconds_left = schedule.epochs, schedule.seconds_left
        if result.stopped != "interrupted":
            self._checkpoint.save({"done": True, "fitted": result.state()}, {"now": self._best})
        return result

    def _begin(self, seed: int) -> _Position:
        _seed_layers(self._network.model, seed)
        self._best = _copy_values(self._weights)
        record, answers = self._evaluate(0, math.nan, time.monotonic())
        self._result.history.append(record)
        self._best_answers = [answers, answers]
        return _Position()

    def _run_epoch(self, position: _Position) -> _Position:
        """Train the rest of an epoch and evaluate it; return where the next one begins."""
        result, begun = self._result, time.monotonic() - position.seconds
        is_finite = self._train(position, begun)
        is_complete = position.step == len(self._data.train)
        if self._stop.is_set() and is_finite and not is_complete:
            self._save(position, begun)  # a resumed run trains the rest of the epoch
        loss = position.loss if is_finite else math.nan
        record, answers = self._evaluate(position.epoch, loss, begun)
        result.history.append(record)
        result.stopped = self._judge(is_finite)
        if result.best == position.epoch:
            self._best, self._best_answers[1] = _copy_values(self._weights), answers
        self._report_epoch()
        following = _Position(position.epoch + 1)
        if is_complete and is_finite and (self._checkpoint.is_due or self._stop.is_set()):
            self._save(following, time.monotonic())
        if self._stop.is_set():
            result.stopped = "interrupted"
        return following

    def _train(self, position: _Position, begun: float) -> bool:
        """Train the rest of the epoch; return whether the loss stayed finite."""
        train, schedule = self._data.train, self._schedule
        title = "Training the head" if self._result.unfreeze == "none" else "Fine-tuning"
        with self._reporter.track(f"{title}, epoch {position.epoch}", len(train.samples)) as advance:
            advance(position.count)
            for batch in train.iter_shuffled(position.epoch, position.step):
                if self._stop.is_set() or schedule.is_over:
                    break
                started = time.monotonic()
                self._network.rates.set(schedule.rate(self._phase.learning_rate))
                weighted = np.stack(np.broadcast_arrays(batch.targets, batch.weights), -1)
                loss = self._network.train_step(batch.inputs, weighted, self._reporter)
                schedule.add_step(time.monotonic() - started)
                if not math.isfinite(loss):
                    return False
                position.step += 1
                position.total += loss * len(weighted)
                position.count += len(weighted)
                advance(len(weighted))
                if self._checkpoint.is_due or schedule.has_just_chosen:
                    self._save(position, begun)
                if schedule.is_just_timed:
                    self._report_pace()
        return True

    def _evaluate(self, epoch: int, loss: float, begun: float) -> tuple[EpochRecord, NDArray[Any]]:
        """Predict the validation samples; return the record of the epoch and the answers, (n, units)."""
        data, network = self._data, self._network
        predictions = [
            np.asarray(network.model.predict_on_batch(as_network_input(batch.inputs)))
            for batch in data.validation.iter_in_order()
        ]
        answers, truth = np.concatenate(predictions), data.validation.targets
        val_loss = float(data.task.compute_losses(answers, truth).mean())
        score = data.task.score(answers, truth)
        rate, seconds = network.rates.head, time.monotonic() - begun
        return EpochRecord(epoch, loss, val_loss, score, rate, seconds), answers

    def _judge(self, is_finite: bool) -> str:
        """Note whether the last epoch is the best; return what ends the phase now, or "done"."""
        result = self._result
        last, best = result.history[-1], result.history[result.best]
        if not is_finite or not math.isfinite(last.val_loss):
            return "diverged"
        if last.val_loss < best.val_loss and last.val_score >= result.history[0].val_score:
            result.best = last.epoch
        if self._schedule.is_over:
            return "budget"
        return "no progress" if last.epoch - result.best >= self._phase.patience else "done"

    def _save(self, position: _Position, begun: float) -> None:
        """Save a checkpoint with all that `_restore` needs."""
        state = {
            "done": False,
            "fitted": self._result.state(),
            "clock": self._schedule.state(),
            "place": {**asdict(position), "seconds": time.monotonic() - begun},
            "rate": self._network.rates.head,
            "parts": self._network.parts,
        }
        values = {name: _copy_values(variables) for name, variables in self._list_variables().items()}
        self._checkpoint.save(state, {**values, "best": self._best, "answers": self._best_answers})

    def _restore(self, state: dict[str, Any], arrays: Arrays) -> _Position:
        """Restore a checkpoint; return the position that it was saved at."""
        model = self._network.model
        model.optimizer.build(model.trainable_variables)
        if state["parts"] > 1:
            self._network.split_steps(state["parts"])
        for name, variables in self._list_variables().items():
            for variable, value in zip(variables, arrays[name], strict=True):
                variable.assign(value)
        self._best, self._best_answers = arrays["best"], arrays["answers"]
        self._result.restore(state["fitted"])
        self._schedule.restore(state["clock"])
        self._network.rates.set(state["rate"])
        position = _Position(**state["place"])
        self._reporter.info(
            f"Resuming in epoch {position.epoch}, after {position.step} of {len(self._data.train)} steps."
        )
        return position

    def _list_variables(self) -> dict[str, list[keras.Variable]]:
        """List every variable that a step may change."""
        model = self._network.model
        generators = [generator.state for _, generator in _iter_generators(model)]
        return {"now": self._weights, "random": generators, "optimizer": model.optimizer.variables}

    def _report_pace(self) -> None:
        seconds, epochs = self._schedule.seconds_per_epoch, self._schedule.epochs
        self._reporter.info(
            f"By the first steps an epoch takes {format_duration(seconds)}, {epochs} "
            f"epoch{'s' * (epochs > 1)} about {format_duration(epochs * seconds)}."
        )

    def _report_epoch(self) -> None:
        last, score_name = self._result.history[-1], self._data.task.score_name
        self._reporter.info(
            f"Epoch {last.epoch}/{self._schedule.epochs}: loss {last.loss:.3g}, validation loss "
            f"{last.val_loss:.3g}, {score_name} {last.val_score:.3f} ({format_duration(last.seconds)})"
        )


def _iter_generators(network: keras.Model) -> Iterator[tuple[int, Any]]:
    """Yield the random number generators of a network's layers, each with the number of its layer."""
    for number, layer in enumerate(flatten_layers(network)):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            yield number, generator


def _seed_layers(network: keras.Model, seed: int) -> None:
    """Seed the random numbers of every layer: by default they depend on what ran before."""
    for number, generator in _iter_generators(network):
        generator.state.assign(np.array([seed, number], generator.state.dtype))


def _copy_values(variables: list[keras.Variable]) -> list[NDArray[Any]]:
    return [np.asarray(keras.ops.convert_to_numpy(variable)).copy() for variable in variables]
