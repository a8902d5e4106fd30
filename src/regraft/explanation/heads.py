"""The head of a trained model alone: from the backbone's feature maps to decision values.

A heat map is made of many answers of the head to changed maps, so the head must run without the backbone. It
is cut out of the run's OpenVINO graph, which needs no backend, or out of the Keras model where there is no
graph. Decision values are what the output's softmax or sigmoid takes: they add up, probabilities do not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.features.openvino import list_names
from regraft.models.inner_outputs import ANSWERS, HEAT, MAP
from regraft.system.imports import import_openvino
from regraft.system.signals import restore_signal_stack

if TYPE_CHECKING:
    import keras

__all__ = ["Head", "invert_activation", "make_keras_head", "read_head"]

Floats = NDArray[np.float32]


class Head(NamedTuple):
    """A function from maps (n, height, width, channels) to decision values (n, units).

    Attributes:
        decide: the function. It need not add what is the same for all images.
        source: the name of the model's output that it takes: `MAP`, or `HEAT`.
    """

    decide: Callable[[Floats], Floats]
    source: str = MAP

    def __call__(self, maps: Floats) -> Floats:
        """Return the decision values."""
        return self.decide(maps)

    @classmethod
    def from_heat(cls) -> Head:
        """Return the head of a model that has its heat as an output: the mean over all positions."""
        return cls(lambda maps: np.asarray(maps.mean(axis=(1, 2), dtype=np.float64), np.float32), HEAT)


LEAST = 1e-30  # the smallest probability whose logarithm is taken
_ACTIVATIONS = {"Softmax": "softmax", "SoftMax": "softmax", "Sigmoid": "sigmoid"}  # names of operations


def invert_activation(answers: NDArray[Any], activation: str) -> Floats:
    """Return decision values that have these answers.

    Args:
        answers: shape (n, units).
        activation: "softmax", whose decision values are known but for a constant; "sigmoid"; or "linear".

    >>> invert_activation(np.array([[0.5, 0.5]]), "sigmoid").tolist()
    [[0.0, 0.0]]
    """
    if activation == "linear":
        return np.asarray(answers, np.float32)
    table = np.maximum(np.asarray(answers, np.float64), LEAST)
    if activation == "sigmoid":
        return np.asarray(np.log(table) - np.log(np.maximum(1 - table, 1e-16)), np.float32)
    return np.asarray(np.log(table), np.float32)


# --- from a graph


def read_head(graph: Path, activation: str) -> Head:
    """Cut the head out of a run's OpenVINO graph.

    Args:
        graph: an OpenVINO file with the outputs `ANSWERS`, and `MAP` or `HEAT`, of `models.inner_outputs`.
        activation: the activation of the answers: "softmax", "sigmoid" or "linear".

    Returns:
        A function of maps of any number, and of any height and width that the head can take.

    Raises:
        ImportError: OpenVINO is not installed.
        ValueError: the graph has no map, or its head sees more of the image than the map.
        RuntimeError: OpenVINO cannot run the head.
    """
    openvino = import_openvino()
    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # see `OpenVinoEngine`
    model = core.read_model(graph)
    outputs = {
        name: result.input_value(0) for result in model.get_results() for name in list_names(result.output(0))
    }
    if HEAT in outputs:
        return Head.from_heat()
    if MAP not in outputs:
        raise ValueError("the graph has no feature map")
    decisions, has_activation = _skip_activation(outputs[ANSWERS], activation)
    compiled = _compile(core, decisions, outputs[MAP])

    def decide(maps: Floats) -> Floats:
        request = compiled.create_infer_request()  # threads share the network, not its requests
        request.infer([np.ascontiguousarray(maps, np.float32)])
        values: Floats = request.get_output_tensor(0).data.copy()
        return values if has_activation else invert_activation(values, activation)

    return Head(decide)


def _skip_activation(answers: Any, activation: str) -> tuple[Any, bool]:
    """Return the output that the last activation takes, and whether there is one or none is expected."""
    node = answers.get_node()
    if activation == "linear":
        return answers, True
    if _ACTIVATIONS.get(node.get_type_name()) == activation:
        return node.input_value(0), True
    return answers, False


def _compile(core: Any, decisions: Any, maps: Any) -> Any:
    """Compile the part of a model between its map and its decision values."""
    openvino = import_openvino()
    from openvino import opset13 as ops

    order = list(range(4))
    while maps.get_node().get_type_name() == "Transpose":  # the head may take the map from before it
        axes = maps.get_node().input_value(1).get_node()
        if axes.get_type_name() != "Constant":
            break
        order = [axes.data.tolist()[axis] for axis in order]
        maps = maps.get_node().input_value(0)
    channels = maps.get_partial_shape()[order[3]]
    if channels.is_dynamic:
        raise ValueError("the number of channels of the map is not known")
    parameter = ops.parameter([-1, -1, -1, channels.get_length()], np.float32)
    source = parameter.output(0)
    if order != sorted(order):
        source = ops.transpose(source, np.argsort(order).astype(np.int64)).output(0)
    for target in maps.get_target_inputs():
        if target.get_node() != source.get_node():
            target.replace_source_output(source)
    try:
        head = openvino.Model([ops.result(decisions)], [parameter], "head")
        head.validate_nodes_and_infer_types()
    except RuntimeError as error:
        raise ValueError("the head sees more of the image than the map") from error
    hints = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    with restore_signal_stack():
        return core.compile_model(head, "CPU", hints)


# --- from a Keras model


def make_keras_head(model: keras.Model, tensor: Any, activation: str) -> Head:
    """Cut the head out of a Keras model, on whichever backend Keras runs.

    Args:
        model: from pixels to answers.
        tensor: the symbolic tensor of the feature map, (batch, height, width, channels).
        activation: the activation of the answers: "softmax", "sigmoid" or "linear".

    Raises:
        ValueError: the head sees more of the image than the map.
    """
    import keras

    from regraft.backbones.classifier import get_activation_name
    from regraft.backbones.graph import find_node

    node = find_node(model.outputs[0])
    layer, output, has_activation = node.operation, model.outputs[0], activation == "linear"
    if not has_activation and get_activation_name(layer) == activation:
        if isinstance(layer, keras.layers.Dense):
            linear = keras.layers.Dense(layer.units, use_bias=layer.use_bias, dtype=layer.dtype_policy)
            output, has_activation = linear(node.input_tensors[0]), True
            linear.set_weights(layer.get_weights())
        elif isinstance(layer, keras.layers.Activation | keras.layers.Softmax):
            output, has_activation = node.input_tensors[0], True
    try:
        head = keras.Model(tensor, output)
    except (ValueError, KeyError) as error:
        raise ValueError("the head sees more of the image than the map") from error

    def decide(maps: Floats) -> Floats:
        values = keras.ops.convert_to_numpy(head(np.asarray(maps, np.float32), training=False))
        values = np.asarray(values, np.float32)
        return values if has_activation else invert_activation(values, activation)

    return Head(decide)
