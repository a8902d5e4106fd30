"""A network's engine, made when it is first needed, and how long it takes for an image on this machine."""

from __future__ import annotations

import math
import time
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from regraft.data.augment import View
from regraft.data.decoder import DECODER
from regraft.features.engine import Engine, kept_graph, make_engine
from regraft.features.network import Network
from regraft.features.openvino import BATCH, OpenVinoEngine, Precision
from regraft.features.store import Store

if TYPE_CHECKING:
    import keras

__all__ = ["Speed"]

WORTH = 30.0  # seconds of work from which trying another batch, a tenth faster at most, pays for compiling
IMAGES = 32  # black ones that a measurement takes, at least


class Speed:
    """The engine of a network and its pace.

    Args:
        network: what the engine runs.
        store: where compiled networks and measured times are kept.
        precision: what it computes in.
    """

    def __init__(self, network: keras.Model | Network, store: Store, precision: Precision = "f32") -> None:
        self.network = Network.of(network)
        self._store = store
        self.precision = precision

    def at(self, precision: Precision) -> Speed:
        """The same network in another precision."""
        same = precision == self.precision
        return self if same else Speed(self.network, self._store, precision)

    @property
    def engine_name(self) -> str:
        """The engine and precision that are tried first."""
        return self.network.engine_name(self.precision)

    def feature_key(self, view: View, engine: str | None = None) -> str:
        """Return the store's key of what an engine of this name computes from a view of an image."""
        size, name = self.network.size, self.network.fingerprint
        return f"prefix {name}\n{DECODER}\nsize {size}\nengine {engine or self.engine_name}\n{view.key}"

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
        return make_engine(
            self.network,
            self._folder,
            precision=self.precision,
            batch=batch,
            reporter=self._store.reporter,
        )

    @property
    def _folder(self) -> Path:
        return self._store.folder("engines", self.network.fingerprint)

    def _question(self, what: str) -> str:
        return f"{what}: {self.engine_name} through {self.network.fingerprint}"

    def _seconds(self, engine: Engine) -> float:
        size = self.network.size
        black = [np.zeros((engine.batch, size, size, 3), np.uint8)] * math.ceil(IMAGES / engine.batch)
        list(engine.run(black[:1]))
        begun = time.monotonic()
        list(engine.run(black))
        return (time.monotonic() - begun) / (len(black) * engine.batch)
