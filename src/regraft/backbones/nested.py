"""Networks within a network become one graph, so that plans, taps, stages and the cut reach inside.

`base(x)` in a Functional model, or a base in a Sequential one, is one layer to Keras, however many layers the
base has. `unfold_networks` calls the layers of such a base one by one instead. They are the very same layers
with the same weights, so the answers are the same.

A small nested model is a block, not a network, and stays one layer, as the downsampling blocks of ConvNeXt
do. So does a network that is called twice: no plan could train one call of it without the other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import keras

from regraft.backbones.graph import flatten_layers, get_functional, list_nodes, replay_graph

__all__ = ["COLLAPSING", "Unfolded", "as_functional", "get_functional_class", "unfold_networks"]

BLOCK_KERNELS = 8  # a nested model with more layers with a kernel is a network
NETWORK_SHARE = 0.5  # of the weights of the model around it: with as many it is one too

COLLAPSING = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)


class Unfolded(NamedTuple):
    """A model as one graph.

    Attributes:
        model: the graph; the model itself where there was nothing to unfold.
        networks: names of the nested models that are part of the graph now, in order.
        remarks: sentences on those that stayed one layer, and on layers that were renamed.
    """

    model: keras.Model
    networks: tuple[str, ...]
    remarks: tuple[str, ...]


@cache
def get_functional_class() -> type[keras.Model]:
    """Return the class of Functional models, which has no public name."""
    probe = keras.Input((1,))
    return type(keras.Model(probe, probe))


def as_functional(model: keras.Model) -> keras.Model:
    """Return a Sequential model as a Functional one of the same layers; any other model as it is.

    >>> layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)]
    >>> type(as_functional(keras.Sequential(layers))).__name__
    'Functional'
    """
    if not isinstance(model, keras.Sequential) or get_functional(model) is None:
        return model
    return keras.Model(model.inputs, model.outputs, name=model.name)


def unfold_networks(model: keras.Model) -> Unfolded:
    """Return a model in which the layers of nested networks are called one by one.

    Args:
        model: a Functional model. Its layers are shared, not copied. Where two layers have one name, that of
            the inner one gets the name of its network in front, since names in a graph are unique.

    Example:
        >>> inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="edges")])
        >>> image = keras.Input((8, 8, 3))
        >>> model = keras.Model(image, keras.layers.ReLU(name="relu")(inner(image)))
        >>> [layer.name for layer in unfold_networks(model).model.layers[1:]]
        ['edges', 'relu']
    """
    work = _Unfolding()
    work.enter(model)
    if not work.networks:
        return Unfolded(model, (), tuple(work.remarks))
    work.make_names_unique()
    source = model.inputs[0]
    image = keras.Input(source.shape[1:], dtype=source.dtype, name=list_nodes(model)[0].operation.name)
    outputs = replay_graph(model, image, work.substitute)
    networks = tuple(str(network.name) for network in work.networks)
    return Unfolded(keras.Model(image, outputs, name=model.name), networks, tuple(work.remarks))


class _Unfolding:
    """Which nested models are unfolded, found before the graph is built again."""

    def __init__(self) -> None:
        self.networks: list[Any] = []
        self.remarks: list[str] = []
        self._operations: list[tuple[str, Any]] = []  # every operation of the new graph, with its network

    def enter(self, model: Any, network: str = "") -> None:
        """Note the networks within a model, and the networks within those."""
        nodes = [node for node in list_nodes(model) if not node.is_input]
        calls = Counter(id(node.operation) for node in nodes)
        operations = list({id(node.operation): node.operation for node in nodes}.values())
        numbers = sum(layer.count_params() for layer in operations if isinstance(layer, keras.layers.Layer))
        for operation in operations:
            functional = _find_graph(operation)
            if functional is None or not _is_network(operation, numbers):
                self._operations.append((network, operation))
            elif calls[id(operation)] > 1 or len(functional.inputs) > 1 or len(functional.outputs) > 1:
                self.remarks.append(
                    f"{operation.name} stays one layer, for it is called {calls[id(operation)]} times, with "
                    f"{len(functional.inputs)} inputs and {len(functional.outputs)} outputs: no plan reaches "
                    "inside."
                )
                self._operations.append((network, operation))
            else:
                self.networks.append(operation)
                self.enter(functional, str(operation.name))

    def make_names_unique(self) -> None:
        """Rename inner operations that have the name of another one."""
        taken = {str(operation.name) for network, operation in self._operations if not network}
        renamed = []
        for network, operation in self._operations:
            if not network:
                continue
            name, number = str(operation.name), 1
            while name in taken:
                name = f"{network}_{operation.name}" + (f"_{number}" if number > 1 else "")
                number += 1
            if name != operation.name:
                if isinstance(operation, keras.layers.Layer):
                    renamed.append(f"{operation.name} of {network} is {name}")
                operation.name = name
            taken.add(name)
        if renamed:
            self.remarks.append(f"Two layers had one name: now {', '.join(renamed)}.")

    def substitute(self, operation: Any) -> Callable[..., Any]:
        """Return what to call in place of an operation: the layers within a network, else itself."""
        if not any(operation is network for network in self.networks):
            return operation  # type: ignore[no-any-return]
        return partial(self._run_inside, _find_graph(operation))

    def _run_inside(self, functional: Any, x: Any, **_: Any) -> Any:
        # `training` is dropped: Keras itself does not pass on one that was recorded when a model was built.
        outputs = replay_graph(functional, x, self.substitute)
        return outputs[0] if isinstance(outputs, (list, tuple)) and len(outputs) == 1 else outputs


def _find_graph(operation: Any) -> Any:
    """Return the Functional graph of a nested model; None for other layers and for models with a `call`."""
    if isinstance(operation, keras.Sequential):
        return get_functional(operation)
    functional = get_functional_class()
    is_plain = isinstance(operation, functional) and type(operation).call is functional.call
    return operation if is_plain else None


def _is_network(model: Any, numbers: int) -> bool:
    """Return whether a nested model is a network, not a block, of a model with so many weights."""
    layers = flatten_layers(model)
    kernels = sum(
        any(len(weight.shape) > 1 for weight in layer.weights) for layer in layers if layer is not model
    )
    collapses = any(isinstance(layer, COLLAPSING) for layer in layers)
    is_large = model.count_params() >= max(1, NETWORK_SHARE * numbers)
    return kernels > BLOCK_KERNELS or collapses or is_large
