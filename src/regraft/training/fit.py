"""Fine-tuning: a phase trains part of the backbone and the head together, starting from the solved head.

Changes the model it is given: its weights, and its layers' `trainable` flags.

The loop is written out, not left to `Model.fit`, for what it must promise: the learning rate of every step,
the best weights kept, a stop by budget or Ctrl-C at the end of a step, and a frozen part in inference mode.
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

from regraft.backbone.cut import cut
from regraft.backbone.freeze import Trained, freeze
from regraft.backbone.head import OUTPUT
from regraft.backbone.load import Backbone
from regraft.console import duration, say, track
from regraft.data.batches import Batches
from regraft.recipe import Phase

__all__ = ["EpochRecord", "Fitted", "fine_tune"]

EPOCHS = 6  # where neither the recipe nor the budget says otherwise
TIMED_STEPS = range(2, 6)  # steps whose time tells how many epochs the budget holds; the first one compiles


@dataclass(frozen=True)
class EpochRecord:
    """One line of the history. Losses are mean cross-entropy in nats; epoch 0 is the solved head."""

    epoch: int
    loss: float
    val_loss: float
    val_score: float
    learning_rate: float
    seconds: float


@dataclass
class Fitted:
    """What a phase did. `planned` is the number of epochs its rates were laid out for; `best` the epoch whose
    weights the model now has, 0 for the solved head; `stopped` what ended it: "done", "no progress",
    "budget", "interrupted" or "diverged"."""

    unfreeze: str
    trained: Trained
    learning_rate: float
    why: str = ""
    history: list[EpochRecord] = field(default_factory=list)
    planned: int = 0
    best: int = 0
    stopped: str = "done"


def fine_tune(
    model: keras.Model,
    backbone: Backbone,
    unfreeze: str,
    phase: Phase,
    *,
    train: Batches,
    validation: Batches,
    budget: float,
    seed: int = 0,
) -> Fitted:
    """Train what `unfreeze` names, and the head; the model ends with the weights of the best epoch.

    Args:
        model: from `graft`, its head solved. Its weights and flags are changed.
        backbone: the one in `model`.
        unfreeze: the freeze plan; see `first_trained`.
        phase: rates, epochs, patience, augmentation.
        train, validation: pixels.
        budget: seconds it may take; epochs are chosen to fit, and it stops there in any case.
        seed: of dropout; order and augmentation have the seed of `train`.

    An epoch counts only if it beats the solved head on validation: a lower loss and no lower top-1. Of those
    that do, the one with the lowest loss is best: of a few hundred images it says more than accuracy does.
    """
    fitted = Fitted(unfreeze, freeze(backbone, unfreeze), phase.learning_rate)
    joined = cut(model, lambda layer: bool(layer.trainable_variables)).joined()
    _seed_layers(joined, seed)
    clock = _Clock(budget, len(train), phase)
    session = _Session(joined, train, validation, phase, _compile(joined, phase), clock)
    best = _snapshot(joined)
    fitted.history.append(session.record(0, math.nan, time.monotonic()))
    with _interruptible() as session.interrupted:
        while fitted.stopped == "done" and len(fitted.history) <= clock.epochs:
            epoch, begun = len(fitted.history), time.monotonic()
            loss = session.one_epoch(epoch)
            fitted.history.append(session.record(epoch, loss, begun))
            fitted.stopped = session.verdict(fitted)
            if fitted.best == epoch:
                best = _snapshot(joined)
            last = fitted.history[-1]
            say(
                f"Epoch {epoch}/{clock.epochs}: loss {last.loss:.3f}, validation loss {last.val_loss:.3f}, "
                f"top-1 {last.val_score:.3f} ({duration(last.seconds)})"
            )
    for variable, value in zip(joined.trainable_variables, best, strict=True):
        variable.assign(value)
    fitted.planned = clock.epochs
    return fitted


@dataclass
class _Rates:
    """The two optimizers' learning rates at the current step."""

    optimizers: list[tuple[Any, float]]
    head: float = 0.0

    def set(self, rate: float) -> None:
        self.head = rate
        for optimizer, share in self.optimizers:
            optimizer.learning_rate = rate * share


class _Clock:
    """How many epochs there will be, and where in the schedule a step stands."""

    def __init__(self, budget: float, steps: int, phase: Phase) -> None:
        self._end = time.monotonic() + budget
        self._steps = steps
        self._fixed = phase.epochs is not None
        self._warmup = phase.warmup
        self._timed: list[float] = []
        self.epochs = phase.epochs or EPOCHS
        self.step = 0

    def ticked(self, seconds: float) -> None:
        """A step took so long; once a few are known, choose the number of epochs the budget holds."""
        if self.step in TIMED_STEPS and not self._fixed:
            self._timed.append(seconds)
            left = self._end - time.monotonic()
            epoch = float(np.median(self._timed)) * self._steps * 1.15  # validation takes its share
            self.epochs = max(1, min(EPOCHS, int(left / epoch)))
        self.step += 1

    @property
    def over(self) -> bool:
        return time.monotonic() > self._end

    def rate(self, peak: float) -> float:
        """Linear warm-up, then half a cosine down to zero."""
        total = self.epochs * self._steps
        rise = max(1.0, self._warmup * total)
        if self.step < rise:
            return peak * (self.step + 1) / rise
        return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, (self.step - rise) / max(1.0, total - rise))))


@dataclass
class _Session:
    """What every epoch of a phase needs."""

    joined: keras.Model
    train: Batches
    validation: Batches
    phase: Phase
    rates: _Rates
    clock: _Clock
    interrupted: threading.Event = field(default_factory=threading.Event)

    @property
    def cut_short(self) -> bool:
        return self.interrupted.is_set() or self.clock.over

    def one_epoch(self, epoch: int) -> float:
        """Train on every image once; the mean loss, or NaN where it left the finite numbers."""
        total = count = 0.0
        with track(f"Fine-tuning, epoch {epoch}", len(self.train.samples)) as advance:
            for batch in self.train.shuffled(epoch, self.phase.augment):
                if self.cut_short:
                    break
                begun = time.monotonic()
                self.rates.set(self.clock.rate(self.phase.learning_rate))
                loss = float(self.joined.train_on_batch(batch.pixels, batch.labels))
                self.clock.ticked(time.monotonic() - begun)
                if not math.isfinite(loss):
                    return math.nan
                total, count = total + loss * len(batch.labels), count + len(batch.labels)
                advance(len(batch.labels))
        return total / count if count else math.nan

    def record(self, epoch: int, loss: float, begun: float) -> EpochRecord:
        """Look at the validation images and write down how the epoch went."""
        losses, right = [], []
        for batch in self.validation.in_order():
            answer = np.asarray(self.joined.predict_on_batch(batch.pixels), np.float64)
            chosen = answer[np.arange(len(answer)), batch.labels]
            losses.append(-np.log(np.maximum(chosen, 1e-15)))
            right.append(answer.argmax(1) == batch.labels)
        val_loss, val_score = float(np.concatenate(losses).mean()), float(np.concatenate(right).mean())
        return EpochRecord(epoch, loss, val_loss, val_score, self.rates.head, time.monotonic() - begun)

    def verdict(self, fitted: Fitted) -> str:
        """What ends the phase after this epoch, "done" where nothing does; notes the best epoch."""
        last, best = fitted.history[-1], fitted.history[fitted.best]
        if not math.isfinite(last.val_loss) or (math.isnan(last.loss) and not self.cut_short):
            return "diverged"
        if last.val_loss < best.val_loss and last.val_score >= fitted.history[0].val_score:
            fitted.best = last.epoch
        if self.interrupted.is_set():
            return "interrupted"
        if self.clock.over:
            return "budget"
        return "no progress" if last.epoch - fitted.best >= self.phase.patience else "done"


def _compile(joined: keras.Model, phase: Phase) -> _Rates:
    """AdamW twice: the head at the phase's rate, the pre-trained layers at a share of it."""
    head, pretrained = (
        keras.optimizers.AdamW(phase.learning_rate, weight_decay=phase.weight_decay, name=name)
        for name in ("head", "pretrained")
    )
    for optimizer in (head, pretrained):
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    heads = {id(v) for layer in joined.layers for v in _output_variables(layer)}

    def choose(variable: keras.Variable) -> keras.optimizers.Optimizer:
        return head if id(variable) in heads else pretrained

    joined.compile(optimizer=keras.optimizers.MultiOptimizer(choose), loss="sparse_categorical_crossentropy")
    return _Rates([(head, 1.0), (pretrained, phase.backbone_rate)])


def _seed_layers(joined: keras.Model, seed: int) -> None:
    """Start every layer's own random numbers from the seed: by default they depend on what ran before."""
    for number, layer in enumerate(joined._flatten_layers()):
        generator = getattr(layer, "seed_generator", None)
        if generator is not None:
            generator.state.assign(np.array([seed, number], generator.state.dtype))


def _output_variables(layer: keras.layers.Layer) -> list[keras.Variable]:
    inner = [layer, *layer._flatten_layers()]
    return [v for part in inner if part.name == OUTPUT for v in part.trainable_variables]


def _snapshot(joined: keras.Model) -> list[Any]:
    return [keras.ops.convert_to_numpy(variable).copy() for variable in joined.trainable_variables]


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
