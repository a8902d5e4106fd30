"""Write a network for LiteRT, by TensorFlow's converter, in float32 or in 8-bit integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

__all__ = ["write_litert"]


def write_litert(
    network: keras.Model, target: Path, signature: Any, *, images: Sequence[NDArray[np.uint8]] | None
) -> None:
    """Write a network that takes bytes to a .tflite file, of LiteRT's own operations alone.

    Args:
        network: the network.
        target: the file.
        signature: of its input.
        images: training images, (1, size, size, 3) each, that show the range of activations; None for
            float32. Operations without an 8-bit version stay float32.

    Raises:
        Exception: of any kind, if LiteRT lacks an operation.
    """
    import tensorflow as tf

    options: dict[str, Any] = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}
    if images is not None:

        def list_inputs() -> Iterator[list[NDArray[np.uint8]]]:
            yield from ([image] for image in images)

        options |= {"optimizations": [tf.lite.Optimize.DEFAULT], "representative_dataset": list_inputs}
    network.export(target, format="litert", input_signature=signature, verbose=False, **options)
