"""Convert a Keras network into an OpenVINO file, with Keras' own OpenVINO backend.

If Keras runs on that backend in this process, the network is traced here. Otherwise a child process reads it
from a `.keras` file and traces it, because one process cannot hold two backends. If the child cannot build it
(SavedModels, layers that only this process knows) and TensorFlow is the backend, that makes the graph.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from regraft.features.openvino import openvino_name
from regraft.features.transposes import sink_transposes
from regraft.system.backend import get_backend_name
from regraft.system.imports import import_openvino, make_child_environment, skip_other_backends

if TYPE_CHECKING:
    import keras

__all__ = ["convert", "convert_in_child", "prepare_converter"]


def convert(network: keras.Model, target: Path) -> None:
    """Write a network as an OpenVINO file that takes batches of any size.

    Args:
        network: pixels, or other tensors -> dictionary of named tensors. In the file each output is called
            `out_` and its name.
        target: the .xml file to write; its .bin file is written beside it.

    Raises:
        Exception: of any kind, if it cannot be converted: mostly, the OpenVINO backend lacks an operation.
    """
    if get_backend_name() == "openvino":
        _trace(network, target)
        return
    try:
        convert_in_child(network, target)
    except Exception:
        if get_backend_name() != "tensorflow":
            raise
        from regraft.backbones.savedmodel import freeze_graph

        _rewrite(freeze_graph(network), target)


def convert_in_child(network: keras.Model, target: Path) -> None:
    """Do what `convert` does in a child process, whose Keras runs on OpenVINO.

    Raises:
        Exception: as `convert`; or the child cannot build the network.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-convert-") as folder:
        source = Path(folder) / "network.keras"
        network.save(source)
        _CHILD.convert(source, target)


def prepare_converter() -> None:
    """Start the child process if one is needed, so that it is ready by the time the first network is."""
    if get_backend_name() != "openvino" and openvino_name("f32") is not None:
        with suppress(OSError):
            _CHILD.start()


def _trace(network: Any, target: Path) -> None:
    """Call a network of the OpenVINO backend on symbols, and write the graph that this gives."""
    import keras

    openvino = import_openvino()
    from openvino import opset13 as ops

    inputs = [ops.parameter([-1, *tensor.shape[1:]], np.dtype(tensor.dtype)) for tensor in network.inputs]
    for number, parameter in enumerate(inputs):
        parameter.output(0).get_tensor().set_names({f"in_{number}"})
    symbols = [keras.ops.convert_to_tensor(parameter.output(0)) for parameter in inputs]
    outputs = network(symbols if len(symbols) > 1 else symbols[0], training=False)
    graph = openvino.Model([ops.result(tensor.output) for tensor in outputs.values()], inputs, "network")
    sink_transposes(graph)
    for name, result in zip(outputs, graph.get_results(), strict=True):
        if not any(alias.startswith("out_") for alias in result.output(0).get_names()):
            result.output(0).get_tensor().set_names(set())  # a name that a counter of the process gave
        result.output(0).get_tensor().add_names({f"out_{name}"})
    for number, op in enumerate(graph.get_ordered_ops()):
        op.set_friendly_name(f"{op.get_type_name()}_{number}")  # likewise
    openvino.save_model(graph, target, compress_to_fp16=False)


def _rewrite(traced: bytes, target: Path) -> None:
    """Write a TensorFlow graph in OpenVINO's own format, which opens in a fiftieth of the time."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "traced.pb"
        source.write_bytes(traced)
        openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)


# --- the child process


class _Converter:
    """A child process whose Keras runs on OpenVINO; it lives until this process ends.

    For each network it reads a line of JSON, {"network": PATH, "graph": PATH}, and answers with {} or
    {"error": TEXT}.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def start(self) -> subprocess.Popen[str]:
        """Return the process, and start one if none is running."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "regraft.features.convert"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for the parent, which decides what ends
                    env={**make_child_environment(), "KERAS_BACKEND": "openvino"},
                )
                atexit.register(self.close, self._process)
            return self._process

    def convert(self, source: Path, target: Path) -> None:
        """Have the child convert a `.keras` file.

        Raises:
            RuntimeError: it cannot, or it ended.
        """
        process = self.start()
        # Absolute, since the current folder may have changed after the child was started.
        request = {"network": str(source.absolute()), "graph": str(target.absolute())}
        with self._lock:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("the converting process has no pipes")
            try:
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline() or '{"error": "the converting process ended"}')
            except OSError as error:
                raise RuntimeError(f"the converting process ended ({error})") from error
        if "error" in answer:
            raise RuntimeError(answer["error"])

    @staticmethod
    def close(process: subprocess.Popen[str]) -> None:
        """Kill a process: it holds nothing that could be lost."""
        process.kill()
        process.communicate()


_CHILD = _Converter()


def _serve() -> None:
    """Convert the networks that standard input names, until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # keeps what libraries print out of the answers
    skip_other_backends()
    import keras

    import regraft.backbones.user_model  # noqa: F401 # registers regraft's layers with Keras

    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        try:
            _trace(keras.saving.load_model(request["network"], compile=False), Path(request["graph"]))
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
