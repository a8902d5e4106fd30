"""Quantize a network to 8-bit integers, with images that show the range of its activations.

NNCF does it for OpenVINO and ONNX; LiteRT's converter has a quantizer of its own, see `conversion`.
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

Images = Sequence[NDArray[np.uint8]]


def quantize_openvino(model: Any, images: Images) -> Any:
    """Return an 8-bit version of an OpenVINO model that takes float pixels.

    Args:
        model: the model.
        images: training images, (1, size, size, 3) each.
    """
    return _quantize(model, images, np.float32)


def quantize_onnx(file: Path, images: Images) -> None:
    """Rewrite an ONNX file, whose input is called `pixels`, as its 8-bit version."""
    import onnx

    onnx.save(_quantize(onnx.load(file), images, "pixels"), file)


def _quantize(model: Any, images: Images, feed: Any) -> Any:
    """Quantize a model; `feed` is the name of its input, or the type of its pixels."""
    nncf = _import_nncf()
    wrap = (lambda image: {feed: image}) if isinstance(feed, str) else (lambda image: image.astype(feed))
    with redirect_stdout(StringIO()):  # its progress bars
        return nncf.quantize(model, nncf.Dataset(images, wrap), subset_size=len(images))


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
