"""Where a trained classifier ends and its backbone begins.

Two ends are recognised, and nothing else is touched:

- **regraft's own head**: layers with the names of one, see `is_head`. It is cut off where the rest of the
  network enters it.
- **a classifier**: the last layer is a softmax or a sigmoid (or the network is one of `keras.applications`,
  whose classifier may give logits), and on the straight way back from it, before any fork, lie a layer with
  a kernel and before that the layer that gives up the places: global pooling or `Flatten`. Where there are
  several such layers, as in MobileNetV3, the first of the network counts: what comes after it is no feature
  map. It is cut off there, and for every family of `keras.applications` that leaves what `include_top=False`
  builds.
"""

from __future__ import annotations

import re
from typing import Any

import keras

from regraft.errors import UsageError

__all__ = ["activation_of", "is_head", "nodes_of", "without_classifier"]

MODEL_PREFIX = "regraft_"  # of the name of a model that regraft trained

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


def nodes_of(model: keras.Model) -> list[Any]:
    """The nodes of a Functional model, which are calls of its layers, in topological order."""
    depths = sorted(model._nodes_by_depth, reverse=True)
    return [node for depth in depths for node in model._nodes_by_depth[depth]]


def is_head(layer: keras.layers.Layer) -> bool:
    """Whether a layer was put on a backbone by regraft; told by its name, so also after saving and loading.

    >>> is_head(keras.layers.Dense(3, name="head_output")), is_head(keras.layers.Dense(3, name="head"))
    (True, False)
    """
    return _HEAD.fullmatch(layer.name) is not None


def without_classifier(model: keras.Model, *, published: bool = False) -> tuple[keras.Model, str]:
    """The network without its classifier, and what was done, as a sentence.

    Args:
        model: a Functional model with one output. It is not changed; its layers are shared.
        published: it is one of `keras.applications`: its last layer need not be a softmax.

    Returns:
        A Functional model whose output is the last feature map (of regraft's own model: what its head took),
        and a sentence for reports; `model` itself and "" where its end is not recognised.

    Raises:
        UsageError: regraft's head takes several tensors of the network, so none is its feature map.

    Example:
        >>> image = keras.Input((8, 8, 3))
        >>> features = keras.layers.Conv2D(4, 3, name="features")(image)
        >>> pooled = keras.layers.GlobalAveragePooling2D(name="pool")(features)
        >>> model = keras.Model(image, keras.layers.Dense(10, activation="softmax", name="classes")(pooled))
        >>> body, note = without_classifier(model)
        >>> body.output_shape, note
        ((None, 6, 6, 4), 'The classifier was cut off: pool, classes.')
    """
    if any(is_head(layer) for layer in model.layers):
        kind, (end, cut_off) = "head", _before_head(model)
    else:
        kind, (end, cut_off) = "classifier", _before_classifier(model, published=published)
    if end is None:
        return model, ""
    name = model.name.removeprefix(MODEL_PREFIX)
    return keras.Model(model.inputs[0], end, name=name), f"The {kind} was cut off: {', '.join(cut_off)}."


def _before_head(model: keras.Model) -> tuple[Any, list[str]]:
    """The one tensor that the network hands to regraft's head."""
    inside: set[int] = set()  # tensors that the head makes
    entering: dict[int, Any] = {}
    names = []
    for node in nodes_of(model):
        from_inside = any(id(tensor) in inside for tensor in node.input_tensors)
        if from_inside or is_head(node.operation):
            names.append(node.operation.name)
            entering |= {id(tensor): tensor for tensor in node.input_tensors if id(tensor) not in inside}
            inside.update(id(tensor) for tensor in node.outputs)
    if len(entering) != 1:
        raise UsageError(
            f"{model.name}: its head takes {len(entering)} tensors of the network. Expected one, which is "
            "then the backbone's answer. Give the network without its head."
        )
    return entering.popitem()[1], names


def _before_classifier(model: keras.Model, *, published: bool) -> tuple[Any, list[str]]:
    """The last feature map; None where the model does not end as a classifier does."""
    nodes = _straight_way(model.outputs[0])
    if not nodes or not (published or activation_of(nodes[0].operation) in _PROBABILITIES):
        return None, []
    collapsing = [number for number, node in enumerate(nodes) if isinstance(node.operation, _COLLAPSING)]
    if not collapsing:
        return None, []
    first = collapsing[-1]  # of the network: the way goes backwards
    tail = [node.operation for node in reversed(nodes[: first + 1])]
    if not any(hasattr(operation, "kernel") for operation in tail):
        return None, []
    features = nodes[first].input_tensors[0]
    if len(features.shape) != 4:
        return None, []
    names = [operation.name for operation in tail]
    if isinstance(tail[1], keras.layers.LayerNormalization):
        # ConvNeXt's last normalisation is the backbone's own. It follows the pooling only under a classifier.
        features = tail[1](features)
        names.remove(tail[1].name)
    return features, names


def _straight_way(tensor: Any) -> list[Any]:
    """The nodes from the output backwards, up to the first that has not exactly one input."""
    nodes: list[Any] = []
    while True:
        operation, number, _ = tensor._keras_history
        node = operation._inbound_nodes[number]
        if node.is_input or len(node.input_tensors) != 1:
            return nodes
        nodes.append(node)
        tensor = node.input_tensors[0]


def activation_of(operation: Any) -> str | None:
    """Return the name of the function that makes a layer's answers; None where it cannot be seen."""
    if isinstance(operation, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(operation, "activation", None), "__name__", None)
