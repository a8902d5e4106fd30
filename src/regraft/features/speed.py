"""A network's engine, made when it is first needed, and how long it takes for an image on this machine."""

from __future__ import annotations

import time
from functools import cached_property

import keras
import numpy as np

from regraft.features.engine import Engine, engine_name, make_engine
from regraft.features.openvino import BATCH
from regraft.features.store import Store

__all__ = ["Speed"]


class Speed:
    """The engine of a network and its pace.

    Args:
        network: what the engine runs.
        store: where compiled networks and measured times are kept.
        name: the network's fingerprint.
    """

    def __init__(self, network: keras.Model, store: Store, name: str) -> None:
        self._network = network
        self._store = store
        self._name = name

    @cached_property
    def engine(self) -> Engine:
        """Compiled at the first use."""
        return make_engine(self._network, self._store.folder("engines", self._name))

    def release(self) -> None:
        """Let go of the engine: a compiled network holds hundreds of megabytes."""
        self.__dict__.pop("engine", None)

    @cached_property
    def seconds_per_image(self) -> float:
        """Measured once on this machine and remembered; a few batches of black images."""
        question = f"seconds an image takes {engine_name()} through {self._name}"
        try:
            return float(self._store.recall(question) or "")
        except ValueError:
            pass
        black = [np.zeros((BATCH, *self._network.inputs[0].shape[1:]), np.uint8)] * 4
        list(self.engine.run(black[:1]))
        begun = time.monotonic()
        list(self.engine.run(black))
        measured = (time.monotonic() - begun) / (BATCH * len(black))
        self._store.remember(question, repr(measured))
        return measured
