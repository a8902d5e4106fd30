"""A freeze plan -> prefix and suffix that share the model's own layers.

The graph is taken by nodes (calls of layers). A node is hot when its layer holds a weight that trains or
draws random numbers in training, or when anything hot feeds it; the others are cold: their values are fixed
functions of the pixels. Cold nodes followed by hot nodes is again a topological order, so the cold ones make
a prefix, and the tensors that cross are those made by a cold node and used by a hot one. In residual and
parallel networks there are several. Layers without weights after the last frozen one (Add, ReLU, pooling)
join the prefix for free.

Every beginning of the cold nodes makes a prefix too, which ends further ahead: another boundary. What lies
between it and the hot nodes runs in the suffix then, frozen; fewer numbers may cross there.

What layers cost is counted in multiplications and in the numbers that they pass on, for small layers on large
maps are bound by memory: those of MobileNetV2 in front of its block 13 hold 70 % of its multiplications and
take 84 % of its time. So counted, every stage of MobileNetV2 and ResNet50 is right to a few per cent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from regraft.backbones.graph import nodes_of
from regraft.models.freeze import draws

__all__ = [
    "Boundary",
    "Cut",
    "Frozen",
    "Sides",
    "cut",
    "multiplications",
    "nodes_of",
    "numbers_of",
    "sides",
    "work",
]

Predicate = Callable[[keras.layers.Layer], bool]


def _nothing(layer: keras.layers.Layer) -> bool:
    return False


@dataclass(frozen=True)
class Boundary:
    """A place where a model may be cut in two.

    Attributes:
        tensors: those that cross, symbolic, in the order in which the graph makes them.
        before: how many of the cold nodes lie in front of it.
    """

    tensors: tuple[Any, ...]
    before: int

    @property
    def name(self) -> str:
        """The layers whose outputs cross: "block_12_add", "mixed4 and 2 more"."""
        first, *more = [tensor._keras_history.operation.name for tensor in self.tensors]
        return first if not more else f"{first} and {len(more)} more"

    @property
    def numbers(self) -> int:
        """How many numbers cross for one image."""
        return sum(map(numbers_of, self.tensors))


@dataclass(frozen=True)
class Sides:
    """The nodes of a model under a plan, each side in topological order, and the boundaries ahead of `hot`.

    `boundaries` go from the pixels to where what is frozen ends.
    """

    cold: tuple[Any, ...]
    hot: tuple[Any, ...]

    @cached_property
    def boundaries(self) -> tuple[Boundary, ...]:
        order = [*self.cold, *self.hot]
        last_call = {id(node.operation): at for at, node in enumerate(order)}
        last_use = {id(tensor): at for at, node in enumerate(order) for tensor in node.input_tensors}
        found, called_until = [], 0
        live: list[Any] = []
        for at, node in enumerate(self.cold):
            live = [tensor for tensor in [*live, *node.outputs] if last_use.get(id(tensor), -1) > at]
            called_until = max(called_until, last_call[id(node.operation)])
            if called_until <= at:  # Keras cannot cut between two calls of one layer
                found.append(Boundary(tuple(live), at + 1))
        return tuple(found)


@dataclass(frozen=True)
class Cut:
    """`prefix`: pixels -> {"cut_0": ..., ...}. `suffix`: those tensors, in order -> the model's output.

    Both hold the very layers of the model that was cut: what trains in one, trains in all. Where only one
    tensor crosses, the suffix takes it by itself, not in a list. `plan` is what it was cut by.
    """

    prefix: keras.Model
    suffix: keras.Model
    names: tuple[str, ...]
    plan: Predicate = _nothing

    def trained(self) -> keras.Model:
        """Make the suffix for training: random layers outside the plan stay in inference mode.

        A plan may train a block in the middle and nothing after it, and the cut may lie ahead of the plan. It
        is for training; what is saved is the model that was cut, which has the same weights.
        """

        def still(operation: Any) -> Any:
            acts = not _is_layer(operation) or self.plan(operation) or not draws(operation)
            return operation if acts else Frozen(operation)

        return keras.models.clone_model(self.suffix, clone_function=still)  # the same layers, but these

    def joined(self) -> keras.Model:
        """Pixels -> output, with the prefix held in inference mode whatever the mode of the call.

        The suffix is as in `trained`.

        Raises:
            ValueError: the prefix holds weights that train. Weight decay would move even those.
        """
        moving = self.prefix.trainable_variables
        if moving:
            raise ValueError(
                f"Expected every layer of the prefix to be frozen. Received: {len(moving)} weights that "
                f"train, among them {moving[0].path}. Set the flags first, see `regraft.models.freeze`."
            )
        given = self.prefix.inputs[0]
        pixels = keras.Input(given.shape[1:], dtype=given.dtype)
        tensors = Frozen(self.prefix)(pixels)
        crossing = [tensors[name] for name in self.names]
        return keras.Model(pixels, self.trained()(crossing if len(crossing) > 1 else crossing[0]))


class Frozen(keras.layers.Layer):  # type: ignore[misc] # Keras is untyped
    """A network, or a layer, that always runs in inference mode.

    In Keras a frozen layer's dropout still drops when the model around it trains, and `training=False` at
    the call that builds a Functional model is overwritten by `fit`. Here it is said at every call.

    Args:
        inner: a built model or layer, shared, not copied. It takes its input as it comes, in whatever
            precision.
    """

    def __init__(self, inner: keras.layers.Layer) -> None:
        super().__init__(autocast=False)
        self.inner = inner

    def call(self, inputs: Any) -> Any:
        return self.inner(inputs, training=False)


def cut(model: keras.Model, plan: Predicate, at: Boundary | None = None) -> Cut:
    """Cut a model where what is frozen ends, or at a boundary ahead of it.

    Args:
        model: a Functional model with one input and one output.
        plan: says of a layer whether training changes what it does, as a `FreezePlan` does: its weights
            move, or it draws random numbers.
        at: one of the boundaries of its `sides`; None for the last of them.

    Raises:
        ValueError: nothing trains, so there is nothing to cut off.

    Example:
        >>> image = keras.Input((8, 8, 3))
        >>> edges = keras.layers.Conv2D(4, 3, name="edges", trainable=False)(image)
        >>> model = keras.Model(image, keras.layers.Conv2D(2, 3, name="parts")(edges))
        >>> cut(model, lambda layer: layer.name == "parts").suffix.input_shape
        (None, 6, 6, 4)
    """
    crossing = list((at or sides(model, plan).boundaries[-1]).tensors)
    names = tuple(f"cut_{number}" for number in range(len(crossing)))
    prefix = keras.Model(model.inputs[0], dict(zip(names, crossing, strict=True)))
    suffix = keras.Model(crossing if len(crossing) > 1 else crossing[0], model.outputs[0])
    return Cut(prefix, suffix, names, plan)


def sides(model: keras.Model, plan: Predicate) -> Sides:
    """Tell what is frozen and what is not, for a plan.

    Args:
        model, plan: as in `cut`.

    Raises:
        ValueError: nothing trains, so there is nothing to cut off.
    """
    nodes = nodes_of(model)
    hot = _hot(nodes, plan)
    if not hot:
        raise ValueError("Expected a model with something that trains. Received: all of it frozen.")
    behind = {id(node) for node in hot}
    return Sides(tuple(node for node in nodes if id(node) not in behind), tuple(hot))


def _hot(nodes: list[Any], plan: Predicate) -> list[Any]:
    """Find the hot ones of nodes in topological order; none where no weight trains."""
    layers = {id(node.operation): node.operation for node in nodes if _is_layer(node.operation)}
    changing = [layer for layer in layers.values() if plan(layer)]
    if not any(layer.weights for layer in changing):
        return []
    hot = {id(layer) for layer in changing if layer.weights or draws(layer)}
    while True:
        found = _with_descendants(nodes, hot)
        # Keras cannot cut between two calls of one layer: where one of them is hot, so is the other.
        reached = {id(node.operation) for node in found}
        if reached <= hot:
            return found
        hot |= reached


def _with_descendants(nodes: list[Any], operations: set[int]) -> list[Any]:
    """The nodes of some operations, known by their ids, and every node that these feed."""
    found = []
    tensors: set[int] = set()
    for node in nodes:
        if id(node.operation) in operations or any(id(tensor) in tensors for tensor in node.input_tensors):
            found.append(node)
            tensors.update(id(tensor) for tensor in node.outputs)
    return found


def _is_layer(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer)


NUMBER = 20  # multiplications that take as long as passing on one number


def numbers_of(tensor: Any) -> int:
    """Count the numbers of a symbolic tensor for one image; axes of a length not known count as one."""
    return math.prod(size or 1 for size in tensor.shape[1:])


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
    return multiplications(listed) + NUMBER * sum(numbers_of(x) for node in listed for x in node.outputs)


def _of(node: Any) -> int:
    kernels = sum(math.prod(v.shape) for v in node.operation.weights if len(v.shape) >= 2)
    return int(kernels * math.prod(size or 1 for size in node.outputs[0].shape[1:-1]))
