"""What layers cost: multiplications for one image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

__all__ = ["multiplications", "work"]


def multiplications(layer: keras.layers.Layer) -> int:
    """Multiplications of a layer for one image: its kernels once for every place of its output.

    Example:
        >>> dense = keras.layers.Dense(5)
        >>> _ = dense(keras.Input((7,)))
        >>> multiplications(dense)
        35
    """
    output = layer.output
    return _product(layer, output if hasattr(output, "shape") else output[0])


def work(nodes: Iterable[Any]) -> int:
    """The same of nodes of a graph, which are calls: a layer that is called twice counts twice."""
    return sum(
        _product(node.operation, node.outputs[0])
        for node in nodes
        if isinstance(node.operation, keras.layers.Layer)
    )


def _product(layer: keras.layers.Layer, output: Any) -> int:
    kernels = sum(math.prod(v.shape) for v in layer.weights if len(v.shape) >= 2)
    return int(kernels * math.prod(size or 1 for size in output.shape[1:-1]))
