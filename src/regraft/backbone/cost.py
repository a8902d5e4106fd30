"""What layers cost: multiplications for one image."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

__all__ = ["multiplications", "nodes_of"]


def nodes_of(model: keras.Model) -> list[Any]:
    """The nodes of a Functional model, which are calls of its layers, in topological order."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def multiplications(nodes: Iterable[Any]) -> int:
    """Multiplications of some nodes for one image: their layers' kernels once for every place of the output.

    Example:
        >>> vector = keras.Input((7,))
        >>> multiplications(nodes_of(keras.Model(vector, keras.layers.Dense(5)(vector))))
        35
    """
    return sum(_of(node) for node in nodes if isinstance(node.operation, keras.layers.Layer))


def _of(node: Any) -> int:
    kernels = sum(math.prod(v.shape) for v in node.operation.weights if len(v.shape) >= 2)
    return int(kernels * math.prod(size or 1 for size in node.outputs[0].shape[1:-1]))
