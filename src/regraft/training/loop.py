"""The epochs of a phase, step by step: best weights, budget, interruption, checkpoints.

The loop is written out, not left to `Model.fit`, for what it must promise: the learning rate of every step,
the best weights kept, a stop by budget or Ctrl-C at the end of a step, a run that goes on after a kill with
the same bits, and a proof at the end that nothing outside the plan has moved.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault
from regraft.models.freeze import Guard, Trained, may_move
from regraft.recipe import Phase
from regraft.system.console import Reporter, duration
from regraft.system.signals import finish_step
from regraft.training.journal import Arrays, Bookmark
from regraft.training.optimizers import Clock, Rates, carry_over, in_parts, is_out_of_memory
from regraft.training.training_data import Lesson

__all__ = ["EpochRecord", "Fitted", "Session"]


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
class Fitted:
    """What a phase did.

    Attributes:
        phase: what was asked for, its plan resolved; "none" for the head alone.
        trained: what trained of the backbone.
        why: a phrase on the choice of the plan, where the program chose.
        history: a record an epoch.
        planned: the number of epochs the rates were laid out for.
        best: the epoch whose weights the model now has, 0 for those it had before.
        stopped: what ended it: "done", "no progress", "budget", "interrupted" or "diverged".
        left: seconds of the budget that were left then.
    """

    phase: Phase
    trained: Trained
    why: str = ""
    history: list[EpochRecord] = field(default_factory=list)
    planned: int = 0
    best: int = 0
    stopped: str = "done"
    left: float = 0.0

    @property
    def unfreeze(self) -> str:
        """The plan, in words."""
        return str(self.phase.unfreeze)

    def state(self) -> dict[str, Any]:
        """What happened so far, for `restore`, as JSON."""
        told = {name: getattr(self, name) for name in ("planned", "best", "stopped", "left")}
        return {"history": [asdict(record) for record in self.history], **told}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what had this state."""
        vars(self).update(state, history=[EpochRecord(**record) for record in state["history"]])


@dataclass
class _Place:
    """Where in the epochs training stands.

    Attributes:
        epoch, step: from 1, and how many steps of it are done.
        total, count: sum of the losses so far, and of how many samples.
        seconds: what the epoch took before this process.
    """

    epoch: int = 1
    step: int = 0
    total: float = 0.0
    count: int = 0
    seconds: float = 0.0

    @property
    def loss(self) -> float:
        """The mean; NaN before the first step."""
        return self.total / self.count if self.count else math.nan


class Session:
    """What every epoch of a phase needs. `network` is the part of `model` that runs: suffix, or all of it.

    All that changes from step to step is what `_keep` writes: weights, what optimizers remember, layers'
    random numbers, the schedule, the history. Order and augmentation are functions of epoch and step.
    """

    def __init__(
        self,
        model: keras.Model,
        network: keras.Model,
        rates: Rates,
        *,
        phase: Phase,
        lesson: Lesson,
        bookmark: Bookmark,
        reporter: Reporter,
        compile_in_parts: Callable[[int], Rates],
    ) -> None:
        self._network, self._rates, self._phase, self._lesson = network, rates, phase, lesson
        self._moving, self._guard = may_move(model), Guard(model)
        self._bookmark, self._reporter = bookmark, reporter
        self._compile_in_parts, self._parts = compile_in_parts, 1
        self._stop = threading.Event()

    def run(self, fitted: Fitted, clock: Clock, seed: int) -> Fitted:
        """Epoch by epoch until something ends the phase; the model ends with the weights of the best one."""
        self._fitted, self._clock = fitted, clock
        kept = self._bookmark.take()
        place = self._begin(seed) if kept is None else self._restore(*kept)
        with finish_step(self._reporter) as self._stop:
            while fitted.stopped == "done" and place.epoch <= clock.epochs:
                place = self._one_epoch(place)
        for variable, value in zip(self._moving, self._best, strict=True):
            variable.assign(value)
        self._guard.check()
        fitted.planned, fitted.left = clock.epochs, clock.left
        if fitted.stopped != "interrupted":
            self._bookmark.keep({"done": True, "fitted": fitted.state()}, {"now": self._best})
        return fitted

    def _begin(self, seed: int) -> _Place:
        _seed_layers(self._network, seed)
        self._best = _snapshot(self._moving)
        self._fitted.history.append(self._record(0, math.nan, time.monotonic()))
        return _Place()

    def _one_epoch(self, place: _Place) -> _Place:
        """Train and judge; where the next epoch begins."""
        fitted, begun = self._fitted, time.monotonic() - place.seconds
        finite = self._train(place, begun)
        whole = place.step == len(self._lesson.train)
        if self._stop.is_set() and finite and not whole:
            self._keep(place, begun)  # the rest of the epoch is still to come
        fitted.history.append(self._record(place.epoch, place.loss if finite else math.nan, begun))
        fitted.stopped = self._verdict(finite)
        if fitted.best == place.epoch:
            self._best = _snapshot(self._moving)
        self._say()
        following = _Place(place.epoch + 1)
        if whole and finite and (self._bookmark.due or self._stop.is_set()):
            self._keep(following, time.monotonic())
        if self._stop.is_set():
            fitted.stopped = "interrupted"
        return following

    def _train(self, place: _Place, begun: float) -> bool:
        """What is left of the epoch; whether the loss stayed among the finite numbers."""
        train = self._lesson.train
        what = "Training the head" if self._fitted.unfreeze == "none" else "Fine-tuning"
        with self._reporter.track(f"{what}, epoch {place.epoch}", len(train.samples)) as advance:
            advance(place.count)
            for batch in train.shuffled(place.epoch, place.step):
                if self._stop.is_set() or self._clock.over:
                    break
                started = time.monotonic()
                self._rates.set(self._clock.rate(self._phase.learning_rate))
                weighted = np.stack(np.broadcast_arrays(batch.targets, batch.weights), -1)
                loss = self._step(batch.inputs, weighted)
                self._clock.ticked(time.monotonic() - started)
                if not math.isfinite(loss):
                    return False
                place.step += 1
                place.total, place.count = place.total + loss * len(weighted), place.count + len(weighted)
                advance(len(weighted))
                if self._bookmark.due or self._clock.settled:
                    self._keep(place, begun)
                if self._clock.timed:
                    self._estimate()
        return True

    def _estimate(self) -> None:
        """Say what the first steps tell of the rest."""
        seconds, epochs = self._clock.seconds_an_epoch, self._clock.epochs
        self._reporter.info(
            f"By the first steps an epoch takes {duration(seconds)}, {epochs} epoch{'s' * (epochs > 1)} "
            f"about {duration(epochs * seconds)}."
        )

    def _step(self, inputs: tuple[NDArray[Any], ...], weighted: NDArray[np.float32]) -> float:
        """One step and its loss; where it does not fit the memory, in twice as many parts from now on."""
        while True:
            try:
                parts = in_parts(inputs, weighted, self._parts)
                losses = [float(self._network.train_on_batch(_given(part), of)) for part, of in parts]
                return sum(losses) / self._parts
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                if self._parts >= len(weighted):
                    raise EnvironmentFault(
                        "Training does not fit the memory of this machine, not even one sample at a time. "
                        "Choose a smaller --image-size, or a plan that trains less of the backbone."
                    ) from error
            self._divide(2 * self._parts)
            self._reporter.info(
                f"A batch of {len(weighted)} does not fit the memory: each step is computed in {self._parts} "
                "parts from now on, and is the same step."
            )

    def _divide(self, parts: int) -> None:
        """Steps in so many parts from now on."""
        before, trained = self._rates, self._network.trainable_variables
        self._network.optimizer.build(trained)
        self._rates = self._compile_in_parts(parts)
        self._network.optimizer.build(trained)
        carry_over(before, self._rates, parts // self._parts)
        self._rates.set(before.head)
        self._parts = parts

    def _record(self, epoch: int, loss: float, begun: float) -> EpochRecord:
        """Look at the validation samples and write down how the epoch went."""
        lesson, answers = self._lesson, []
        for batch in lesson.validation.in_order():
            answers.append(np.asarray(self._network.predict_on_batch(_given(batch.inputs))))
        answer, truth = np.concatenate(answers), lesson.validation.targets
        val_loss = float(lesson.task.losses(answer, truth, lesson.spread).mean())
        score = lesson.task.score(answer, truth)
        return EpochRecord(epoch, loss, val_loss, score, self._rates.head, time.monotonic() - begun)

    def _verdict(self, finite: bool) -> str:
        """What ends the phase after this epoch, "done" where nothing does; notes the best epoch."""
        fitted = self._fitted
        last, best = fitted.history[-1], fitted.history[fitted.best]
        if not finite or not math.isfinite(last.val_loss):
            return "diverged"
        if last.val_loss < best.val_loss and last.val_score >= fitted.history[0].val_score:
            fitted.best = last.epoch
        if self._clock.over:
            return "budget"
        return "no progress" if last.epoch - fitted.best >= self._phase.patience else "done"

    def _keep(self, place: _Place, begun: float) -> None:
        """A checkpoint: all that `_restore` needs."""
        said = {
            "done": False,
            "fitted": self._fitted.state(),
            "clock": self._clock.state(),
            "place": {**asdict(place), "seconds": time.monotonic() - begun},
            "rate": self._rates.head,
            "parts": self._parts,
        }
        state = {name: _snapshot(variables) for name, variables in self._state().items()}
        self._bookmark.keep(said, {**state, "best": self._best})

    def _restore(self, said: dict[str, Any], arrays: Arrays) -> _Place:
        """Stand where the process stood that wrote this checkpoint."""
        self._network.optimizer.build(self._network.trainable_variables)
        if said["parts"] > 1:
            self._divide(said["parts"])
        for name, variables in self._state().items():
            for variable, value in zip(variables, arrays[name], strict=True):
                variable.assign(value)
        self._best = arrays["best"]
        self._fitted.restore(said["fitted"])
        self._clock.restore(said["clock"])
        self._rates.set(said["rate"])
        place = _Place(**said["place"])
        self._reporter.info(
            f"Going on in epoch {place.epoch}, after {place.step} of {len(self._lesson.train)} steps."
        )
        return place

    def _state(self) -> dict[str, list[keras.Variable]]:
        """Every variable that a step may change."""
        generators = [generator.state for _, generator in _generators(self._network)]
        return {"now": self._moving, "random": generators, "optimizer": self._network.optimizer.variables}

    def _say(self) -> None:
        last, name = self._fitted.history[-1], self._lesson.task.score_name
        self._reporter.info(
            f"Epoch {last.epoch}/{self._clock.epochs}: loss {last.loss:.3g}, "
            f"validation loss {last.val_loss:.3g}, {name} {last.val_score:.3f} ({duration(last.seconds)})"
        )


def _given(inputs: tuple[NDArray[Any], ...]) -> Any:
    """What a network with so many inputs takes."""
    return inputs[0] if len(inputs) == 1 else list(inputs)


def _generators(network: keras.Model) -> Iterator[tuple[int, Any]]:
    """The generators of random numbers of a network's layers, each with the number of its layer."""
    for number, layer in enumerate(network._flatten_layers()):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            yield number, generator


def _seed_layers(network: keras.Model, seed: int) -> None:
    """Start every layer's own random numbers from the seed: by default they depend on what ran before."""
    for number, generator in _generators(network):
        generator.state.assign(np.array([seed, number], generator.state.dtype))


def _snapshot(variables: list[keras.Variable]) -> list[NDArray[Any]]:
    return [np.asarray(keras.ops.convert_to_numpy(variable)).copy() for variable in variables]
