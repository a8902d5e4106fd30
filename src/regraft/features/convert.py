"""A Keras network -> a file that OpenVINO reads, by Keras' own OpenVINO backend.

Where this process' Keras runs on that backend, the network is traced here. Elsewhere a child process reads
it from a `.keras` file and traces it: one process cannot hold two backends. What the child cannot build
(SavedModels, layers that only this process knows) TensorFlow turns into a graph, where it is the backend.
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

from regraft.features.openvino import name_of
from regraft.features.transposes import sink_transposes
from regraft.system.backend import backend_name
from regraft.system.imports import child_environment, import_openvino, skip_other_backends

if TYPE_CHECKING:
    import keras

__all__ = ["convert", "prepare_converter"]


def convert(network: keras.Model, target: Path) -> None:
    """Write a network as OpenVINO's file.

    Args:
        network: pixels, or other tensors, to a dictionary of named tensors. The batch stays free. In the file
            each output is called `out_` and its name.
        target: the .xml to write, its .bin beside it.

    Raises:
        Exception: whatever speaks against it: an operation that the OpenVINO backend lacks, mostly.
    """
    if backend_name() == "openvino":
        _trace(network, target)
        return
    try:
        with tempfile.TemporaryDirectory(prefix="regraft-convert-") as folder:
            source = Path(folder) / "network.keras"
            network.save(source)
            _CHILD.convert(source, target)
    except Exception:
        if backend_name() != "tensorflow":
            raise
        from regraft.backbones.savedmodel import freeze_graph

        _rewrite(freeze_graph(network), target)


def prepare_converter() -> None:
    """Start the child process, where one is needed, so that it is ready when the first network is."""
    if backend_name() != "openvino" and name_of("f32") is not None:
        with suppress(OSError):
            _CHILD.start()


def _trace(network: Any, target: Path) -> None:
    """Call a network of the OpenVINO backend on symbols: what comes out is the graph."""
    import keras

    openvino = import_openvino()
    from openvino import opset13 as ops

    inputs = [ops.parameter([-1, *tensor.shape[1:]], np.dtype(tensor.dtype)) for tensor in network.inputs]
    for number, parameter in enumerate(inputs):
        parameter.output(0).get_tensor().set_names({f"in_{number}"})
    symbols = [keras.ops.convert_to_tensor(parameter.output(0)) for parameter in inputs]
    outputs = network(symbols if len(symbols) > 1 else symbols[0], training=False)
    graph = openvino.Model([ops.result(each.output) for each in outputs.values()], inputs, "network")
    sink_transposes(graph)
    for name, result in zip(outputs, graph.get_results(), strict=True):
        if not any(each.startswith("out_") for each in result.output(0).get_names()):
            result.output(0).get_tensor().set_names(set())  # a counter of the process named it
        result.output(0).get_tensor().add_names({f"out_{name}"})
    for number, op in enumerate(graph.get_ordered_ops()):
        op.set_friendly_name(f"{op.get_type_name()}_{number}")  # a counter of the process names it otherwise
    openvino.save_model(graph, target, compress_to_fp16=False)


def _rewrite(traced: bytes, target: Path) -> None:
    """Write a TensorFlow graph in OpenVINO's own form, which opens in a fiftieth of the time."""
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "traced.pb"
        source.write_bytes(traced)
        openvino.save_model(openvino.Core().read_model(source), target, compress_to_fp16=False)


# --- in a child


class _Converter:
    """A child process whose Keras runs on OpenVINO; it lives until this process ends.

    It speaks a line of JSON for each network: {"network": PATH, "graph": PATH}, answered by {} or {"error":
    TEXT}.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def start(self) -> subprocess.Popen[str]:
        """Return the process, started where none is running."""
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "regraft.features.convert"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    text=True,
                    start_new_session=True,  # Ctrl-C is for the parent, which decides what ends
                    env={**child_environment(), "KERAS_BACKEND": "openvino"},
                )
                atexit.register(self.close, self._process)
            return self._process

    def convert(self, source: Path, target: Path) -> None:
        """Have a `.keras` file converted.

        Raises:
            RuntimeError: the child cannot, or ended.
        """
        process = self.start()
        with self._lock:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("the converting process has no pipes")
            try:
                process.stdin.write(json.dumps({"network": str(source), "graph": str(target)}) + "\n")
                process.stdin.flush()
                answer = json.loads(process.stdout.readline() or '{"error": "the converting process ended"}')
            except OSError as error:
                raise RuntimeError(f"the converting process ended ({error})") from error
        if "error" in answer:
            raise RuntimeError(answer["error"])

    @staticmethod
    def close(process: subprocess.Popen[str]) -> None:
        """End a process at once: it holds nothing that counts."""
        process.kill()
        process.communicate()


_CHILD = _Converter()


def _serve() -> None:
    """Convert what is asked for on standard input until that ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    skip_other_backends()
    import keras

    import regraft.backbones.user_model  # noqa: F401 # makes layers of regraft's known to Keras

    for line in sys.stdin:
        asked = json.loads(line)
        answer = {}
        try:
            _trace(keras.saving.load_model(asked["network"], compile=False), Path(asked["graph"]))
        except Exception as error:
            answer["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    _serve()
