"""Run the model with TensorFlow: pip install tensorflow numpy pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

__all__ = ["load"]


def load(file: Path) -> Callable[[np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """Return a function from pixels, uint8 (n, height, width, 3), to the model's outputs by name."""
    model = tf.saved_model.load(str(file))

    def run(pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        outputs = model.signatures["serving_default"](pixels=tf.constant(pixels))
        return {name: value.numpy() for name, value in outputs.items()}

    return run
