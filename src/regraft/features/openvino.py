"""OpenVINO as an engine: it runs a converted network on the CPU.

This needs only NumPy and OpenVINO: a process that predicts imports neither Keras nor a backend for it.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.system.imports import find_preloaded_allocator, import_openvino
from regraft.system.signals import restore_signal_stack

__all__ = [
    "BATCH",
    "OpenVinoEngine",
    "Outputs",
    "Precision",
    "expect_any_batch",
    "has_bf16",
    "join_batches",
    "list_names",
    "openvino_name",
    "pad_batch",
]

BATCH = 8

Array = NDArray[np.float32]
Outputs = dict[str, Array]
Precision = Literal["f32", "bf16"]
_networks: weakref.WeakSet[Any] = weakref.WeakSet()  # those compiled in this process


def openvino_name(precision: Precision) -> str | None:
    """Return the engine's name for the store's keys: OpenVINO's version and a precision.

    None if OpenVINO is not installed, or cannot run beside a preloaded allocator.
    """
    if find_preloaded_allocator():
        return None
    try:
        return f"openvino {importlib.metadata.version('openvino')} {precision}"
    except importlib.metadata.PackageNotFoundError:
        return None


def has_bf16() -> bool:
    """Return whether this processor has bf16 of its own; on others OpenVINO emulates it, slowly."""
    openvino = import_openvino()
    with restore_signal_stack():
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """A network compiled with static shapes, which has as many batches under way as suit the processor.

    Several threads and loops may run it at once. It belongs to the process that made it.

    Args:
        graph: an OpenVINO file. One input: float RGB pixels (any, size, size, 3) in 0..255. Each output has
            a name that begins with `out_`.
        precision: what it computes in. "bf16" is fast only on a processor that has it, but correct on all.
        batch: images computed at a time. It changes the time and not one bit of the result.
        outputs: names of the outputs to compute, without `out_`; None for all.

    Attributes:
        name: engine, version and precision, for the store's keys.
        batch: the most images that a batch given to `run` may have.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: the file is missing, is not a network, or has a layer that OpenVINO does not support.
    """

    def __init__(
        self,
        graph: Path,
        *,
        precision: Precision = "f32",
        batch: int = BATCH,
        outputs: Collection[str] | None = None,
    ) -> None:
        if allocator := find_preloaded_allocator():
            raise RuntimeError(f"it would end the process beside {allocator}, which LD_PRELOAD names")
        openvino = import_openvino()
        self.name = str(openvino_name(precision))
        self.batch = batch
        core = openvino.Core()
        # A file that is mapped, and then overwritten in place, would end the process with SIGBUS.
        core.set_property({"ENABLE_MMAP": False})
        model = core.read_model(graph)
        if outputs is not None:
            _remove_other_outputs(model, outputs)
        model.reshape([batch, *list(model.input().partial_shape)[1:]])
        prepare = openvino.preprocess.PrePostProcessor(model)
        prepare.input().tensor().set_element_type(openvino.Type.u8)
        model = prepare.build()
        # Without a hint OpenVINO picks bf16 if the processor has it; but the precision is part of the keys.
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
        with restore_signal_stack():
            self._compiled = core.compile_model(model, "CPU", hints)
        # Outputs are addressed by name: OpenVINO orders them its own way, and one may have several names.
        self._numbers = {
            name: number
            for number, output in enumerate(self._compiled.outputs)
            for name in list_names(output)
        }
        self._most_requests = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        _networks.add(self._compiled)

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each batch, in order, as `features.engine.Engine` describes them.

        Each call has infer requests of its own: making one takes a tenth of a millisecond.
        """
        under_way: deque[tuple[Any, int]] = deque()
        try:
            for batch in batches:
                if len(under_way) < self._most_requests:
                    request = self._compiled.create_infer_request()
                else:
                    request, rows = under_way.popleft()
                    yield self._finish(request, rows)
                request.start_async({0: pad_batch(batch, self.batch)}, share_inputs=False)
                under_way.append((request, len(batch)))
            while under_way:
                yield self._finish(*under_way.popleft())
        finally:  # also for a caller that stops early: no request stays under way
            for request, _ in under_way:
                request.wait()

    def _finish(self, request: Any, rows: int) -> Outputs:
        request.wait()
        return {
            name: request.get_output_tensor(number).data[:rows].copy()
            for name, number in self._numbers.items()
        }


def join_batches(batches: Sequence[Mapping[str, Array]]) -> Outputs:
    """Return the outputs of consecutive batches as one.

    >>> join_batches([{"answers": np.zeros((2, 3))}, {"answers": np.zeros((1, 3))}])["answers"].shape
    (3, 3)
    """
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def list_names(output: Any) -> list[str]:
    """Return the names that `convert` gave to an output, without their `out_`."""
    return [name[4:].removesuffix(":0") for name in output.get_names() if name.startswith("out_")]


def _remove_other_outputs(model: Any, outputs: Collection[str]) -> None:
    """Remove the outputs of a model that have none of these names; what only they need is not computed."""
    for result in model.get_results():
        if not any(name in outputs for name in list_names(result.output(0))):
            model.remove_result(result)


def _keep_inherited_networks() -> None:
    """Keep a parent's networks in a forked process: releasing them waits for threads that it lacks."""
    for network in _networks:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(network))
    _networks.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_keep_inherited_networks)


def expect_any_batch(graph: Path) -> None:
    """Check that a file's network takes batches of any size.

    Raises:
        RuntimeError: its batch size is fixed.
    """
    model = import_openvino().Core().read_model(graph)
    for batch in (1, BATCH):
        model.reshape([batch, *list(model.input().partial_shape)[1:]])


def pad_batch(batch: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Append black images to a batch up to `size`: one static shape is compiled once."""
    if len(batch) == size:
        return batch
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
