"""The training loop of a phase: epochs, best weights, budget, interruption, checkpoints.

The loop is written out, not left to `Model.fit`, for what it must promise: the learning rate of every step,
the weights of the best epoch, a stop by budget or Ctrl-C at the end of a step, the same bits after a kill
and a resume, and a check at the end that nothing outside the plan has changed.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.graph import flatten_layers
from regraft.data.batches import Batch
from regraft.metrics.intervals import Interval
from regraft.models.freeze import FrozenWeightsGuard, TrainableCount, list_mutable_weights
from regraft.recipe import Phase
from regraft.solvers.calibration import MIN_ROWS, calibrate_answers
from regraft.solvers.decision import Link
from regraft.system.console import Reporter, format_duration
from regraft.system.signals import stop_after_step
from regraft.training.averaging import (
    EpochMean,
    Mixture,
    choose_first_epoch,
    exceeds_chance,
    list_points_between,
)
from regraft.training.calibrate import absorb_link, find_output_dense
from regraft.training.checkpoint import Arrays, PhaseCheckpoint
from regraft.training.compiled import CompiledNetwork, as_network_input
from regraft.training.optimizers import Schedule
from regraft.training.training_data import PhaseData

__all__ = [
    "EpochRecord",
    "PhaseResult",
    "TrainingLoop",
    "assign_values",
    "copy_values",
    "seed_layers",
    "train_batch",
]

LEAST_GAIN = 1e-6  # share of the loss that an epoch has to gain: less is how exactly a temperature is fitted


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history; see `tasks` for loss and score. Epoch 0 is the model before the phase.

    Attributes:
        loss, val_loss: of the answers as the network gives them.
        val_score: of calibrated answers, where they are calibrated: a shift can move answers across 0.5.
        val_loss_calibrated: loss of the same answers once they are calibrated on the validation part; NaN
            where they are not.
    """

    epoch: int
    loss: float
    val_loss: float
    val_score: float
    learning_rate: float
    seconds: float
    val_loss_calibrated: float = math.nan

    @property
    def judged_loss(self) -> float:
        """The loss that compares epochs: calibration removes what over-confidence alone adds to a loss."""
        return self.val_loss if math.isnan(self.val_loss_calibrated) else self.val_loss_calibrated


@dataclass
class PhaseResult:
    """What a phase did.

    Attributes:
        phase: the phase, its plan resolved; "none" trains the head alone.
        trained: how much of the backbone trained.
        remark: phrases on the choice of the plan and its pace, if there are any.
        history: a record an epoch.
        planned_epochs: the number of epochs that the schedule of rates is made for.
        best: the epoch whose weights the model now has, 0 for those it had before; the last epoch of a
            mixture.
        stopped: what ended it: "done", "no progress", "budget", "interrupted" or "diverged".
        seconds_left: what was left of the budget then.
        link: calibration of the best epoch's answers; None if they are not calibrated.
        uncalibrated: why they are not, as a phrase; "" for numbers.
        gain: by how much the score on validation is higher than before the phase; None for no such epoch.
        mixture: how the weights were made from several epochs; None for those of the best epoch.
        mixed: the record of the mixture, at the number of its last epoch; None without one.
    """

    phase: Phase
    trained: TrainableCount
    remark: str = ""
    history: list[EpochRecord] = field(default_factory=list)
    planned_epochs: int = 0
    best: int = 0
    stopped: str = "done"
    seconds_left: float = 0.0
    link: Link | None = None
    uncalibrated: str = ""
    gain: Interval | None = None
    mixture: Mixture | None = None
    mixed: EpochRecord | None = None

    @property
    def unfreeze(self) -> str:
        """The plan, in words."""
        return str(self.phase.unfreeze)

    @property
    def final(self) -> EpochRecord:
        """The record of the weights that the model now has."""
        return self.history[self.best] if self.mixed is None else self.mixed

    def add_remark(self, phrase: str) -> None:
        """Add a phrase to the remark."""
        self.remark = "; ".join(filter(None, [self.remark, phrase]))

    def state(self) -> dict[str, Any]:
        """Return the state as JSON, for `restore`."""
        state = {"planned": self.planned_epochs, "best": self.best, "stopped": self.stopped}
        link = self.link and [self.link.activation, self.link.gain.tolist(), self.link.shift.tolist()]
        calibration = {"link": link, "uncalibrated": self.uncalibrated}
        gain = asdict(self.gain) if self.gain else None
        return {
            "history": [asdict(r) for r in self.history],
            **state,
            "left": self.seconds_left,
            **calibration,
            "gain": gain,
            "mixture": self.mixture and asdict(self.mixture),
            "mixed": self.mixed and asdict(self.mixed),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state that `state` returned."""
        self.history = [EpochRecord(**record) for record in state["history"]]
        self.planned_epochs, self.best = state["planned"], state["best"]
        self.stopped, self.seconds_left = state["stopped"], state["left"]
        activation, *arrays = state["link"] or [""]
        self.link = Link(activation, *map(np.array, arrays)) if activation else None
        self.uncalibrated = state["uncalibrated"]
        self.gain = Interval(**state["gain"]) if state.get("gain") else None
        self.mixture = Mixture(**state["mixture"]) if state.get("mixture") else None
        self.mixed = EpochRecord(**state["mixed"]) if state.get("mixed") else None


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
        self._dense = find_output_dense(model, data.task)
        self._checkpoint, self._reporter = checkpoint, reporter
        self._stop = threading.Event()
        self._best: list[NDArray[Any]] = []
        self._best_answers: list[NDArray[Any]] = []

    def run(self, result: PhaseResult, schedule: Schedule, seed: int) -> PhaseResult:
        """Train until something ends the phase and fill in its result; the model ends at its best epoch."""
        self._result, self._schedule = result, schedule
        previous = self._checkpoint.take_previous()
        position = self._begin(seed) if previous is None else self._restore(*previous)
        with stop_after_step(self._reporter) as self._stop:
            while result.stopped == "done" and position.epoch <= schedule.epochs:
                position = self._run_epoch(position)
        if result.stopped in ("done", "no progress", "budget") and result.unfreeze != "none":
            self._mix_epochs()
        assign_values(self._weights, self._best)
        if self._dense is not None and result.best and result.link is not None:
            absorb_link(self._dense, result.link)
        self._guard.check()
        if result.best:
            data, (before, after) = self._data, self._best_answers
            result.gain = data.task.compare(before, after, data.validation.targets, seed=seed)
        result.planned_epochs, result.seconds_left = schedule.epochs, schedule.seconds_left
        if result.stopped != "interrupted":
            self._checkpoint.save(
                {"done": True, "fitted": result.state()}, {"now": copy_values(self._weights)}
            )
        return result

    def _mix_epochs(self) -> None:
        """Take the mean of the last epochs, or a point on the way there, where validation asks for it."""
        result, mean = self._result, self._mean
        if mean.mixture is not None:
            self._try_mixture(mean.mixture, mean.values, is_usual=True)
        if result.best:
            target = result.mixture or Mixture(result.best, result.best)
            for mixture, values in list_points_between(self._start, self._best, target):
                self._try_mixture(mixture, values, is_usual=False)

    def _try_mixture(self, mixture: Mixture, values: list[NDArray[Any]], *, is_usual: bool) -> None:
        """Take a mixture of weights if it beats the model before the phase and what is the best so far.

        The usual one only has to be no worse than the best epoch by more than chance; others have to be
        better by more than chance.
        """
        result, task, truth = self._result, self._data.task, self._data.validation.targets
        assign_values(self._weights, values)
        record, link, answers = self._evaluate(mixture.last, math.nan, time.monotonic())
        start = result.history[0]
        if (
            not record.judged_loss < start.judged_loss * (1 - LEAST_GAIN)
            or record.val_score < start.val_score
        ):
            return
        now, before = (task.compute_losses(rows, truth) for rows in (answers, self._best_answers[1]))
        if is_usual and result.best:
            is_better = not exceeds_chance(now, before)
        else:
            is_better = exceeds_chance(before, now)
        if is_better:
            result.best, result.mixture, result.mixed, result.link = mixture.last, mixture, record, link
            self._best, self._best_answers[1] = values, answers

    def _explain_uncalibrated(self) -> str:
        """Return why the answers cannot be calibrated, "" if they can or are numbers."""
        if self._data.task.name == "regression":
            return ""
        if self._dense is None:
            return "the head does not end in a Dense layer that trains"
        count = len(self._data.validation.samples)
        return f"{count} validation images are too few for it" if count < MIN_ROWS else ""

    def _begin(self, seed: int) -> _Position:
        seed_layers(self._network.model, seed)
        self._result.uncalibrated = self._explain_uncalibrated()
        self._best = self._start = copy_values(self._weights)
        self._mean = EpochMean()
        record, _, answers = self._evaluate(0, math.nan, time.monotonic())
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
        record, link, answers = self._evaluate(position.epoch, loss, begun)
        result.history.append(record)
        result.stopped = self._judge(is_finite)
        values = copy_values(self._weights)
        if is_complete and result.stopped != "diverged":
            self._mean.add(values, position.epoch, since=choose_first_epoch(self._schedule.epochs))
        if result.best == position.epoch:
            self._best, result.link = values, link
            self._best_answers[1] = answers
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
                rate, samples = schedule.rate(self._phase.learning_rate), len(batch.targets)
                loss = train_batch(self._network, batch, rate, self._reporter)
                schedule.add_step(time.monotonic() - started)
                if not math.isfinite(loss):
                    return False
                position.step += 1
                position.total += loss * samples
                position.count += samples
                advance(samples)
                if self._checkpoint.is_due or schedule.has_just_chosen:
                    self._save(position, begun)
                if schedule.is_just_timed:
                    self._report_pace()
        return True

    def _evaluate(
        self, epoch: int, loss: float, begun: float
    ) -> tuple[EpochRecord, Link | None, NDArray[Any]]:
        """Predict the validation samples.

        Returns:
            The record of the epoch, the link that calibrates it, and the calibrated answers, (n, units).
        """
        data, network = self._data, self._network
        predictions = [
            np.asarray(network.model.predict_on_batch(as_network_input(batch.inputs)))
            for batch in data.validation.iter_in_order()
        ]
        task, truth = data.task, data.validation.targets
        answers = np.concatenate(predictions)
        val_loss, calibrated_loss = float(task.compute_losses(answers, truth).mean()), math.nan
        link = None
        if self._dense is not None:
            weights = data.validation.weights
            answers, link = calibrate_answers(answers, truth, weights, task=task.name)
        if link is not None:
            calibrated_loss = float(task.compute_losses(answers, truth).mean())
        score, rate = task.score(answers, truth), network.rates.head
        seconds = time.monotonic() - begun
        record = EpochRecord(epoch, loss, val_loss, score, rate, seconds, calibrated_loss)
        return record, link, answers

    def _judge(self, is_finite: bool) -> str:
        """Note whether the last epoch is the best; return what ends the phase now, or "done"."""
        result = self._result
        last, best = result.history[-1], result.history[result.best]
        if not is_finite or not math.isfinite(last.val_loss):
            return "diverged"
        least = best.judged_loss * (1 - LEAST_GAIN)
        if last.judged_loss < least and last.val_score >= result.history[0].val_score:
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
            "mean": [self._mean.first, self._mean.count],
        }
        values = {name: copy_values(variables) for name, variables in self._list_variables().items()}
        values |= {"start": self._start, "best": self._best, "mean": self._mean.values}
        self._checkpoint.save(state, {**values, "answers": self._best_answers})

    def _restore(self, state: dict[str, Any], arrays: Arrays) -> _Position:
        """Restore a checkpoint; return the position that it was saved at."""
        model = self._network.model
        model.optimizer.build(model.trainable_variables)
        if state["parts"] > 1:
            self._network.split_steps(state["parts"])
        for name, variables in self._list_variables().items():
            assign_values(variables, arrays[name])
        self._start, self._best, self._best_answers = arrays["start"], arrays["best"], arrays["answers"]
        self._mean = EpochMean(arrays["mean"], *state["mean"])
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
            f"{last.judged_loss:.3g}, {score_name} {last.val_score:.3f} ({format_duration(last.seconds)})"
        )


def _iter_generators(network: keras.Model) -> Iterator[tuple[int, Any]]:
    """Yield the random number generators of a network's layers, each with the number of its layer."""
    for number, layer in enumerate(flatten_layers(network)):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            yield number, generator


def seed_layers(network: keras.Model, seed: int) -> None:
    """Seed the random numbers of every layer: by default they depend on what ran before."""
    for number, generator in _iter_generators(network):
        generator.state.assign(np.array([seed, number], generator.state.dtype))


def train_batch(network: CompiledNetwork, batch: Batch, rate: float, reporter: Reporter) -> float:
    """Train a network on a batch at a learning rate of the head; return the mean loss."""
    network.rates.set(rate)
    weighted = np.stack(np.broadcast_arrays(batch.targets, batch.weights), -1)
    return network.train_step(batch.inputs, weighted, reporter)


def assign_values(variables: Iterable[keras.Variable], values: Iterable[NDArray[Any]]) -> None:
    """Set variables to values from `copy_values`."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def copy_values(variables: list[keras.Variable]) -> list[NDArray[Any]]:
    """Return the values of variables, copied."""
    return [np.asarray(keras.ops.convert_to_numpy(variable)).copy() for variable in variables]
