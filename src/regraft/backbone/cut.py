"""A freeze plan -> prefix and suffix that share the model's own layers.

The graph is taken by nodes (calls of layers). A node is hot when its layer holds a weight that trains, or
when anything hot feeds it; the others are cold: their values are fixed functions of the pixels. Cold nodes
followed by hot nodes is again a topological order, so the cold ones make a prefix, and the tensors that
cross are those made by a cold node and used by a hot one. In residual and parallel networks there are
several. Layers without weights after the last frozen one (Add, ReLU, pooling) join the prefix for free.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras

__all__ = ["Cut", "Frozen", "cut"]


@dataclass(frozen=True)
class Cut:
    """`prefix`: pixels -> {"cut_0": ..., ...}. `suffix`: those tensors, in order -> the model's output.

    Both hold the very layers of the model that was cut: what trains in one, trains in all.
    """

    prefix: keras.Model
    suffix: keras.Model
    names: tuple[str, ...]

    def joined(self) -> keras.Model:
        """Pixels -> output, with the prefix held in inference mode whatever the mode of the call."""
        pixels = keras.Input(self.prefix.inputs[0].shape[1:])
        tensors = Frozen(self.prefix)(pixels)
        crossing = [tensors[name] for name in self.names]
        return keras.Model(pixels, self.suffix(crossing if len(crossing) > 1 else crossing[0]))


@keras.saving.register_keras_serializable("regraft")
class Frozen(keras.layers.Layer):
    """A network that always runs in inference mode.

    In Keras a frozen layer's dropout still drops when the model around it trains, and `training=False` at
    the call that builds a Functional model is overwritten by `fit`. Here it is said at every call.
    """

    def __init__(self, inner: keras.Model) -> None:
        super().__init__()
        self.inner = inner

    def call(self, pixels: Any) -> Any:
        return self.inner(pixels, training=False)


def cut(model: keras.Model, trains: Callable[[keras.layers.Layer], bool]) -> Cut:
    """Cut a model where what is frozen ends.

    Args:
        model: a Functional model with one input and one output.
        trains: says of a layer whether its weights train.

    Raises:
        ValueError: nothing trains, so there is nothing to cut off.
    """
    nodes = [node for depth in sorted(model._nodes_by_depth, reverse=True) for node in model._nodes_by_depth[depth]]
    hot_tensors: set[int] = set()
    hot_nodes, cold_tensors = [], {}
    for node in nodes:
        layer = node.operation
        moves = isinstance(layer, keras.layers.Layer) and bool(layer.weights) and trains(layer)
        if moves or any(id(tensor) in hot_tensors for tensor in node.input_tensors):
            hot_nodes.append(node)
            hot_tensors.update(id(tensor) for tensor in node.outputs)
        else:
            cold_tensors.update({id(tensor): tensor for tensor in node.outputs})
    if not hot_nodes:
        raise ValueError("Expected a model with something that trains. Received: all of it frozen.")
    used = {id(tensor) for node in hot_nodes for tensor in node.input_tensors}
    crossing = [tensor for key, tensor in cold_tensors.items() if key in used]
    names = tuple(f"cut_{number}" for number in range(len(crossing)))
    prefix = keras.Model(model.inputs[0], dict(zip(names, crossing, strict=True)))
    suffix = keras.Model(crossing if len(crossing) > 1 else crossing[0], model.outputs[0])
    return Cut(prefix, suffix, names)
