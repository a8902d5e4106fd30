"""Calibration of a model trained by gradient: its output layer takes up the link that validation asks for."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.classifier import get_activation_name
from regraft.backbones.graph import find_node
from regraft.models.freeze import list_mutable_weights
from regraft.solvers.decision import Link
from regraft.tasks import Task

__all__ = ["absorb_link", "find_output_dense"]


def find_output_dense(model: keras.Model, task: Task) -> keras.layers.Dense | None:
    """Return the trainable Dense layer whose kernel and bias determine a model's probabilities, or None.

    It is the last layer, or the last but one before an activation; in a head of the user's own too.

    Args:
        model: a Functional model, such as `graft` makes.
        task: its activation has to turn the layer's values into probabilities.

    Example:
        >>> from regraft.tasks import TASKS
        >>> image = keras.Input((4,))
        >>> values = keras.layers.Dense(3, name="values")(image)
        >>> model = keras.Model(image, keras.layers.Softmax()(values))
        >>> find_output_dense(model, TASKS["multiclass"]).name
        'values'
        >>> find_output_dense(model, TASKS["multilabel"]) is None
        True
    """
    layers = _list_last_layers(model)
    if task.name == "regression" or not layers:
        return None
    activation, last = get_activation_name(layers[0]), layers[0]
    if isinstance(last, keras.layers.Activation | keras.layers.Softmax):  # behind a Dense layer without one
        last = layers[1] if len(layers) > 1 else None
        if getattr(last, "activation", None) is not keras.activations.linear:
            return None
    if type(last) is not keras.layers.Dense or activation != task.activation or not last.use_bias:
        return None
    mutable = {id(weight) for weight in list_mutable_weights(model)}
    return last if id(last.kernel) in mutable and id(last.bias) in mutable else None


def _list_last_layers(layer: Any) -> list[Any]:
    """Return the last layers of a model, at most two, the last one first; models within it are opened."""
    if isinstance(layer, keras.Sequential):
        layers = layer.layers[::-1]
    elif isinstance(layer, keras.Model) and getattr(layer, "outputs", None):
        node, layers = find_node(layer.outputs[0]), []
        while not node.is_input and len(node.input_tensors) == 1 and len(layers) < 2:
            layers.append(node.operation)
            node = find_node(node.input_tensors[0])
    else:
        return [layer]
    opened: list[Any] = []
    for inner in layers:
        opened += _list_last_layers(inner)
        if len(opened) > 1:
            break
    return opened[:2]


def absorb_link(dense: keras.layers.Dense, link: Link) -> None:
    """Multiply the values of a Dense layer by a link's gain and add its shift; changes kernel and bias."""
    kernel, bias = (_read(variable) for variable in (dense.kernel, dense.bias))
    dense.kernel.assign((kernel * link.gain).astype(np.float32))
    dense.bias.assign((bias * link.gain + link.shift).astype(np.float32))


def _read(variable: keras.Variable) -> NDArray[np.float64]:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
