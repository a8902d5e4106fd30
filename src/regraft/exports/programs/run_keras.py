"""Run the model with Keras and one of its backends: pip install keras tensorflow numpy pillow."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

__all__ = ["load"]


def load(file: Path) -> Callable[[np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]:
    """Return a function from pixels, uint8 (n, height, width, 3), to the model's outputs by name."""
    model = keras.models.load_model(file, compile=False)

    def run(pixels: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        return {"answers": np.asarray(model.predict(pixels, batch_size=len(pixels), verbose=0))}

    return run
