"""Where a trained classifier ends and its backbone begins.

Two endings are recognised, and anything else is left as it is:

- **regraft's own head**: layers with the names of a head, see `is_head`. The network is cut where it hands
  over to the head.
- **a classifier**: the last layer is a softmax or a sigmoid (or the network is one of `keras.applications`,
  whose classifier may give logits). Going straight back from it, before any branch, there is a layer with a
  kernel, and before that the layer that removes the spatial axes: global pooling or `Flatten`. Where there
  are several such layers, as in MobileNetV3, the first of the network counts, since no feature map follows
  it. For every family of `keras.applications`, cutting there leaves what `include_top=False` builds.
"""

from __future__ import annotations

import re
from typing import Any

import keras

from regraft.backbones.graph import find_descendants, find_node, list_entering_tensors, list_nodes
from regraft.errors import UsageError

__all__ = ["MODEL_PREFIX", "cut_off_classifier", "get_activation_name", "is_head"]

MODEL_PREFIX = "regraft_"  # begins the name of a model that regraft trained

_COLLAPSING = (
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.Flatten,
)
_PROBABILITIES = ("softmax", "sigmoid")
_HEAD = re.compile(
    "head_(attention|confidence|convolution|custom|dropout|gain|hidden|norm|output|pairs|pool|scale|stored|"
    r"support|table|units|votes)(_\w+)?"
)


def is_head(layer: keras.layers.Layer) -> bool:
    """Return whether a layer is part of a head by regraft. Its name tells, so also after saving and loading.

    >>> is_head(keras.layers.Dense(3, name="head_output")), is_head(keras.layers.Dense(3, name="head"))
    (True, False)
    """
    return _HEAD.fullmatch(layer.name) is not None


def cut_off_classifier(model: keras.Model, *, published: bool = False) -> tuple[keras.Model, str]:
    """Return the network without its classifier, and a sentence that says what was cut off.

    Args:
        model: a Functional model with one output. It is not changed; its layers are shared.
        published: whether it is one of `keras.applications`, so that its last layer need not be a softmax.

    Returns:
        A Functional model whose output is the last feature map (for a model of regraft's, the input of its
        head), and a sentence for reports; `model` itself and "" where its ending is not recognised.

    Raises:
        UsageError: regraft's head takes several tensors of the network, so none of them is its feature map.

    Example:
        >>> image = keras.Input((8, 8, 3))
        >>> features = keras.layers.Conv2D(4, 3, name="features")(image)
        >>> pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
        >>> model = keras.Model(image, keras.layers.Dense(10, activation="softmax", name="classes")(pooled))
        >>> body, note = cut_off_classifier(model)
        >>> body.output_shape, note
        ((None, 6, 6, 4), 'The classifier was cut off: pool, classes.')
    """
    if any(is_head(layer) for layer in model.layers):
        kind, (end, names) = "head", _find_head(model)
    else:
        kind, (end, names) = "classifier", _find_classifier(model, published=published)
    if end is None:
        return model, ""
    name = model.name.removeprefix(MODEL_PREFIX)
    return keras.Model(model.inputs[0], end, name=name), f"The {kind} was cut off: {', '.join(names)}."


def _find_head(model: keras.Model) -> tuple[Any, list[str]]:
    """Return the one tensor that the network hands to regraft's head, and the names in the head."""
    nodes = list_nodes(model)
    head = find_descendants(nodes, {id(node.operation) for node in nodes if is_head(node.operation)})
    entering = list_entering_tensors(head)
    if len(entering) != 1:
        raise UsageError(
            f"{model.name}: its head takes {len(entering)} tensors of the network. Expected one, which is "
            "then the backbone's answer. Give the network without its head."
        )
    return entering[0], [node.operation.name for node in head]


def _find_classifier(model: keras.Model, *, published: bool) -> tuple[Any, list[str]]:
    """Return the last feature map and the names after it; None where the model has no classifier."""
    nodes = _walk_back(model.outputs[0])
    if not nodes or not (published or get_activation_name(nodes[0].operation) in _PROBABILITIES):
        return None, []
    collapsing = [number for number, node in enumerate(nodes) if isinstance(node.operation, _COLLAPSING)]
    if not collapsing:
        return None, []
    first = collapsing[-1]  # in the network's order, since the walk goes backwards
    tail = [node.operation for node in reversed(nodes[: first + 1])]
    if not any(hasattr(operation, "kernel") for operation in tail):
        return None, []
    features = nodes[first].input_tensors[0]
    if len(features.shape) != 4:
        return None, []
    names = [operation.name for operation in tail]
    if isinstance(tail[1], keras.layers.LayerNormalization):
        # ConvNeXt's last normalisation is the backbone's own, but under a classifier it follows the pooling.
        features = tail[1](features)
        names.remove(tail[1].name)
    return features, names


def _walk_back(tensor: Any) -> list[Any]:
    """Return the nodes from an output backwards, up to the first that has not exactly one input."""
    nodes: list[Any] = []
    while True:
        node = find_node(tensor)
        if node.is_input or len(node.input_tensors) != 1:
            return nodes
        nodes.append(node)
        tensor = node.input_tensors[0]


def get_activation_name(operation: Any) -> str | None:
    """Return the name of the function that makes a layer's answers; None where it cannot be seen."""
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(operation, "activation", None), "__name__", None)
