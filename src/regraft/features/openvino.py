"""A network that was converted once, run by OpenVINO on the CPU.

It needs NumPy and OpenVINO only: a process that predicts imports neither Keras nor a backend for it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from regraft.system.imports import import_openvino, preloaded_allocator
from regraft.system.signals import own_signal_stack

__all__ = [
    "BATCH",
    "OpenVinoEngine",
    "Outputs",
    "Precision",
    "expect_any_batch",
    "has_bf16",
    "name_of",
    "padded",
]

BATCH = 8

Array = NDArray[np.float32]
Outputs = dict[str, Array]
Precision = Literal["f32", "bf16"]


def name_of(precision: Precision) -> str | None:
    """OpenVINO's version here and a precision, for the keys of what it computes; None where it is missing, or
    cannot run beside a preloaded allocator."""
    if preloaded_allocator():
        return None
    try:
        return f"openvino {importlib.metadata.version('openvino')} {precision}"
    except importlib.metadata.PackageNotFoundError:
        return None


def has_bf16() -> bool:
    """Whether this processor computes in bf16 faster than in f32; elsewhere OpenVINO imitates it, slowly."""
    openvino = import_openvino()

    with own_signal_stack():
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoEngine:
    """A network compiled with static shapes; as many batches at a time as suit the processor.

    Args:
        graph: a file that OpenVINO reads. One input: float RGB pixels (any, size, size, 3) in 0..255.
            Each output has a name that begins with `out_`.
        precision: what it computes in. "bf16" is fast only where the processor has it, and right everywhere.
        batch: images computed at a time. It changes the time and not one bit of the result.

    Attributes:
        name: engine, version and precision, for the keys of what it computes.
        batch: the most images that a batch given to `run` may have.

    Raises:
        ImportError: OpenVINO is not installed.
        RuntimeError: the file is missing, is no network, or has a layer that OpenVINO refuses.
    """

    def __init__(self, graph: Path, *, precision: Precision = "f32", batch: int = BATCH) -> None:
        if allocator := preloaded_allocator():
            raise RuntimeError(f"it would end the process beside {allocator}, which LD_PRELOAD names")
        openvino = import_openvino()
        self.name = str(name_of(precision))
        self.batch = batch
        core = openvino.Core()
        model = core.read_model(graph)
        model.reshape([batch, *list(model.input().partial_shape)[1:]])
        prepare = openvino.preprocess.PrePostProcessor(model)
        prepare.input().tensor().set_element_type(openvino.Type.u8)
        model = prepare.build()
        # Without a hint OpenVINO picks bf16 where the processor has it: the precision is part of the keys.
        hints = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "THROUGHPUT"}
        with own_signal_stack():
            self._compiled = core.compile_model(model, "CPU", hints)
        # Outputs are addressed by name: their order is OpenVINO's own, and one may have several names.
        self._numbers = {
            name[4:].removesuffix(":0"): number
            for number, output in enumerate(self._compiled.outputs)
            for name in output.get_names()
            if name.startswith("out_")  # given by whoever converted the network
        }
        count = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self._requests = [self._compiled.create_infer_request() for _ in range(count)]

    def run(self, batches: Iterable[NDArray[np.uint8]]) -> Iterator[Outputs]:
        """The outputs of each batch, in order.

        Args:
            batches: RGB pixels, uint8 of shape (b, size, size, 3), b <= batch; taken as they are needed.

        Yields:
            For each batch a dictionary of named float32 arrays with b rows.
        """
        waiting: list[tuple[Any, int]] = []
        free = list(self._requests)
        try:
            for batch in batches:
                if not free:
                    free.append(waiting[0][0])
                    yield self._finish(*waiting.pop(0))
                request = free.pop()
                request.start_async({0: padded(batch, self.batch)}, share_inputs=False)
                waiting.append((request, len(batch)))
            while waiting:
                yield self._finish(*waiting.pop(0))
        finally:  # whoever stops early leaves no request under way
            for request, _ in waiting:
                request.wait()

    def _finish(self, request: Any, rows: int) -> Outputs:
        request.wait()
        return {
            name: request.get_output_tensor(number).data[:rows].copy()
            for name, number in self._numbers.items()
        }


def expect_any_batch(graph: Path) -> None:
    """Check that a file's network takes one image at a time and several.

    Raises:
        RuntimeError: a size of batch is part of it.
    """
    model = import_openvino().Core().read_model(graph)
    for batch in (1, BATCH):
        model.reshape([batch, *list(model.input().partial_shape)[1:]])


def padded(batch: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The batch with black images behind it up to `size`: one static shape, compiled once."""
    if len(batch) == size:
        return batch
    return np.concatenate([batch, np.zeros((size - len(batch), *batch.shape[1:]), batch.dtype)])
