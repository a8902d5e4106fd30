"""Run the model with LiteRT: pip install ai-edge-litert numpy pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

__all__ = ["load"]


def load(file: Path) -> Callable[[np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """Return a function from pixels, uint8 (n, height, width, 3), to the model's outputs by name."""
    interpreter = Interpreter(model_path=str(file))
    runner = interpreter.get_signature_runner("serving_default")

    def run(pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        outputs: dict[str, np.ndarray[Any, Any]] = runner(pixels=pixels)
        return outputs

    return run
