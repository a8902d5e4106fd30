"""A phase of training by gradient: the head on stored features, or part of the backbone with it on pixels.

Changes the model it is given: its weights, and its layers' `trainable` flags.

The loop is written out, not left to `Model.fit`, for what it must promise: the learning rate of every step,
the best weights kept, a stop by budget or Ctrl-C at the end of a step, a frozen part in inference mode, and a
proof at the end that nothing outside the plan has moved.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbone.cut import Cut, cut
from regraft.backbone.freeze import Guard, Trained, freeze, may_move, trains
from regraft.backbone.load import Backbone
from regraft.console import duration, say, track
from regraft.data.batches import Batches
from regraft.recipe import Phase
from regraft.tasks import Task
from regraft.training.compiled import Compiled
from regraft.training.rates import Clock, Rates, compile_network

__all__ = ["EpochRecord", "Fitted", "Lesson", "fine_tune", "fit_head"]

EPOCHS = 6  # of the backbone, where neither the recipe nor the budget says otherwise
HEAD_EPOCHS = 100  # of the head alone, which patience ends much earlier


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
    """

    phase: Phase
    trained: Trained
    why: str = ""
    history: list[EpochRecord] = field(default_factory=list)
    planned: int = 0
    best: int = 0
    stopped: str = "done"

    @property
    def unfreeze(self) -> str:
        """The plan, in words."""
        return str(self.phase.unfreeze)


@dataclass(frozen=True)
class Lesson:
    """What a phase learns from and is judged by.

    Attributes:
        task: says what counts as loss and as score.
        train, validation: batches of what the trained part takes: stored features, or pixels.
        spread: standard deviation of each target of regression in training, (units,); 1 otherwise.
    """

    task: Task
    train: Batches[Any]
    validation: Batches[Any]
    spread: NDArray[np.float32] | float = 1.0


def fit_head(
    model: keras.Model,
    backbone: Backbone,
    *,
    head: Cut,
    phase: Phase,
    lesson: Lesson,
    budget: float,
    seed: int = 0,
) -> Fitted:
    """Train the head alone, on features that are computed already; nothing of the backbone runs.

    Args:
        model: from `graft`; it ends with the weights of the best epoch.
        backbone: the one in `model`. All of it is frozen, but layers that surgery has put in.
        head: `model`, cut where its head begins.
        phase: rates, epochs, patience.
        lesson: batches of the tensors that cross the cut.
        budget: seconds it may take.
        seed: of dropout.
    """
    fitted = Fitted(phase, freeze(backbone, "none"))
    rates = compile_network(head.suffix, backbone, phase, _loss(lesson))
    session = _Session(model, head.suffix, rates, phase, lesson)
    return session.run(fitted, Clock(budget, len(lesson.train), phase, HEAD_EPOCHS), seed)


def fine_tune(
    model: keras.Model,
    backbone: Backbone,
    *,
    phase: Phase,
    lesson: Lesson,
    budget: float,
    stored: Cut | None = None,
    compiled: Compiled | None = None,
    seed: int = 0,
) -> Fitted:
    """Train what the phase's plan names, and the head; the model ends with the weights of the best epoch.

    Args:
        model: from `graft`, its head found. Its weights and flags are changed.
        backbone: the one in `model`.
        phase: freeze plan, rates, epochs, patience.
        lesson: batches of pixels, or of the tensors that cross where `stored` was cut.
        budget: seconds it may take; epochs are chosen to fit, and it stops there in any case.
        stored: `model`, cut at one of the boundaries of the phase's plan; None to train on pixels.
        compiled: networks of this model from phases before, to be used again; None to compile anew.
        seed: of dropout; order and augmentation have the seed of the batches.

    An epoch counts only if it beats the model as it was on validation: a lower loss and no lower score. Of
    those that do, the one with the lowest loss is best: of a few hundred images it says more than accuracy.
    """
    fitted = Fitted(phase, freeze(backbone, phase.unfreeze))
    at = None if stored is None else tuple(_maker(tensor) for tensor in stored.prefix.outputs)

    def make() -> keras.Model:
        return cut(model, trains).joined() if stored is None else stored.trained()

    compiled = compiled or Compiled()
    network, rates = compiled.get((phase.unfreeze, at), make, backbone, phase, _loss(lesson))
    session = _Session(model, network, rates, phase, lesson)
    return session.run(fitted, Clock(budget, len(lesson.train), phase, EPOCHS), seed)


def _maker(tensor: Any) -> str:
    """The layer that makes a symbolic tensor."""
    return str(tensor._keras_history.operation.name)


class _Session:
    """What every epoch of a phase needs. `network` is the part of `model` that runs: suffix, or all of it."""

    def __init__(
        self, model: keras.Model, network: keras.Model, rates: Rates, phase: Phase, lesson: Lesson
    ) -> None:
        self._network, self._rates, self._phase, self._lesson = network, rates, phase, lesson
        self._moving, self._guard = may_move(model), Guard(model)
        self._interrupted = threading.Event()

    def run(self, fitted: Fitted, clock: Clock, seed: int) -> Fitted:
        """Epoch by epoch until something ends the phase; the model ends with the weights of the best one."""
        self._clock = clock
        _seed_layers(self._network, seed)
        best = _snapshot(self._moving)
        fitted.history.append(self._record(0, math.nan, time.monotonic()))
        with _interruptible() as self._interrupted:
            while fitted.stopped == "done" and len(fitted.history) <= clock.epochs:
                epoch, begun = len(fitted.history), time.monotonic()
                loss = self._one_epoch(epoch, fitted.unfreeze)
                fitted.history.append(self._record(epoch, loss, begun))
                fitted.stopped = self._verdict(fitted)
                if fitted.best == epoch:
                    best = _snapshot(self._moving)
                self._say(fitted)
        for variable, value in zip(self._moving, best, strict=True):
            variable.assign(value)
        self._guard.check()
        fitted.planned = clock.epochs
        return fitted

    @property
    def _cut_short(self) -> bool:
        return self._interrupted.is_set() or self._clock.over

    def _one_epoch(self, epoch: int, plan: str) -> float:
        """Train on every sample once; the mean loss, or NaN where it left the finite numbers."""
        total = count = 0.0
        train = self._lesson.train
        what = "Training the head" if plan == "none" else "Fine-tuning"
        with track(f"{what}, epoch {epoch}", len(train.samples)) as advance:
            for batch in train.shuffled(epoch):
                if self._cut_short:
                    break
                begun = time.monotonic()
                self._rates.set(self._clock.rate(self._phase.learning_rate))
                weighted = np.stack(np.broadcast_arrays(batch.targets, batch.weights), -1)
                loss = float(self._network.train_on_batch(_given(batch.inputs), weighted))
                self._clock.ticked(time.monotonic() - begun)
                if not math.isfinite(loss):
                    return math.nan
                total, count = total + loss * len(weighted), count + len(weighted)
                advance(len(weighted))
        return total / count if count else math.nan

    def _record(self, epoch: int, loss: float, begun: float) -> EpochRecord:
        """Look at the validation samples and write down how the epoch went."""
        lesson, answers = self._lesson, []
        for batch in lesson.validation.in_order():
            answers.append(np.asarray(self._network.predict_on_batch(_given(batch.inputs))))
        answer, truth = np.concatenate(answers), lesson.validation.targets
        val_loss = float(lesson.task.losses(answer, truth, lesson.spread).mean())
        score = lesson.task.score(answer, truth)
        return EpochRecord(epoch, loss, val_loss, score, self._rates.head, time.monotonic() - begun)

    def _verdict(self, fitted: Fitted) -> str:
        """What ends the phase after this epoch, "done" where nothing does; notes the best epoch."""
        last, best = fitted.history[-1], fitted.history[fitted.best]
        if not math.isfinite(last.val_loss) or (math.isnan(last.loss) and not self._cut_short):
            return "diverged"
        if last.val_loss < best.val_loss and last.val_score >= fitted.history[0].val_score:
            fitted.best = last.epoch
        if self._interrupted.is_set():
            return "interrupted"
        if self._clock.over:
            return "budget"
        return "no progress" if last.epoch - fitted.best >= self._phase.patience else "done"

    def _say(self, fitted: Fitted) -> None:
        last, name = fitted.history[-1], self._lesson.task.score_name
        say(
            f"Epoch {last.epoch}/{self._clock.epochs}: loss {last.loss:.3g}, "
            f"validation loss {last.val_loss:.3g}, {name} {last.val_score:.3f} ({duration(last.seconds)})"
        )


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


def _given(inputs: tuple[NDArray[Any], ...]) -> Any:
    """What a network with so many inputs takes."""
    return inputs[0] if len(inputs) == 1 else list(inputs)


def _seed_layers(network: keras.Model, seed: int) -> None:
    """Start every layer's own random numbers from the seed: by default they depend on what ran before."""
    for number, layer in enumerate(network._flatten_layers()):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign(np.array([seed, number], generator.state.dtype))


def _snapshot(variables: list[keras.Variable]) -> list[Any]:
    return [keras.ops.convert_to_numpy(variable).copy() for variable in variables]


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event and lets the step finish; the second one stops at once."""
    event = threading.Event()

    def first(number: int, frame: object) -> None:
        event.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say("Stopping after this step, keeping the best model so far. Ctrl-C again stops at once.")

    if threading.current_thread() is not threading.main_thread():
        yield event  # signals belong to the main thread
        return
    before: Callable[..., Any] | int | None = signal.signal(signal.SIGINT, first)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
