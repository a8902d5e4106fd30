"""Move transpositions through an OpenVINO model until they meet others and both cancel.

Keras keeps the channels of images last and OpenVINO's convolutions take them first, so a model from Keras'
OpenVINO backend transposes before and after every convolution, which takes three quarters of its time.
OpenVINO's readers of other formats remove such transpositions; this module does it for Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from regraft.system.imports import import_openvino

__all__ = ["sink_transposes"]

UNARY = (
    "Abs", "Clamp", "Elu", "Erf", "Exp", "Gelu", "HSigmoid", "HSwish", "HardSigmoid", "Log", "Mish",
    "Negative", "Relu", "Sigmoid", "SoftPlus", "Sqrt", "Swish", "Tanh",
)  # fmt: skip
BINARY = ("Add", "Divide", "Maximum", "Minimum", "Multiply", "Power", "SquaredDifference", "Subtract")
REDUCING = ("ReduceMax", "ReduceMean", "ReduceSum")


def sink_transposes(model: Any) -> None:
    """Rewrite an OpenVINO model in place; it computes the same.

    Where an operation takes transposed images and could as well take the original ones, its output is
    transposed instead. Two transpositions in a row become one, or none.
    """
    import_openvino()
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, cf=True, smart_reshape=False)  # folds constants and batch normalisation
    for node in model.get_ordered_ops():
        kind = node.get_type_name()
        if kind == "Transpose":
            _merge(node)
        elif kind in UNARY:
            _sink(node, [0])
        elif kind in BINARY:
            _sink(node, [0, 1])
        elif kind == "Concat":
            _sink_concat(node)
        elif kind == "Pad":
            _sink_pad(node)
        elif kind in REDUCING:
            _sink_reduction(node)
    model.validate_nodes_and_infer_types()
    apply_moc_transformations(model, cf=True, smart_reshape=False)


def _get_order(source: Any) -> tuple[int, ...] | None:
    """Return the order of the axes if an output comes from a transposition, else None."""
    node = source.get_node()
    if node.get_type_name() != "Transpose":
        return None
    order = node.input_value(1).get_node()
    return tuple(order.data.tolist()) if order.get_type_name() == "Constant" else None


def _get_input(source: Any) -> Any:
    """Return the input of the transposition that an output comes from."""
    return source.get_node().input_value(0)


def _replace(node: Any, output: Any) -> None:
    """Replace the output of a node by another, for all nodes that take it."""
    for target in node.output(0).get_target_inputs():
        if target.get_node() != output.get_node():
            target.replace_source_output(output)


def _transpose_after(node: Any, order: Sequence[int]) -> None:
    """Transpose the output of a node whose inputs were replaced, for all nodes that take it."""
    from openvino import opset13 as ops

    node.constructor_validate_and_infer_types()  # or a later node would see the shape from before
    _replace(node, ops.transpose(node.output(0), np.array(order, np.int64)).output(0))


def _merge(node: Any) -> None:
    """Join a transposition with the one before it."""
    from openvino import opset13 as ops

    first, second = _get_order(node.input_value(0)), _get_order(node.output(0))
    if first is None or second is None:
        return
    order, source = [first[axis] for axis in second], _get_input(node.input_value(0))
    identity = order == sorted(order)
    _replace(node, source if identity else ops.transpose(source, np.array(order, np.int64)).output(0))


def _sink(node: Any, numbers: Sequence[int]) -> None:
    """Sink transpositions below an elementwise operation; transpose its constants at once."""
    from openvino import opset13 as ops

    sources = [node.input_value(number) for number in numbers]
    orders = {order for source in sources if (order := _get_order(source)) is not None}
    others = [source for source in sources if _get_order(source) is None]
    if len(orders) != 1 or any(source.get_node().get_type_name() != "Constant" for source in others):
        return
    (order,) = orders
    if any(source.get_node().data.ndim > len(order) for source in others):
        return
    for number, source in zip(numbers, sources, strict=True):
        if source in others:
            data = source.get_node().data
            expanded = data.reshape((1,) * (len(order) - data.ndim) + data.shape)
            constant = ops.constant(np.ascontiguousarray(expanded.transpose(np.argsort(order))))
            node.input(number).replace_source_output(constant.output(0))
        else:
            node.input(number).replace_source_output(_get_input(source))
    _transpose_after(node, order)


def _sink_concat(node: Any) -> None:
    """Sink transpositions that all inputs share."""
    from openvino import opset13 as ops

    sources = [node.input_value(number) for number in range(node.get_input_size())]
    orders = {_get_order(source) for source in sources}
    if len(orders) == 1 and None not in orders:
        order = next(iter(orders)) or ()
        joined = ops.concat([_get_input(source) for source in sources], order[node.get_axis()])
        _replace(node, ops.transpose(joined, np.array(order, np.int64)).output(0))


def _sink_pad(node: Any) -> None:
    """Sink a transposition below padding, and reorder the widths."""
    from openvino import opset13 as ops

    order = _get_order(node.input_value(0))
    widths = [node.input_value(number).get_node() for number in (1, 2)]
    if order is None or any(width.get_type_name() != "Constant" for width in widths):
        return
    node.input(0).replace_source_output(_get_input(node.input_value(0)))
    for number, width in enumerate(widths, 1):
        constant = ops.constant(width.data[np.argsort(order)])
        node.input(number).replace_source_output(constant.output(0))
    _transpose_after(node, order)


def _sink_reduction(node: Any) -> None:
    """Sink a transposition below a sum, mean or maximum over some axes."""
    from openvino import opset13 as ops

    order, axes = _get_order(node.input_value(0)), node.input_value(1).get_node()
    if order is None or axes.get_type_name() != "Constant":
        return
    reduced = [order[axis] for axis in axes.data.reshape(-1)]
    remaining = [axis for axis in order if axis not in reduced]
    keeps = node.get_attributes()["keep_dims"]
    if not keeps and remaining != sorted(remaining):
        return
    node.input(0).replace_source_output(_get_input(node.input_value(0)))
    node.input(1).replace_source_output(ops.constant(np.array(reduced, np.int64)).output(0))
    if keeps:
        _transpose_after(node, order)
