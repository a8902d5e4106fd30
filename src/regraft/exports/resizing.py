"""Put the resizing of images into a network, so that it takes uint8 images of any height and width.

An image is squashed to the network's square in two passes, each bilinear with antialiasing and rounded, as
the decoder does it: rounding between the passes is what makes the pixels equal. cykooz-resizer resizes the
height first, Pillow the width.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from regraft.inference.bundle import Bundle
from regraft.system.imports import import_openvino

__all__ = ["add_resizing_to_onnx", "add_resizing_to_openvino", "find_first_pass"]

Pass = Literal["height", "width"]


def find_first_pass(bundle: Bundle) -> Pass:
    """Return which side the resizer of a run's images changed first."""
    return "height" if "cykooz" in bundle.manifest["pixels"].get("decoder", "cykooz") else "width"


def add_resizing_to_openvino(model: Any, size: int, first: Pass) -> Any:
    """Return an OpenVINO model that resizes images and passes them on to another.

    Args:
        model: takes RGB images, float (n, size, size, 3).
        size: side of its images in pixels.
        first: the side to resize first.
    """
    openvino = import_openvino()
    from openvino import opset13 as ops

    pixels = ops.parameter([-1, -1, -1, 3], np.uint8, name="pixels")
    pixels.output(0).get_tensor().set_names({"pixels"})
    shape, target = ops.shape_of(pixels), ops.constant(np.array([size], np.int64))

    def read_side(axis: int) -> Any:
        return ops.gather(shape, ops.constant(np.array([axis], np.int64)), ops.constant(np.int64(0)))

    # Both sides are stated in each pass: with one axis OpenVINO 2026.4 resizes wrongly.
    between = [target, read_side(2)] if first == "height" else [read_side(1), target]
    image, axes = ops.convert(pixels, "f32"), ops.constant(np.array([1, 2], np.int64))
    for sides in (between, [target, target]):
        resized = ops.interpolate(image, ops.concat(sides, 0), "bilinear_pillow", "sizes", axes=axes)
        image = ops.floor(ops.add(resized, np.float32(0.5)))
    source = model.input()
    for consumer in source.get_target_inputs():
        consumer.replace_source_output(image.output(0))
    return openvino.Model(model.get_results(), [pixels], "network")


def add_resizing_to_onnx(file: Path, size: int, first: Pass) -> None:
    """Rewrite an ONNX file so that its network resizes images, of opset 18 or later.

    Args:
        file: a network that takes RGB images called `pixels`, uint8 (n, size, size, 3).
        size: side of its images in pixels.
        first: the side to resize first.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(file)
    graph = model.graph
    order = (2, 3) if first == "height" else (3, 2)
    nodes = [
        helper.make_node("Cast", ["pixels"], ["resize_float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["resize_float"], ["resize_0"], perm=[0, 3, 1, 2]),
    ]
    for number, axis in enumerate(order):
        scaled, raised = f"resize_scaled_{number}", f"resize_raised_{number}"
        inputs = [f"resize_{number}", "", "", "resize_side"]
        options = {
            "mode": "linear",
            "antialias": 1,
            "axes": [axis],
            "coordinate_transformation_mode": "half_pixel",
        }
        nodes += [
            helper.make_node("Resize", inputs, [scaled], **options),
            helper.make_node("Add", [scaled, "resize_half"], [raised]),
            helper.make_node("Floor", [raised], [f"resize_{number + 1}"]),
        ]
    nodes.append(helper.make_node("Transpose", ["resize_2"], ["resize_image"], perm=[0, 2, 3, 1]))
    for node in graph.node:
        for number, name in enumerate(node.input):
            if name == "pixels":
                node.input[number] = "resize_image"
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    constants = {"resize_side": np.array([size], np.int64), "resize_half": np.array(0.5, np.float32)}
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in constants.items())
    shape = ["batch", "height", "width", 3]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape))
    onnx.checker.check_model(model)
    onnx.save(model, file)
