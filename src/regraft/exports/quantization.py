"""Quantize a network to 8-bit integers, with images that show the range of its activations.

Each runtime has the quantizer that knows its operations: NNCF for OpenVINO, ONNX Runtime's own for ONNX, and
LiteRT's converter, see `litert`. A network that NNCF quantized keeps float32 convolutions in ONNX Runtime.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.system.imports import ImportBlocker

__all__ = ["quantize_onnx", "quantize_openvino"]

# Operations of ONNX that are quantized. Softmax and sigmoid are not: probabilities need more than 256 steps.
QUANTIZED = (
    "Add", "AveragePool", "Clip", "Concat", "Conv", "Gemm", "GlobalAveragePool", "MatMul", "MaxPool", "Mul",
    "Pad", "Relu",
)  # fmt: skip

Images = Sequence[NDArray[np.uint8]]


def quantize_openvino(model: Any, images: Images) -> Any:
    """Return an 8-bit version of an OpenVINO model that takes float pixels.

    Args:
        model: the model.
        images: training images, (1, size, size, 3) each.
    """
    nncf = _import_nncf()
    data = nncf.Dataset(images, lambda image: image.astype(np.float32))
    with redirect_stdout(StringIO()):  # its progress bars
        return nncf.quantize(model, data, subset_size=len(images))


def quantize_onnx(file: Path, images: Images) -> None:
    """Rewrite an ONNX file, whose input is called `pixels`, as its 8-bit version; arguments as above."""
    from onnxruntime.quantization import QuantType, quantize_static
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._inputs = iter([{"pixels": image} for image in images])

        def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
            return next(self._inputs, None)

    small, level = file.with_name("quantized.onnx"), logging.root.level
    logging.root.setLevel(logging.ERROR)  # it recommends a step that a traced network does not need
    try:
        quantize_static(
            file, small, Reader(), per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, op_types_to_quantize=list(QUANTIZED),
        )  # fmt: skip
        small.replace(file)
    finally:
        logging.root.setLevel(level)


def _import_nncf() -> Any:
    """Import NNCF without the package by which it reports its use to its maker."""
    finder = ImportBlocker({"openvino_telemetry": ["nncf"]})
    sys.meta_path.insert(0, finder)
    try:
        import nncf
    finally:
        sys.meta_path.remove(finder)
    nncf.set_log_level(logging.ERROR)
    return nncf
