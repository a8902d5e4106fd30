"""Where a trained classifier ends and its backbone begins.

Two endings are recognised, and anything else is left as it is:

- **regraft's own head**: layers with the names of a head, see `is_head`. The network is cut where it hands
  over to the head.
- **a classifier**: the last layer is a softmax or a sigmoid, or a `Dense` that gives logits. Going straight
  back from it, before any branch, there is a layer with a kernel, and before that the layer that removes the
  spatial axes: global pooling or `Flatten`. Where there are several such layers, as in MobileNetV3, the first
  of the network counts, since no feature map follows it. For every family of `keras.applications`, cutting
  there leaves what `include_top=False` builds.

A `Dense` without an activation may give logits or an embedding. It counts as logits in a network of
`keras.applications`, or by its name, or where its number of units is not a multiple of 32, as that of an
embedding nearly always is. The note tells what was assumed, and `choice` overrules it.
"""

from __future__ import annotations

import re
from typing import Any

import keras

from regraft.backbones.graph import find_descendants, find_node, list_entering_tensors, list_nodes
from regraft.backbones.nested import COLLAPSING
from regraft.errors import UsageError
from regraft.recipe import ClassifierChoice

__all__ = ["MODEL_PREFIX", "cut_off_classifier", "get_activation_name", "is_head"]

MODEL_PREFIX = "regraft_"  # begins the name of a model that regraft trained

_PROBABILITIES = ("softmax", "sigmoid")
_NEUTRAL = (keras.layers.Dropout, keras.layers.Identity, keras.layers.Reshape)
_CLASSIFIER_NAME = re.compile("logit|predict|classif|class_|classes")
EMBEDDING_UNITS = 32  # the units of an embedding are a multiple of these; a number of classes seldom is
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


def cut_off_classifier(
    model: keras.Model, *, published: bool = False, choice: ClassifierChoice = "auto"
) -> tuple[keras.Model, str]:
    """Return the network without its classifier, and a sentence that says what was cut off.

    Args:
        model: a Functional model with one output. It is not changed; its layers are shared.
        published: whether it is one of `keras.applications`, so that a `Dense` at its end gives logits.
        choice: "keep" for the answers of a classifier as features, "cut" to cut off the `Dense` layer at the
            end whatever it looks like, "auto" as the module describes. A head of regraft's is always cut off.

    Returns:
        A Functional model whose output is the last feature map (for a model of regraft's, the input of its
        head; for "cut" without a feature map, that of the last layer with a kernel), and a sentence for
        reports; `model` itself where nothing was cut off, with "" unless something might have been.

    Raises:
        UsageError: regraft's head takes several tensors of the network, so none of them is its feature map;
            or there is nothing to "cut".

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
        end, names = _find_head(model)
        return _cut_before(model, end), f"The head was cut off: {', '.join(names)}."
    nodes = _walk_back(model.outputs[0])
    answers = f"{model.outputs[0].shape[-1]} answers"
    if choice == "cut":
        end, names = _find_classifier(nodes) or _find_last_kernel(model, nodes)
        return _cut_before(model, end), f"The classifier was cut off: {', '.join(names)}."
    ending = _find_classifier(nodes)
    if ending is None or not (kind := _guess_ending(nodes, published=published)):
        return model, ""
    if choice == "keep":
        return model, f"The classifier stays: its {answers} are the features."
    if kind == "embedding":
        end = nodes[0].operation.name
        return (
            model,
            f"{end} is taken for an embedding, so its {answers} are the features; or cut it off as a "
            "classifier: --classifier cut.",
        )
    note = f"The classifier was cut off: {', '.join(ending[1])}."
    if kind == "logits" and not published:
        note = f"{note[:-1]} (its {answers} are taken for logits; --classifier keep uses them as features)."
    return _cut_before(model, ending[0]), note


def _cut_before(model: keras.Model, end: Any) -> keras.Model:
    return keras.Model(model.inputs[0], end, name=model.name.removeprefix(MODEL_PREFIX))


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


def _find_classifier(nodes: list[Any]) -> tuple[Any, list[str]] | None:
    """Return the last feature map and the names after it; None where the model ends otherwise.

    `nodes` are from `_walk_back`.
    """
    collapsing = [number for number, node in enumerate(nodes) if isinstance(node.operation, COLLAPSING)]
    if not collapsing:
        return None
    first = collapsing[-1]  # in the network's order, since the walk goes backwards
    tail = [node.operation for node in reversed(nodes[: first + 1])]
    if not any(hasattr(operation, "kernel") for operation in tail):
        return None
    features = nodes[first].input_tensors[0]
    if len(features.shape) != 4:
        return None
    names = [operation.name for operation in tail]
    if isinstance(tail[1], keras.layers.LayerNormalization):
        # ConvNeXt's last normalisation is the backbone's own, but under a classifier it follows the pooling.
        features = tail[1](features)
        names.remove(tail[1].name)
    return features, names


def _find_last_kernel(model: keras.Model, nodes: list[Any]) -> tuple[Any, list[str]]:
    """Return what the `Dense` layer at the end takes, and the names from it on."""
    for number, node in enumerate(nodes):
        if isinstance(node.operation, keras.layers.Dense):
            return node.input_tensors[0], [later.operation.name for later in reversed(nodes[: number + 1])]
    last = nodes[0].operation.name if nodes else model.layers[-1].name
    raise UsageError(
        f"classifier cut: expected a Dense layer at the end of {model.name}, before any branch. Received: "
        f"one that ends in {last}. Leave the option out."
    )


def _guess_ending(nodes: list[Any], *, published: bool) -> str:
    """Return what the last layers give: "probabilities", "logits", "embedding" or "" for anything else."""
    for node in nodes:
        operation, activation = node.operation, get_activation_name(node.operation)
        if activation in _PROBABILITIES:
            return "probabilities"
        if isinstance(operation, keras.layers.Dense) and activation == "linear":
            return _guess_units(operation, published=published)
        is_neutral = isinstance(operation, _NEUTRAL) or activation == "linear"
        if hasattr(operation, "kernel") or not is_neutral:
            return "logits" if published else ""
    return ""


def _guess_units(layer: keras.layers.Dense, *, published: bool) -> str:
    if published or _CLASSIFIER_NAME.search(layer.name):
        return "logits"
    return "embedding" if layer.units % EMBEDDING_UNITS == 0 else "logits"


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
    if (kind := type(operation).__name__.lower()) in _PROBABILITIES:  # a layer, or a function of keras.ops
        return kind
    return getattr(getattr(operation, "activation", None), "__name__", None)
