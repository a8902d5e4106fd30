"""What layers cost for one image: their multiplications, and the numbers that they pass on.

Small layers on large maps are bound by memory, not by multiplications: those of MobileNetV2 in front of its
block 13 hold 70 % of its multiplications and take 84 % of its time. Counted with the numbers that they pass
on, the time of every stage of MobileNetV2 and ResNet50 follows to a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import keras

__all__ = ["multiplications", "nodes_of", "work"]

NUMBER = 20  # multiplications that take as long as passing on one number


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


def work(nodes: Iterable[Any]) -> int:
    """Add up what nodes take for one image: multiplications, and numbers passed on in the same unit.

    Example:
        >>> vector = keras.Input((7,))
        >>> work(nodes_of(keras.Model(vector, keras.layers.Dense(5)(vector)))[1:])
        135
    """
    listed = list(nodes)
    numbers = sum(math.prod(size or 1 for size in x.shape[1:]) for node in listed for x in node.outputs)
    return multiplications(listed) + NUMBER * numbers


def _of(node: Any) -> int:
    kernels = sum(math.prod(v.shape) for v in node.operation.weights if len(v.shape) >= 2)
    return int(kernels * math.prod(size or 1 for size in node.outputs[0].shape[1:-1]))
