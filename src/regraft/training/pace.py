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
ROUNDS = 5  # of which the fastest counts: it is remembered, so what else ran just then must not
COMPILING = (
    18  # times what tracing a forward pass takes: forward, backward and update, and the engine's graph
)


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
        self._work = max(1, work(nodes_of(model)))

    def of(self, plan: str) -> Pace:
        """Return the pace of a plan: as it was when it last ran, else as a forward pass tells it."""
        engine = self._features.seconds_per_image / self._work
        forward, traced = self._recall("forward"), self._recall("tracing")
        if forward is None or traced is None:
            forward, traced = self._measure()
        return Pace(engine, self._recall(plan) or forward, COMPILING * traced)

    def learn(self, plan: str, placed: Placed, seconds: float) -> None:
        """Remember what an epoch of a plan took."""
        self._remember(plan, seconds / max(1, placed.epoch))

    def _remember(self, what: str, value: float) -> None:
        self._store.remember(self._question(what), repr(value))

    def _recall(self, what: str) -> float | None:
        try:
            return float(self._store.recall(self._question(what)) or "")
        except ValueError:
            return None

    def _measure(self) -> tuple[float, float]:
        """Time the first forward pass, which traces, and others; seconds of a unit, and of tracing."""
        size = self._model.inputs[0].shape[1:]
        black, seconds = np.zeros((IMAGES, *size), np.float32), []
        for _ in range(ROUNDS + 1):
            begun = time.monotonic()
            self._model.predict_on_batch(black)
            seconds.append(time.monotonic() - begun)
        usual = min(seconds[1:])
        forward, traced = usual / IMAGES / (FORWARD * self._work), max(0.0, seconds[0] - usual)
        self._remember("forward", forward)
        self._remember("tracing", traced)
        return forward, traced

    def _question(self, what: str) -> str:
        backend = keras.backend.backend()
        return f"seconds a unit of training: {what}, {backend} through {self._features.fingerprint}"
