"""Run a frozen network over batches of pixels: Keras on a GPU, else OpenVINO, else Keras.

A network's engine, made when it is first needed, and how long it takes for an image on this machine.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.data.augmentation import View
from regraft.data.images.decoder_name import DECODER
from regraft.errors import BackendLimit, brief
from regraft.features.convert import convert
from regraft.features.keras_engine import KerasEngine, Network, accelerator
from regraft.features.openvino import BATCH, OpenVinoEngine, Outputs, Precision, has_bf16
from regraft.features.store import Store
from regraft.system.atomic import new_folder
from regraft.system.backend import backend_name
from regraft.system.console import TERMINAL, Reporter

if TYPE_CHECKING:
    import keras

__all__ = ["Engine", "Speed", "expect_near", "fast_in_bf16", "is_whole", "kept_graph", "make_engine"]


KEPT = "network-4"  # the folder of a converted network; another form of it is another folder
CHECKSUMS = "checksums.json"  # in it
AMPERE = (8, 0)  # NVIDIA's first GPUs that multiply bf16 natively; others have had it for as long
TOLERANCE = 1e-3  # of the largest value: float32 sums in another order, nothing more


class Engine(Protocol):
    """`run` maps uint8 batches of shape (b, size, size, 3), b <= batch, to dictionaries of named float32
    tensors with b rows, one dictionary a batch, in order. `name` is for the keys of what it computes."""

    name: str
    batch: int

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]: ...


def fast_in_bf16(engine: str) -> bool:
    """Whether the engine of this name, one of `engine_name`, computes faster in bf16 than in f32 here."""
    if engine.startswith("openvino"):
        return has_bf16()
    return bool(accelerator()) and _generation() >= AMPERE


def _generation() -> tuple[int, int]:
    """The compute capability of the oldest NVIDIA GPU that TensorFlow sees; `AMPERE` where nobody says."""
    if backend_name() != "tensorflow":
        return AMPERE
    import tensorflow as tf

    seen = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return min((facts.get("compute_capability", AMPERE) for facts in seen), default=AMPERE)


def make_engine(
    network: keras.Model | Network,
    cache: Path,
    *,
    precision: Precision = "f32",
    batch: int = BATCH,
    reporter: Reporter = TERMINAL,
) -> Engine:
    """The fastest engine that can run a network here.

    Args:
        network: RGB pixels (b, size, size, 3) in 0..255 to a dictionary of named tensors.
        cache: folder for the converted network; used again when it is there already. Where it cannot be
            written, the next call converts again.
        precision: what it computes in.
        batch: images that OpenVINO computes at a time; Keras' engine knows its own.

    An OpenVINO network whose f32 outputs differ from Keras' on a first batch is neither used nor kept, nor is
    one whose files are not what was written. What OpenVINO cannot run, and what Keras cannot run in bf16,
    Keras runs in f32. The reporter is told of each.

    Raises:
        BackendLimit: Keras runs on OpenVINO, so nothing else is left that could run this network.
    """
    network = Network.of(network)
    if not network.engine_name().startswith("openvino"):
        return _by_keras(network.model, precision, reporter)
    kept = kept_graph(cache)
    try:
        if not is_whole(kept.parent, reporter):
            return _converted(network.model, kept, precision, batch)
        return OpenVinoEngine(kept, precision=precision, batch=batch)
    except Exception as error:
        if backend_name() == "openvino":
            raise BackendLimit(
                f"Keras' OpenVINO backend cannot run this network ({brief(error)})."
            ) from error
        reporter.info(
            f"OpenVINO cannot run this network ({brief(error, most=160)}): Keras runs it, more slowly."
        )
        return KerasEngine(network.model, reporter=reporter)


def kept_graph(cache: Path) -> Path:
    """Where `make_engine` keeps a network that it has converted."""
    return cache / KEPT / "graph.xml"


def is_whole(folder: Path, reporter: Reporter) -> bool:
    """Return whether the folder of `kept_graph` is as it was written; remove and report a damaged one."""
    if not folder.is_dir():
        return False
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / CHECKSUMS).read_text("utf-8")) == _checksums(folder):
            return True
    reporter.info(f"The converted network in {folder} is damaged; it is converted again.")
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _checksums(folder: Path) -> dict[str, int]:
    """Of every file in a folder but the one that holds them."""
    return {path.name: zlib.crc32(path.read_bytes()) for path in folder.iterdir() if path.name != CHECKSUMS}


def _converted(network: keras.Model, kept: Path, precision: Precision, batch: int) -> Engine:
    """Convert a network; its files are kept, all or none, only once it agrees with Keras."""
    with new_folder(_writable(kept.parents[1]), ".writing-") as folder:
        fresh = folder / KEPT / kept.name
        fresh.parent.mkdir()
        convert(network, fresh)
        if backend_name() != "openvino":  # there Keras would compare a graph with itself
            _expect_agreement(network, OpenVinoEngine(fresh))
        engine = OpenVinoEngine(fresh, precision=precision, batch=batch)
        with contextlib.suppress(OSError):
            (fresh.parent / CHECKSUMS).write_text(json.dumps(_checksums(fresh.parent)), "utf-8")
            fresh.parent.rename(kept.parent)
    return engine


def _by_keras(network: keras.Model, precision: Precision, reporter: Reporter) -> Engine:
    try:
        return KerasEngine(network, precision, reporter)
    except Exception as error:
        if precision == "f32":
            raise
        reporter.info(
            f"This network cannot be computed in {precision} ({brief(error, most=160)}): f32 is used."
        )
        return KerasEngine(network, reporter=reporter)


def _writable(folder: Path) -> Path:
    """The folder, made where necessary; the system's temporary one, where it cannot be written."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def _expect_agreement(network: keras.Model, engine: Engine) -> None:
    """Run a network and an engine of it on the same two images.

    Raises:
        ValueError: an output is left out, or is further off than float32 sums in another order.
    """
    import keras

    pixels = np.random.default_rng(0).integers(0, 256, (2, *network.inputs[0].shape[1:])).astype(np.uint8)
    expected = network(pixels.astype(np.float32), training=False)
    (outputs,) = engine.run([pixels])
    for name, value in expected.items():
        if name not in outputs:
            raise ValueError(f"it leaves out {name}")
        expect_near(outputs[name], keras.ops.convert_to_numpy(value), f"its {name} is")


def expect_near(received: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    """Compare numbers with Keras'.

    Raises:
        ValueError: they are further off than float32 sums in another order; it begins with `what`.
    """
    error = float(np.abs(received - expected).max())
    if not error <= TOLERANCE * max(float(np.abs(expected).max()), 1e-6):
        raise ValueError(f"{what} {error:.1g} from Keras'")


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
