"""Runs a frozen network over batches of pixels: Keras on a GPU, OpenVINO on the processor, else Keras there.

One of the few modules that know a backend: OpenVINO reads TensorFlow's graph. The weights are written into
that graph as constants (a stateless scope puts them in the variables' place), so OpenVINO's own reader
parses it in a fraction of the time that tracing variables one by one takes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from regraft.beside import new_folder, sweep
from regraft.console import say
from regraft.errors import brief
from regraft.features.device import KerasEngine, accelerator
from regraft.features.network import Network
from regraft.features.openvino import BATCH, OpenVinoEngine, Outputs, Precision, has_bf16, rewrite

if TYPE_CHECKING:
    import keras

__all__ = [
    "Engine",
    "expect_agreement",
    "expect_near",
    "fast_in_bf16",
    "frozen_graph",
    "is_whole",
    "kept_graph",
    "make_engine",
]

KEPT = "network-2"  # the folder of a converted network; another form of it is another folder
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
    import keras

    if keras.backend.backend() != "tensorflow":
        return AMPERE
    import tensorflow as tf

    seen = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return min((facts.get("compute_capability", AMPERE) for facts in seen), default=AMPERE)


def make_engine(
    network: keras.Model | Network, cache: Path, *, precision: Precision = "f32", batch: int = BATCH
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
    Keras runs in f32. All of that is said.
    """
    network = Network.of(network)
    if not network.engine_name().startswith("openvino"):
        return _by_keras(network.model, precision)
    kept = kept_graph(cache)
    try:
        if not is_whole(kept.parent):
            return _converted(network.model, kept, precision, batch)
        return OpenVinoEngine(kept, precision=precision, batch=batch)
    except Exception as error:
        say(f"OpenVINO cannot run this network ({brief(error, most=160)}): Keras runs it, more slowly.")
        return KerasEngine(network.model)


def kept_graph(cache: Path) -> Path:
    """Where `make_engine` keeps a network that it has converted."""
    return cache / KEPT / "graph.xml"


def is_whole(folder: Path) -> bool:
    """Whether the folder of `kept_graph` is there as it was written. A damaged one goes, and that is said."""
    if not folder.is_dir():
        return False
    with contextlib.suppress(OSError, ValueError):
        if json.loads((folder / CHECKSUMS).read_text("utf-8")) == _checksums(folder):
            return True
    say(f"The converted network in {folder} is damaged; it is converted again.")
    shutil.rmtree(folder, ignore_errors=True)
    return False


def _checksums(folder: Path) -> dict[str, int]:
    """Of every file in a folder but the one that holds them."""
    return {path.name: zlib.crc32(path.read_bytes()) for path in folder.iterdir() if path.name != CHECKSUMS}


def _converted(network: keras.Model, kept: Path, precision: Precision, batch: int) -> Engine:
    """The network in OpenVINO; its files are kept, all or none, only once it agrees with Keras."""
    sweep(kept.parents[1], ".writing-")
    with new_folder(_writable(kept.parents[1]), ".writing-") as folder:
        traced, fresh = folder / "traced.pb", folder / KEPT / kept.name
        traced.write_bytes(frozen_graph(network))
        rewrite(traced, fresh)
        engine = OpenVinoEngine(fresh)
        size = network.inputs[0].shape[1:]
        pixels = np.random.default_rng(0).integers(0, 256, (2, *size)).astype(np.uint8)
        expect_agreement(network, pixels, engine)
        if (precision, batch) != ("f32", BATCH):
            engine = OpenVinoEngine(fresh, precision=precision, batch=batch)
        with contextlib.suppress(OSError):
            (fresh.parent / CHECKSUMS).write_text(json.dumps(_checksums(fresh.parent)), "utf-8")
            fresh.parent.rename(kept.parent)
    return engine


def _by_keras(network: keras.Model, precision: Precision) -> Engine:
    try:
        return KerasEngine(network, precision)
    except Exception as error:
        if precision == "f32":
            raise
        say(f"This network cannot be computed in {precision} ({brief(error, most=160)}): f32 is used.")
        return KerasEngine(network)


def frozen_graph(network: keras.Model) -> bytes:
    """The network as a TensorFlow graph whose weights are constants, which OpenVINO reads natively.

    Args:
        network: pixels, or other tensors, to a dictionary of named tensors. The batch stays free. Inputs are
            called `in_0`, `in_1` and so on, outputs their name with `out_` in front.
    """
    import keras
    import tensorflow as tf

    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in network.variables]

    def constant(*given: Any) -> Any:
        mapping = [(variable, tf.constant(value)) for variable, value in values]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = network(given if len(given) > 1 else given[0], training=False)
        return [tf.identity(value, name=f"out_{name}") for name, value in outputs.items()]

    signature = [
        tf.TensorSpec([None, *tensor.shape[1:]], tensor.dtype, name=f"in_{number}")
        for number, tensor in enumerate(network.inputs)
    ]
    traced = tf.function(constant, autograph=False).get_concrete_function(*signature)
    if any(value.dtype == tf.resource for value in traced.captured_inputs):
        # A SavedModel reads its own variables, not those of the scope.
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        traced = convert_variables_to_constants_v2(traced)
    graph = traced.graph.as_graph_def()
    nodes = {node.name: node for node in graph.node}
    for value, inside in traced.graph.captures:  # tensors that layers hold, such as a mean to subtract
        node = nodes[inside.op.name]
        node.op = "Const"
        node.attr.clear()
        node.attr["dtype"].type = value.dtype.as_datatype_enum
        node.attr["value"].tensor.CopyFrom(tf.make_tensor_proto(value))
    serialized: bytes = graph.SerializeToString()
    return serialized


def _writable(folder: Path) -> Path:
    """The folder, made where necessary; the system's temporary one, where it cannot be written."""
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK) else Path(tempfile.gettempdir())


def expect_agreement(network: keras.Model, pixels: NDArray[np.uint8], *engines: Engine) -> None:
    """Run a network and engines of it on the same pixels.

    Args:
        network: pixels to a dictionary of named tensors.
        pixels: uint8 of shape (n, size, size, 3); Keras takes all of them at once.
        engines: made from the network.

    Raises:
        ValueError: one leaves out an output, or is further off than float32 sums in another order.
    """
    import keras

    expected = network(pixels.astype(np.float32), training=False)
    for engine in engines:
        batches = (pixels[at : at + engine.batch] for at in range(0, len(pixels), engine.batch))
        outputs = list(engine.run(batches))
        for name, value in expected.items():
            if name not in outputs[0]:
                raise ValueError(f"it leaves out {name}")
            received = np.concatenate([output[name] for output in outputs])
            expect_near(received, keras.ops.convert_to_numpy(value), f"its {name} is")


def expect_near(received: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    """Compare numbers with Keras'.

    Raises:
        ValueError: they are further off than float32 sums in another order; it begins with `what`.
    """
    error = float(np.abs(received - expected).max())
    if not error <= TOLERANCE * max(float(np.abs(expected).max()), 1e-6):
        raise ValueError(f"{what} {error:.1g} from Keras'")
