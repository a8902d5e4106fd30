"""A network's engine, made when it is first needed, and how long it takes for an image on this machine."""

from __future__ import annotations

import math
import time
from functools import cached_property
from pathlib import Path

import keras
import numpy as np

from regraft.features.engine import Engine, engine_name, kept_graph, make_engine
from regraft.features.openvino import BATCH, OpenVinoEngine, Precision
from regraft.features.store import Store

__all__ = ["Speed"]

WORTH = 10.0  # seconds of work from which trying another batch pays for compiling once more
IMAGES = 32  # black ones that a measurement takes, at least


class Speed:
    """The engine of a network and its pace.

    Args:
        network: what the engine runs.
        store: where compiled networks and measured times are kept.
        name: the network's fingerprint.
        precision: what it computes in.
    """

    def __init__(self, network: keras.Model, store: Store, name: str, precision: Precision = "f32") -> None:
        self._network = network
        self._store = store
        self.name = name
        self.precision = precision

    def at(self, precision: Precision) -> Speed:
        """The same network in another precision."""
        same = precision == self.precision
        return self if same else Speed(self._network, self._store, self.name, precision)

    @cached_property
    def engine(self) -> Engine:
        """Compiled at the first use, for the batch that was the fastest when that was measured."""
        known = self._store.recall(self._question("images at a time"))
        return self._made(int(known) if known and known.isdecimal() else BATCH)

    @property
    def graph(self) -> Path | None:
        """The network as OpenVINO's file, where the store keeps one."""
        kept = kept_graph(self._folder)
        return kept if kept.is_file() else None

    def release(self) -> None:
        """Let go of the engine: a compiled network holds hundreds of megabytes."""
        self.__dict__.pop("engine", None)

    @cached_property
    def seconds_per_image(self) -> float:
        """Measured once on this machine and remembered; a few batches of black images."""
        question = self._question("seconds an image")
        try:
            return float(self._store.recall(question) or "")
        except ValueError:
            pass
        measured = self._seconds(self.engine)
        self._store.remember(question, repr(measured))
        return measured

    def tune(self, images: int) -> None:
        """Before much work: one image at a time, or several? Measured once on this machine and remembered.

        Small batches stay in the processor's cache, large ones read the weights less often. The results are
        the same bits. Keras' engine has one batch, that of its device.
        """
        question = self._question("images at a time")
        if images * self.seconds_per_image < WORTH or self._store.recall(question):
            return
        if not isinstance(self.engine, OpenVinoEngine):
            return
        engines = [self.engine, self._made(1)]
        # In turn, and the best of each: other work on the machine must not choose.
        seconds = [min(times) for times in zip(*[map(self._seconds, engines) for _ in range(3)], strict=True)]
        self.engine = engines[int(np.argmin(seconds))]
        self._store.remember(question, str(self.engine.batch))

    def _made(self, batch: int) -> Engine:
        return make_engine(self._network, self._folder, precision=self.precision, batch=batch)

    @property
    def _folder(self) -> Path:
        return self._store.folder("engines", self.name)

    def _question(self, what: str) -> str:
        return f"{what}: {engine_name(self.precision)} through {self.name}"

    def _seconds(self, engine: Engine) -> float:
        size = self._network.inputs[0].shape[1:]
        black = [np.zeros((engine.batch, *size), np.uint8)] * math.ceil(IMAGES / engine.batch)
        list(engine.run(black[:1]))
        begun = time.monotonic()
        list(engine.run(black))
        return (time.monotonic() - begun) / (len(black) * engine.batch)
