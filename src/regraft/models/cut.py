"""A model and a freeze plan become a prefix and a suffix that share the model's own layers.

A node (a call of a layer) is changing when its layer has a weight that trains or draws random numbers in
training, or when a changing node feeds it. All others are frozen: their values are fixed functions of the
pixels. Frozen nodes followed by changing nodes are again in topological order, so the frozen ones make a
prefix, and the tensors that cross are those that a frozen node makes and a changing one uses. In residual and
parallel networks there are several. Layers without weights after the last frozen one (Add, ReLU, pooling)
belong to the prefix at no cost.

The first few frozen nodes make a prefix too: another boundary, further ahead. The frozen nodes behind it then
run in the suffix; fewer numbers may cross there.

The work of layers is counted in multiplications and in the numbers that they pass on, since small layers on
large maps are bound by memory: those of MobileNetV2 before its block 13 have 70 % of its multiplications but
take 84 % of its time. Counted in this way, every stage of MobileNetV2 and ResNet50 is right to a few per
cent.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from regraft.backbones.graph import find_descendants, find_operation, has_random_numbers, list_nodes
from regraft.models.freeze import Predicate

__all__ = [
    "Boundary",
    "Cut",
    "Frozen",
    "PartitionedGraph",
    "count_multiplications",
    "count_numbers",
    "cut",
    "estimate_work",
    "partition_graph",
]


@dataclass(frozen=True)
class Boundary:
    """A place where a model may be cut in two.

    Attributes:
        tensors: the symbolic tensors that cross, in the order in which the graph makes them.
        position: how many of the frozen nodes lie before it.
    """

    tensors: tuple[Any, ...]
    position: int

    @property
    def name(self) -> str:
        """Return the layers whose outputs cross: "block_12_add", "mixed4 and 2 more"."""
        first = str(find_operation(self.tensors[0]).name)
        others = len(self.tensors) - 1
        return f"{first} and {others} more" if others else first

    @property
    def numbers(self) -> int:
        """Return how many numbers cross for one image."""
        return sum(map(count_numbers, self.tensors))


@dataclass(frozen=True)
class PartitionedGraph:
    """The nodes of a model that are frozen under a plan and those that change, each in topological order."""

    frozen: tuple[Any, ...]
    changing: tuple[Any, ...]

    @cached_property
    def boundaries(self) -> tuple[Boundary, ...]:
        """Return the boundaries from the pixels to the end of the frozen nodes."""
        order = [*self.frozen, *self.changing]
        last_call = {id(node.operation): number for number, node in enumerate(order)}
        last_use = {id(tensor): number for number, node in enumerate(order) for tensor in node.input_tensors}
        boundaries, called_until = [], 0
        live: list[Any] = []
        for number, node in enumerate(self.frozen):
            live = [tensor for tensor in [*live, *node.outputs] if last_use.get(id(tensor), -1) > number]
            called_until = max(called_until, last_call[id(node.operation)])
            if called_until <= number:  # Keras cannot cut between two calls of one layer
                boundaries.append(Boundary(tuple(live), number + 1))
        return tuple(boundaries)


@dataclass(frozen=True)
class Cut:
    """The two halves of a model, which hold the very layers of that model.

    Attributes:
        prefix: a network from pixels to a dictionary of the tensors that cross.
        suffix: a network from those tensors, in order, to the model's output. A single tensor is taken by
            itself, not in a list.
        names: the names of the tensors: "cut_0" and so on.
        plan: the plan by which the model was cut.
    """

    prefix: keras.Model
    suffix: keras.Model
    names: tuple[str, ...]
    plan: Predicate = lambda layer: False

    def make_trainable_suffix(self) -> keras.Model:
        """Return the suffix for training, in which random layers outside the plan stay in inference mode.

        There are such layers where a plan trains only a block in the middle, or where the cut lies ahead of
        the plan. Save the model that was cut instead: it has the same weights.
        """

        def hold(operation: Any) -> Any:
            is_outside = isinstance(operation, keras.layers.Layer) and not self.plan(operation)
            return Frozen(operation) if is_outside and has_random_numbers(operation) else operation

        return keras.models.clone_model(self.suffix, clone_function=hold)

    def join_halves(self) -> keras.Model:
        """Return a network from pixels to the output whose prefix always runs in inference mode.

        Its suffix is that of `make_trainable_suffix`.

        Raises:
            ValueError: the prefix has weights that train. Weight decay would change even those.
        """
        trainable = self.prefix.trainable_variables
        if trainable:
            raise ValueError(
                f"Expected every layer of the prefix to be frozen. Received: {len(trainable)} weights that "
                f"train, among them {trainable[0].path}. Set the flags first, see `regraft.models.freeze`."
            )
        image = self.prefix.inputs[0]
        pixels = keras.Input(image.shape[1:], dtype=image.dtype)
        tensors = Frozen(self.prefix)(pixels)
        crossing = [tensors[name] for name in self.names]
        suffix = self.make_trainable_suffix()
        return keras.Model(pixels, suffix(crossing if len(crossing) > 1 else crossing[0]))


class Frozen(keras.layers.Layer):  # type: ignore[misc] # Keras is untyped
    """A network or layer that always runs in inference mode.

    In Keras, the dropout of a frozen layer is still active when the model around it trains, and `fit`
    overrides a `training=False` at the call that builds a Functional model. This layer passes it on at every
    call.

    Args:
        inner: a built model or layer, shared, not copied. It takes its input in any precision, without a
            cast.
    """

    def __init__(self, inner: keras.layers.Layer) -> None:
        super().__init__(autocast=False)
        self.inner = inner

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs, training=False)


def cut(model: keras.Model, plan: Predicate, boundary: Boundary | None = None) -> Cut:
    """Cut a model where its frozen part ends, or at a boundary ahead of that.

    Args:
        model: a Functional model with one input and one output.
        plan: tells whether training changes what a layer does, as a `FreezePlan` does: the layer's weights
            train, or it draws random numbers.
        boundary: one of the boundaries of `partition_graph`; None for the last of them.

    Raises:
        ValueError: nothing trains, so there is nothing to cut off.

    Example:
        >>> image = keras.Input((8, 8, 3))
        >>> edges = keras.layers.Conv2D(4, 3, name="edges", trainable=False)(image)
        >>> model = keras.Model(image, keras.layers.Conv2D(2, 3, name="parts")(edges))
        >>> cut(model, lambda layer: layer.name == "parts").suffix.input_shape
        (None, 6, 6, 4)
    """
    crossing = list((boundary or partition_graph(model, plan).boundaries[-1]).tensors)
    names = tuple(f"cut_{number}" for number in range(len(crossing)))
    prefix = keras.Model(model.inputs[0], dict(zip(names, crossing, strict=True)))
    suffix = keras.Model(crossing if len(crossing) > 1 else crossing[0], model.outputs[0])
    return Cut(prefix, suffix, names, plan)


def partition_graph(model: keras.Model, plan: Predicate) -> PartitionedGraph:
    """Divide the nodes of a model into those that are frozen under a plan and those that change.

    Args:
        model, plan: as in `cut`.

    Raises:
        ValueError: nothing trains, so there is nothing to cut off.
    """
    nodes = list_nodes(model)
    changing = _find_changing(nodes, plan)
    if not changing:
        raise ValueError("Expected a model with something that trains. Received: all of it frozen.")
    ids = {id(node) for node in changing}
    return PartitionedGraph(tuple(node for node in nodes if id(node) not in ids), tuple(changing))


def _find_changing(nodes: list[Any], plan: Predicate) -> list[Any]:
    """Return the changing ones of nodes in topological order; [] where no weight trains."""
    layers = {id(layer): layer for layer in _list_layers(nodes) if plan(layer)}
    if not any(layer.weights for layer in layers.values()):
        return []
    operations = {key for key, layer in layers.items() if layer.weights or has_random_numbers(layer)}
    while True:
        changing = find_descendants(nodes, operations)
        # Keras cannot cut between two calls of one layer: where one of them changes, so does the other.
        reached = {id(node.operation) for node in changing}
        if reached <= operations:
            return changing
        operations |= reached


def _list_layers(nodes: Iterable[Any]) -> list[keras.layers.Layer]:
    return [node.operation for node in nodes if isinstance(node.operation, keras.layers.Layer)]


NUMBER_COST = 20  # multiplications that take as long as passing on one number


def count_numbers(tensor: Any) -> int:
    """Count the numbers of a symbolic tensor for one image; an axis of unknown length counts as one."""
    return math.prod(size or 1 for size in tensor.shape[1:])


def count_multiplications(nodes: Iterable[Any]) -> int:
    """Count the multiplications of nodes for one image: each layer's kernels, once for every output position.

    Example:
        >>> vector = keras.Input((7,))
        >>> count_multiplications(list_nodes(keras.Model(vector, keras.layers.Dense(5)(vector))))
        35
    """
    return sum(_count_of_node(node) for node in nodes if isinstance(node.operation, keras.layers.Layer))


def estimate_work(nodes: Iterable[Any]) -> int:
    """Estimate the work of nodes for one image: multiplications, and numbers passed on in the same unit.

    Example:
        >>> vector = keras.Input((7,))
        >>> estimate_work(list_nodes(keras.Model(vector, keras.layers.Dense(5)(vector)))[1:])
        135
    """
    nodes = list(nodes)
    numbers = sum(count_numbers(tensor) for node in nodes for tensor in node.outputs)
    return count_multiplications(nodes) + NUMBER_COST * numbers


def _count_of_node(node: Any) -> int:
    kernels = sum(math.prod(v.shape) for v in node.operation.weights if len(v.shape) >= 2)
    return int(kernels * math.prod(size or 1 for size in node.outputs[0].shape[1:-1]))
