"""Move transpositions through a graph of OpenVINO's until they meet others and both go.

Keras lays images out with their channels last and OpenVINO's convolutions take them first, so a graph from
Keras' OpenVINO backend transposes before and after each of them: three quarters of its time. OpenVINO's
readers of other formats move transpositions out of the way; here it is done for Keras.
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
    """Rewrite a model of OpenVINO's in place; it computes the same.

    Each operation that takes its images transposed, and could as well take them as they were, does so; what
    it gives is transposed instead. Two transpositions that meet are one, or none.
    """
    import_openvino()
    from openvino._offline_transformations import apply_moc_transformations

    apply_moc_transformations(model, cf=True, smart_reshape=False)  # constants, batch normalisation
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


def _order(source: Any) -> tuple[int, ...] | None:
    """The order of the axes where an output is a transposition's; None for any other."""
    node = source.get_node()
    if node.get_type_name() != "Transpose":
        return None
    order = node.input_value(1).get_node()
    return tuple(order.data.tolist()) if order.get_type_name() == "Constant" else None


def _before(source: Any) -> Any:
    """What a transposition transposes."""
    return source.get_node().input_value(0)


def _replace(node: Any, output: Any) -> None:
    """Have everything that takes what a node gives take another output."""
    for taker in node.output(0).get_target_inputs():
        if taker.get_node() != output.get_node():
            taker.replace_source_output(output)


def _transpose_after(node: Any, order: Sequence[int]) -> None:
    """Have what a node gives transposed for everything that takes it."""
    from openvino import opset13 as ops

    _replace(node, ops.transpose(node.output(0), np.array(order, np.int64)).output(0))


def _merge(node: Any) -> None:
    from openvino import opset13 as ops

    first, second = _order(node.input_value(0)), _order(node.output(0))
    if first is None or second is None:
        return
    both, source = [first[axis] for axis in second], _before(node.input_value(0))
    identity = both == sorted(both)
    _replace(node, source if identity else ops.transpose(source, np.array(both, np.int64)).output(0))


def _sink(node: Any, numbers: Sequence[int]) -> None:
    """Sink below an operation on single numbers; constants beside the images are transposed now."""
    from openvino import opset13 as ops

    sources = [node.input_value(number) for number in numbers]
    orders = {order for source in sources if (order := _order(source)) is not None}
    others = [source for source in sources if _order(source) is None]
    if len(orders) != 1 or any(source.get_node().get_type_name() != "Constant" for source in others):
        return
    (order,) = orders
    if any(source.get_node().data.ndim > len(order) for source in others):
        return
    for number, source in zip(numbers, sources, strict=True):
        if source in others:
            data = source.get_node().data
            wide = data.reshape((1,) * (len(order) - data.ndim) + data.shape)
            constant = ops.constant(np.ascontiguousarray(wide.transpose(np.argsort(order))))
            node.input(number).replace_source_output(constant.output(0))
        else:
            node.input(number).replace_source_output(_before(source))
    _transpose_after(node, order)


def _sink_concat(node: Any) -> None:
    from openvino import opset13 as ops

    sources = [node.input_value(number) for number in range(node.get_input_size())]
    orders = {_order(source) for source in sources}
    if len(orders) == 1 and None not in orders:
        order = next(iter(orders)) or ()
        joined = ops.concat([_before(source) for source in sources], order[node.get_axis()])
        _replace(node, ops.transpose(joined, np.array(order, np.int64)).output(0))


def _sink_pad(node: Any) -> None:
    from openvino import opset13 as ops

    order = _order(node.input_value(0))
    widths = [node.input_value(number).get_node() for number in (1, 2)]
    if order is None or any(width.get_type_name() != "Constant" for width in widths):
        return
    node.input(0).replace_source_output(_before(node.input_value(0)))
    for number, width in enumerate(widths, 1):
        constant = ops.constant(width.data[np.argsort(order)])
        node.input(number).replace_source_output(constant.output(0))
    _transpose_after(node, order)


def _sink_reduction(node: Any) -> None:
    from openvino import opset13 as ops

    order, axes = _order(node.input_value(0)), node.input_value(1).get_node()
    if order is None or axes.get_type_name() != "Constant":
        return
    reduced = [order[axis] for axis in axes.data.reshape(-1)]
    left = [axis for axis in order if axis not in reduced]
    keeps = node.get_attributes()["keep_dims"]
    if not keeps and left != sorted(left):
        return
    node.input(0).replace_source_output(_before(node.input_value(0)))
    node.input(1).replace_source_output(ops.constant(np.array(reduced, np.int64)).output(0))
    if keeps:
        _transpose_after(node, order)
