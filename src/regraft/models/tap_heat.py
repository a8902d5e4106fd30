"""Heat maps of heads on several layers: what each position of each layer adds to the decision values.

A head on averages of several feature maps is linear, so its decision values are sums over the positions of
all maps. The kernel's part for a map, applied to every position, gives a map with a channel for each unit;
the maps of all layers are brought to one size and added. The mean over its positions is the decision value
without the bias: a class activation map (Zhou et al. 2016, arXiv:1512.04150) that is exact for each layer.
"""

from __future__ import annotations

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.backbones.graph import find_node
from regraft.models.head import UNITS
from regraft.solvers.decision import HEAD_OUTPUT

__all__ = ["compute_overlaps", "sum_tap_heat"]

AVERAGE = keras.layers.GlobalAveragePooling2D


def sum_tap_heat(model: keras.Model) -> keras.KerasTensor | None:
    """Return the heat of a head on averages of several feature maps, (batch, height, width, units).

    Args:
        model: from `graft` with taps, trained.

    Returns:
        A symbolic tensor of the model's graph with the height and width of the largest map; None for a model
        with another head, or whose layers have something else than feature maps of known size.
    """
    maps = _list_averaged_maps(model)
    if len(maps) < 2:
        return None
    kernel = _read_kernel(model)
    sizes = [max(tensor.shape[axis] for tensor in maps) for axis in (1, 2)]
    columns = np.split(kernel, np.cumsum([tensor.shape[-1] for tensor in maps])[:-1])
    parts = [
        _resize(_multiply(tensor, part, f"inner_heat_{number}"), sizes, f"inner_heat_{number}")
        for number, (tensor, part) in enumerate(zip(maps, columns, strict=True), 1)
    ]
    return keras.layers.Add(name="inner_heat")(parts)


def _read_kernel(model: keras.Model) -> NDArray[np.float32]:
    """Return the kernel of the output layer, (channels, units), in the targets' own units."""
    layers = {layer.name: layer for layer in model.layers}
    kernel: NDArray[np.float32] = keras.ops.convert_to_numpy(layers[HEAD_OUTPUT].kernel)
    return kernel * np.asarray(layers[UNITS].scale, np.float32) if UNITS in layers else kernel


def _list_averaged_maps(model: keras.Model) -> list[keras.KerasTensor]:
    """Return the feature maps whose averages the output layer takes side by side; none for another head."""
    layers = {layer.name: layer for layer in model.layers}
    if not isinstance(layers.get("head_pool"), keras.layers.Concatenate) or HEAD_OUTPUT not in layers:
        return []
    vectors = layers["head_pool"].input
    nodes = [find_node(vector) for vector in vectors]
    maps = [node.input_tensors[0] for node in nodes if isinstance(node.operation, AVERAGE)]
    is_known = all(None not in tensor.shape[1:] for tensor in maps)
    return maps if len(maps) == len(vectors) and is_known else []


def _resize(tensor: keras.KerasTensor, sizes: list[int], name: str) -> keras.KerasTensor:
    """Enlarge a map such that its mean stays: each position is the mean of what it covers."""
    for axis, size in zip((1, 2), sizes, strict=True):
        if tensor.shape[axis] != size:
            order = (2, 3, 1) if axis == 1 else (1, 3, 2)  # the axis last
            back = (3, 1, 2) if axis == 1 else (1, 3, 2)
            shares = compute_overlaps(tensor.shape[axis], size)
            moved = keras.layers.Permute(order, name=f"{name}_turn_{axis}")(tensor)
            enlarged = _multiply(moved, shares, f"{name}_size_{axis}")
            tensor = keras.layers.Permute(back, name=f"{name}_back_{axis}")(enlarged)
    return tensor


def compute_overlaps(old: int, new: int) -> NDArray[np.float32]:
    """Return the share of each old interval in each new one, (old, new), of a line divided in two ways.

    The shares of an old interval sum up to `new / old`, so the mean of the values stays.

    >>> compute_overlaps(2, 4).tolist()
    [[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]]
    >>> compute_overlaps(2, 3).round(2).tolist()
    [[1.0, 0.5, 0.0], [0.0, 0.5, 1.0]]
    """
    starts, ends = np.arange(old)[:, None] / old, np.arange(1, old + 1)[:, None] / old
    lows, highs = np.arange(new) / new, np.arange(1, new + 1) / new
    common = np.minimum(ends, highs) - np.maximum(starts, lows)
    return np.asarray(new * np.maximum(common, 0), np.float32)


def _multiply(tensor: keras.KerasTensor, kernel: NDArray[np.floating], name: str) -> keras.KerasTensor:
    """Multiply the last axis by a matrix that does not train."""
    layer = keras.layers.Dense(kernel.shape[1], use_bias=False, trainable=False, dtype="float32", name=name)
    layer.build(tensor.shape)
    layer.set_weights([kernel])
    return layer(tensor)
