"""Keras' graph of layers, and every private name of Keras that regraft relies on.

No other module uses a private name (`tests/test_structure.py`), and `tests/backbones/test_graph.py` shows
what each is relied on for. So an upgrade of Keras that changes one of them fails in one place.

A node is one call of an operation, which is a layer or a function of `keras.ops`. Its `operation`,
`input_tensors`, `outputs` and `is_input` are public.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

__all__ = [
    "find_descendants",
    "find_node",
    "find_operation",
    "flatten_layers",
    "get_functional",
    "get_step_counter",
    "has_layers_within",
    "has_random_numbers",
    "list_entering_tensors",
    "list_moments",
    "list_nodes",
    "list_own_statistics",
    "list_own_weights",
    "replay_graph",
    "share_storage",
]


# --- nodes and tensors


def list_nodes(model: keras.Model) -> list[Any]:
    """Return the nodes of a Functional model in topological order."""
    nodes_by_depth = model._nodes_by_depth
    return [node for depth in sorted(nodes_by_depth, reverse=True) for node in nodes_by_depth[depth]]


def find_operation(tensor: Any) -> Any:
    """Return the operation that makes a symbolic tensor."""
    return tensor._keras_history.operation


def find_node(tensor: Any) -> Any:
    """Return the node that makes a symbolic tensor."""
    operation, number, _ = tensor._keras_history
    return operation._inbound_nodes[number]


def find_descendants(nodes: Iterable[Any], operations: Collection[int]) -> list[Any]:
    """Return the nodes of some operations, and every node that these feed.

    Args:
        nodes: in topological order.
        operations: the ids of the operations.
    """
    descendants = []
    tensors: set[int] = set()
    for node in nodes:
        if id(node.operation) in operations or any(id(tensor) in tensors for tensor in node.input_tensors):
            descendants.append(node)
            tensors.update(id(tensor) for tensor in node.outputs)
    return descendants


def list_entering_tensors(nodes: Iterable[Any]) -> list[Any]:
    """Return the tensors that some nodes, in topological order, take from other nodes."""
    entering: dict[int, Any] = {}
    made: set[int] = set()
    for node in nodes:
        entering |= {id(tensor): tensor for tensor in node.input_tensors if id(tensor) not in made}
        made.update(id(tensor) for tensor in node.outputs)
    return list(entering.values())


def replay_graph(
    model: keras.Model, x: Any, substitute: Callable[[Any], Callable[..., Any]] = lambda operation: operation
) -> Any:
    """Call the operations of a model again, one by one, on another tensor: no model within a model.

    Args:
        model: a Functional model.
        x: a symbolic tensor, in place of the model's input.
        substitute: returns what to call in place of an operation.
    """
    return model._run_through_graph(x, operation_fn=substitute)


def get_functional(model: keras.Sequential) -> Any:
    """Return the Functional model that a Sequential one runs; None as long as its input is not known."""
    return model._functional


# --- layers and their variables


def flatten_layers(layer: keras.layers.Layer) -> list[keras.layers.Layer]:
    """Return a layer or model and every layer within it, each container before its contents."""
    layers: list[keras.layers.Layer] = layer._flatten_layers()
    return layers


def has_layers_within(layer: keras.layers.Layer) -> bool:
    """Return whether a layer holds other layers."""
    return bool(layer._layers)


def list_own_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the weights that a layer itself was built to train, whatever its flag says now."""
    return list(layer._trainable_variables)


def list_own_statistics(layer: keras.layers.Layer) -> list[keras.Variable]:
    """Return the variables that a layer itself keeps without training them, such as moving averages."""
    return list(layer._non_trainable_variables)


def has_random_numbers(layer: keras.layers.Layer) -> bool:
    """Return whether a layer, or one within it, draws random numbers: dropout, noise, augmentation."""
    return any(part._seed_generators for part in flatten_layers(layer))


def share_storage(variable: keras.Variable, storage: Any) -> None:
    """Let a Keras variable keep its value in a variable of the backend, so that both always agree."""
    variable._value = storage


# --- optimizers


def get_step_counter(optimizer: keras.optimizers.Optimizer) -> keras.Variable:
    """Return the variable that counts an optimizer's steps, each part of an accumulated step included."""
    return optimizer._iterations


def list_moments(optimizer: keras.optimizers.Optimizer) -> list[keras.Variable]:
    """Return what an optimizer remembers of each variable, without the gradients that it is summing up."""
    sums = getattr(optimizer, "_accumulated_gradients", [])
    others = {id(variable) for variable in (optimizer._iterations, optimizer.learning_rate, *sums)}
    return [variable for variable in optimizer.variables if id(variable) not in others]
