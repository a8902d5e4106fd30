"""Engines that run a frozen network over batches of pixels: Keras on a GPU, else OpenVINO, else Keras.

`make_engine` makes one; `EngineRunner` makes that of one network when it is first needed, and knows its pace.
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
from regraft.data.images.decoder_name import name_decoder
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.errors import BackendLimit, shorten_error
from regraft.features.convert import convert
from regraft.features.keras_engine import KerasEngine, Network, find_accelerator
from regraft.features.openvino import BATCH, OpenVinoEngine, Outputs, Precision, has_bf16
from regraft.features.store import Store
from regraft.system.backend import get_backend_name
from regraft.system.console import TERMINAL, Reporter
from regraft.system.files import make_temporary_folder

if TYPE_CHECKING:
    import keras

__all__ = [
    "Engine",
    "EngineRunner",
    "expect_near",
    "graph_path",
    "is_fast_in_bf16",
    "is_intact",
    "make_engine",
]

CONVERTED = "network-4"  # the folder of a converted network; another file format gets another folder
CHECKSUMS = "checksums.json"  # in that folder
PACE = "seconds an image"  # the store's hint
AMPERE = (8, 0)  # the first NVIDIA GPUs that multiply bf16 natively
TOLERANCE = 1e-3  # of the largest value: float32 sums in another order differ by less
WORTH_TUNING = 30.0  # seconds of work from which compiling for another batch size, 10 % faster at most, pays
IMAGES = 32  # black images that a measurement takes, at least
ENOUGH_SECONDS = 0.5  # of an extraction, from which its pace counts
IDLE_SHARE = 0.2  # of an extraction in which the engine may wait for images and still sets the pace


class Engine(Protocol):
    """A frozen network, ready to run.

    `run` maps batches of RGB pixels, uint8 of shape (b, size, size, 3) with b <= `batch`, to dictionaries of
    named float32 arrays with b rows, in order. `name` stands for the engine in the store's keys.
    """

    name: str
    batch: int

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]: ...


class EngineRunner:
    """The engine of a network, made when it is first needed, and its pace on this machine.

    Args:
        network: what the engine runs.
        store: where converted networks and measured times are kept.
        precision: what the engine computes in.
    """

    def __init__(self, network: keras.Model | Network, store: Store, *, precision: Precision = "f32") -> None:
        self.network = Network.from_model(network)
        self._store = store
        self.precision = precision

    def with_precision(self, precision: Precision) -> EngineRunner:
        """Return a runner of the same network in this precision."""
        same = precision == self.precision
        return self if same else EngineRunner(self.network, self._store, precision=precision)

    @property
    def engine_name(self) -> str:
        """The name of the engine that is tried first."""
        return self.network.engine_name(self.precision)

    def feature_key(self, view: View, engine: str | None = None, *, depth: int = FULL_DEPTH) -> str:
        """Return the store's key of what an engine of this name computes from a view of an image.

        `depth` is how many bits of 16-bit samples are used.
        """
        size, name, decoder = self.network.size, self.network.fingerprint, name_decoder(depth)
        return f"prefix {name}\n{decoder}\nsize {size}\nengine {engine or self.engine_name}\n{view.key}"

    @cached_property
    def engine(self) -> Engine:
        """The engine, compiled at first use for the batch size that `tune` found to be the fastest."""
        batch = self._store.recall(self._hint_question("images at a time"))
        return self._make_engine(int(batch) if batch and batch.isdecimal() else BATCH)

    @property
    def graph(self) -> Path | None:
        """The network's OpenVINO file, if the store has one."""
        path = graph_path(self._folder)
        return path if path.is_file() else None

    def release(self) -> None:
        """Drop the engine: a compiled network holds hundreds of megabytes."""
        self.__dict__.pop("engine", None)

    @cached_property
    def seconds_per_image(self) -> float:
        """The seconds an image takes on this machine: what `correct_pace` remembers of extractions.

        Before the first of them it is measured with black images.
        """
        with contextlib.suppress(ValueError):
            return float(self._store.recall(self._hint_question(PACE)) or "")
        seconds = self._measure_seconds(self.engine)
        self._store.remember(self._hint_question(PACE), repr(seconds))
        return seconds

    def correct_pace(self, images: int, *, seconds: float, waited: float) -> None:
        """Correct the remembered pace by what an extraction took: a measurement may have met a busy machine.

        Where images came in time, half of the change, on a logarithmic scale, is taken over: this machine may
        be busy now. Where the engine waited for them, all that is known is that it is at least as fast.

        Args:
            images: how many the engine computed.
            seconds: what that took.
            waited: seconds of these in which the next images were not decoded yet.
        """
        if images < IMAGES or seconds < ENOUGH_SECONDS:
            return
        before, now = self.seconds_per_image, seconds / images
        is_decoding_slower = waited > IDLE_SHARE * seconds
        pace = min(before, now) if is_decoding_slower else math.sqrt(before * now)
        if pace != before:
            self.seconds_per_image = pace
            self._store.remember(self._hint_question(PACE), repr(pace))

    def tune(self, images: int) -> None:
        """Choose between batches of one image and of several, before much work; the choice is remembered.

        Small batches stay in the processor's cache, large ones read the weights less often. The results are
        bit-identical. Keras' engine has the one batch size of its device.
        """
        question = self._hint_question("images at a time")
        if images * self.seconds_per_image < WORTH_TUNING or self._store.recall(question):
            return
        if not isinstance(self.engine, OpenVinoEngine):
            return
        engines = [self.engine, self._make_engine(1)]
        # Alternate, and take the best of each: other work on the machine must not decide.
        rounds = [[self._measure_seconds(engine) for engine in engines] for _ in range(3)]
        self.engine = engines[int(np.min(rounds, axis=0).argmin())]
        self._store.remember(question, str(self.engine.batch))

    def _make_engine(self, batch: int) -> Engine:
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

    def _hint_question(self, figure: str) -> str:
        return f"{figure}: {self.engine_name} through {self.network.fingerprint}"

    def _measure_seconds(self, engine: Engine) -> float:
        size = self.network.size
        black = [np.zeros((engine.batch, size, size, 3), np.uint8)] * math.ceil(IMAGES / engine.batch)
        list(engine.run(black[:1]))
        start = time.monotonic()
        list(engine.run(black))
        return (time.monotonic() - start) / (len(black) * engine.batch)


# --- make an engine


def make_engine(
    network: keras.Model | Network,
    cache: Path,
    *,
    precision: Precision = "f32",
    batch: int = BATCH,
    reporter: Reporter = TERMINAL,
) -> Engine:
    """Make the fastest engine that can run a network on this machine.

    An OpenVINO network is used and kept only if its f32 outputs agree with Keras' on a first batch, and used
    again only if its files are as they were written. Keras runs in f32 what OpenVINO cannot run, and what
    Keras itself cannot run in bf16. The reporter is told of each of these.

    Args:
        network: RGB pixels (b, size, size, 3) in 0..255 -> dictionary of named tensors.
        cache: folder for the converted network, which later calls use again. If it cannot be written, the
            next call converts again.
        precision: what the engine computes in.
        batch: images that OpenVINO computes at a time; Keras' engine chooses its own number.

    Raises:
        BackendLimit: Keras runs on OpenVINO and that cannot run this network, so nothing else is left.
    """
    network = Network.from_model(network)
    if not network.engine_name().startswith("openvino"):
        return _make_keras_engine(network.model, precision, reporter)
    graph = graph_path(cache)
    try:
        if not is_intact(graph.parent, reporter):
            return _convert_and_check(network.model, graph, precision=precision, batch=batch)
        return OpenVinoEngine(graph, precision=precision, batch=batch)
    except Exception as error:
        if get_backend_name() == "openvino":
            raise BackendLimit(
                f"Keras' OpenVINO backend cannot run this network ({shorten_error(error)})."
            ) from error
        reporter.info(
            f"OpenVINO cannot run this network ({shorten_error(error, most=160)}): "
            "Keras runs it, more slowly."
        )
        return KerasEngine(network.model, reporter=reporter)


def graph_path(cache: Path) -> Path:
    """Return the path at which `make_engine` keeps a converted network."""
    return cache / CONVERTED / "graph.xml"


def is_intact(folder: Path, reporter: Reporter) -> bool:
    """Return whether the folder of `graph_path` is as it was written; remove and report a damaged one."""
    if not folder.is_dir():
        return False
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / CHECKSUMS).read_text("utf-8")) == _compute_checksums(folder):
            return True
    reporter.info(f"The converted network in {folder} is damaged; it is converted again.")
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _compute_checksums(folder: Path) -> dict[str, int]:
    """Return the CRC-32 of every file in a folder, by name, without the file of checksums."""
    return {path.name: zlib.crc32(path.read_bytes()) for path in folder.iterdir() if path.name != CHECKSUMS}


def _convert_and_check(network: keras.Model, graph: Path, *, precision: Precision, batch: int) -> Engine:
    """Convert a network; keep its files, all or none, once it agrees with Keras."""
    with make_temporary_folder(_choose_writable(graph.parents[1]), ".writing-") as folder:
        fresh = folder / CONVERTED / graph.name
        fresh.parent.mkdir()
        convert(network, fresh)
        if get_backend_name() != "openvino":  # there Keras would compare a graph with itself
            _expect_agreement(network, OpenVinoEngine(fresh))
        engine = OpenVinoEngine(fresh, precision=precision, batch=batch)
        with contextlib.suppress(OSError):
            (fresh.parent / CHECKSUMS).write_text(json.dumps(_compute_checksums(fresh.parent)), "utf-8")
            fresh.parent.rename(graph.parent)
    return engine


def _choose_writable(folder: Path) -> Path:
    """Return the folder, made if necessary, or the system's temporary folder if it cannot be written."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def _make_keras_engine(network: keras.Model, precision: Precision, reporter: Reporter) -> Engine:
    try:
        return KerasEngine(network, precision, reporter)
    except Exception as error:
        if precision == "f32":
            raise
        reporter.info(
            f"This network cannot be computed in {precision} ({shorten_error(error, most=160)}): f32 is used."
        )
        return KerasEngine(network, reporter=reporter)


def _expect_agreement(network: keras.Model, engine: Engine) -> None:
    """Compare a network with its engine on two random images.

    Raises:
        ValueError: the engine lacks an output, or one differs by more than float32 sums in another order.
    """
    import keras

    pixels = np.random.default_rng(0).integers(0, 256, (2, *network.inputs[0].shape[1:])).astype(np.uint8)
    expected = network(pixels.astype(np.float32), training=False)
    (outputs,) = engine.run([pixels])
    for name, value in expected.items():
        if name not in outputs:
            raise ValueError(f"it leaves out {name}")
        expect_near(outputs[name], keras.ops.convert_to_numpy(value), f"its {name} is")


def expect_near(received: NDArray[Any], expected: NDArray[Any], subject: str) -> None:
    """Compare numbers with Keras'.

    Raises:
        ValueError: they differ by more than float32 sums in another order; its text begins with `subject`.
    """
    error = float(np.abs(received - expected).max())
    if not error <= TOLERANCE * max(float(np.abs(expected).max()), 1e-6):
        raise ValueError(f"{subject} {error:.1g} from Keras'")


# --- is bf16 faster?


def is_fast_in_bf16(engine: str) -> bool:
    """Return whether an engine, named as by `engine_name`, is faster in bf16 than in f32 on this machine."""
    if engine.startswith("openvino"):
        return has_bf16()
    return bool(find_accelerator()) and _get_compute_capability() >= AMPERE


def _get_compute_capability() -> tuple[int, int]:
    """Return that of the oldest NVIDIA GPU that TensorFlow sees, or `AMPERE` if it is not known."""
    if get_backend_name() != "tensorflow":
        return AMPERE
    import tensorflow as tf

    devices = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return min((details.get("compute_capability", AMPERE) for details in devices), default=AMPERE)
