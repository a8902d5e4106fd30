"""Run the model with ONNX Runtime: pip install onnxruntime numpy pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

__all__ = ["load"]


def load(file: Path) -> Callable[[np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """Return a function from pixels, uint8 (n, height, width, 3), to the model's outputs by name."""
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return dict(zip(names, session.run(names, {"pixels": pixels}), strict=True))

    return run
