"""Run the model with OpenVINO: pip install openvino numpy pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino

__all__ = ["load"]


def load(file: Path) -> Callable[[np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """Return a function from pixels, uint8 (n, height, width, 3), to the model's outputs by name."""
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    network = openvino.Core().compile_model(file, "CPU", exact)

    def run(pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        outputs = network(pixels)
        return {output.get_any_name(): outputs[output].copy() for output in network.outputs}

    return run
