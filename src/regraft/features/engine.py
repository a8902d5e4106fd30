"""Runs a frozen network over batches of pixels: OpenVINO on the CPU, Keras everywhere else.

One of the few modules that know a backend: OpenVINO reads TensorFlow's graph. The weights are written into
that graph as constants (a stateless scope puts them in the variables' place), so OpenVINO's own reader
parses it in a fraction of the time that tracing variables one by one takes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.console import say

__all__ = ["Engine", "KerasEngine", "OpenVinoEngine", "engine_name", "fingerprint", "make_engine"]

BATCH = 8
TOLERANCE = 1e-3  # of the largest value: float32 sums in another order, nothing more

Outputs = dict[str, NDArray[np.float32]]


class Engine(Protocol):
    """`run` maps uint8 batches of shape (b, size, size, 3), b <= BATCH, to dictionaries of named float32
    tensors with b rows, one dictionary a batch, in order."""

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]: ...


def engine_name() -> str:
    """The engine and precision that `make_engine` tries first, for the keys of what it computes."""
    if keras.backend.backend() == "tensorflow":
        try:
            return f"openvino {importlib.metadata.version('openvino')} f32"
        except importlib.metadata.PackageNotFoundError:
            pass
    return f"keras {keras.__version__} {keras.backend.backend()} f32"


def fingerprint(network: keras.Model) -> str:
    """A name for what a network computes: its graph, without the layers' names, and its weights."""
    mix = hashlib.blake2b(digest_size=16)
    place = {layer.name: f"#{number}" for number, layer in enumerate(network.operations)}
    config = json.dumps(_nameless(network.get_config(), place), sort_keys=True, default=str)
    mix.update(config.encode())
    for variable in network.variables:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(variable))
        mix.update(str(value.shape).encode() + value.tobytes())
    return mix.hexdigest()


def _nameless(config: Any, place: dict[str, str]) -> Any:
    """A configuration with every layer's name replaced by its place: names are numbered by a counter of the
    process, and the same network must have the same fingerprint in each."""
    if isinstance(config, dict):
        return {
            key: "" if key == "name" and value not in place else _nameless(value, place)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [_nameless(item, place) for item in config]
    return place.get(config, config) if isinstance(config, str) else config


def make_engine(network: keras.Model, cache: Path) -> Engine:
    """The fastest engine that can run a network here.

    Args:
        network: RGB pixels (b, size, size, 3) in 0..255 to a dictionary of named tensors.
        cache: folder for the converted network; used again when it is there already.

    An OpenVINO network whose outputs differ from Keras' on a first batch is not used, and that is said.
    """
    if not engine_name().startswith("openvino"):
        return KerasEngine(network)
    try:
        graph = cache / "network.pb"
        fresh = not graph.exists()
        if fresh:
            graph = _convert(network, cache)
        engine = OpenVinoEngine(graph)
        if fresh:
            _check_against_keras(engine, network)
    except Exception as error:
        say(f"OpenVINO cannot run this network ({_brief(error)}): Keras runs it instead, more slowly.")
        return KerasEngine(network)
    return engine


class KerasEngine:
    """Keras' own `predict`, on whatever device its backend uses."""

    def __init__(self, network: keras.Model) -> None:
        self._network = network

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        for batch in batches:
            padded = _padded(batch).astype(np.float32)
            outputs = self._network.predict_on_batch(padded)
            yield {name: np.asarray(value, np.float32)[: len(batch)] for name, value in outputs.items()}


class OpenVinoEngine:
    """A network compiled by OpenVINO with static shapes; two batches are under way at any time."""

    def __init__(self, graph: Path) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(graph)
        prepare = openvino.preprocess.PrePostProcessor(model)
        prepare.input().tensor().set_element_type(openvino.Type.u8)
        model = prepare.build()
        # Without a hint OpenVINO picks bf16 where the processor has it: the precision is part of the keys.
        hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "THROUGHPUT"}
        self._compiled = core.compile_model(model, "CPU", hints)
        self._names = [_output_name(output) for output in self._compiled.outputs]
        count = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [self._compiled.create_infer_request() for _ in range(count)]

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        waiting: list[tuple[Any, int]] = []
        free = list(self._requests)
        for batch in batches:
            if not free:
                yield self._finish(*(done := waiting.pop(0)))
                free.append(done[0])
            request = free.pop()
            request.start_async({0: _padded(batch)}, share_inputs=False)
            waiting.append((request, len(batch)))
        for request, rows in waiting:
            yield self._finish(request, rows)

    def _finish(self, request: Any, rows: int) -> Outputs:
        request.wait()
        return {
            name: request.get_output_tensor(number).data[:rows].copy()
            for number, name in enumerate(self._names)
        }


def _padded(batch: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The batch with black images behind it up to BATCH: one static shape, compiled once."""
    if len(batch) == BATCH:
        return batch
    return np.concatenate([batch, np.zeros((BATCH - len(batch), *batch.shape[1:]), batch.dtype)])


def _output_name(output: Any) -> str:
    """The name given in `_convert`: outputs are addressed by name, their order is OpenVINO's own."""
    return next(name[4:].removesuffix(":0") for name in output.get_names() if name.startswith("out_"))


def _convert(network: keras.Model, cache: Path) -> Path:
    """Write the network as a TensorFlow graph whose weights are constants, which OpenVINO reads natively."""
    import tensorflow as tf

    values = [(variable, keras.ops.convert_to_numpy(variable)) for variable in network.variables]

    def constant(pixels: Any) -> Any:
        mapping = [(variable, tf.constant(value)) for variable, value in values]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = network(pixels, training=False)
        return [tf.identity(value, name=f"out_{name}") for name, value in outputs.items()]

    signature = tf.TensorSpec([BATCH, *network.inputs[0].shape[1:]], tf.float32, name="pixels")
    graph = tf.function(constant, autograph=False).get_concrete_function(signature).graph
    folder = _writable(cache)
    handle, beside = tempfile.mkstemp(prefix=".writing-", dir=folder)
    with os.fdopen(handle, "wb") as file:
        file.write(graph.as_graph_def().SerializeToString())
    return Path(beside).replace(folder / "network.pb")


def _writable(cache: Path) -> Path:
    """The cache folder, or a temporary one where it cannot be written: then the next run converts again."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        if os.access(cache, os.W_OK):
            return cache
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="regraft-"))


def _check_against_keras(engine: Engine, network: keras.Model) -> None:
    size = network.inputs[0].shape[1:]
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size)).astype(np.uint8)
    got = next(engine.run([pixels]))
    expected = network(pixels.astype(np.float32), training=False)
    for name, value in expected.items():
        reference = keras.ops.convert_to_numpy(value)
        error = float(np.abs(got[name] - reference).max())
        if not error <= TOLERANCE * max(float(np.abs(reference).max()), 1e-6):
            raise ValueError(f"its {name} is {error:.1g} from Keras'")


def _brief(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[-1] if lines else type(error).__name__)[:160]
