"""How long training takes on this machine: a forward pass of Keras, timed once, and what phases took.

The engine that runs what is frozen may compute in bf16, or on another device: its pace says nothing of that
of Keras. Both are hints of the store. They choose a plan within a budget, and are shown; where a network is
cut does not depend on them.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import keras
import numpy as np

from regraft.backbone.cost import nodes_of, work
from regraft.features.boundary import FORWARD, Placed
from regraft.features.extract import Features
from regraft.features.store import Store

__all__ = ["Pace", "TrainingPace"]

IMAGES = 8  # black ones in a forward pass
ROUNDS = 5  # of which the fastest counts: other work on the machine is not the network's
CALL = 0.08  # seconds to trace and compile one call of a layer, by either


@dataclass(frozen=True)
class Pace:
    """Seconds that things take.

    Attributes:
        engine, training: a unit of cost (see `backbone.cost`), in the engine and in Keras.
        compiling: what is frozen for the engine, what trains for Keras.
    """

    engine: float
    training: float
    compiling: float

    def once(self, placed: Placed) -> float:
        """Estimate the seconds before the first epoch: the engine's pass, and compiling."""
        return placed.once * self.engine + self.compiling

    def epoch(self, placed: Placed) -> float:
        """Estimate the seconds of an epoch."""
        return max(placed.epoch * self.training, 1e-9)


class TrainingPace:
    """The pace of one network in this run.

    Args:
        model: from `graft`.
        features: of its frozen backbone; they know how fast the engine is.
        store: where measured times are remembered.
    """

    def __init__(self, model: keras.Model, features: Features, store: Store) -> None:
        self._model, self._features, self._store = model, features, store
        self._nodes = nodes_of(model)
        self._work = max(1, work(self._nodes))

    def of(self, plan: str) -> Pace:
        """Return the pace of a plan: as it was when it last ran, else as a forward pass tells it."""
        engine = self._features.seconds_per_image / self._work
        training = self._recall(plan) or self._recall("forward") or self._measure()
        return Pace(engine, training, CALL * len(self._nodes))

    def learn(self, plan: str, placed: Placed, seconds: float) -> None:
        """Remember what an epoch of a plan took."""
        self._store.remember(self._question(plan), repr(seconds / max(1, placed.epoch)))

    def _recall(self, what: str) -> float | None:
        try:
            return float(self._store.recall(self._question(what)) or "")
        except ValueError:
            return None

    def _measure(self) -> float:
        size = self._model.inputs[0].shape[1:]
        black, seconds = np.zeros((IMAGES, *size), np.float32), []
        for _ in range(ROUNDS + 1):  # the first one compiles
            begun = time.monotonic()
            self._model.predict_on_batch(black)
            seconds.append(time.monotonic() - begun)
        measured = min(seconds[1:]) / IMAGES / (FORWARD * self._work)
        self._store.remember(self._question("forward"), repr(measured))
        return measured

    def _question(self, what: str) -> str:
        backend = keras.backend.backend()
        return f"seconds a unit of training: {what}, {backend} through {self._features.fingerprint}"
