"""Taps: the tensors within a backbone, besides its output, that are worth pooling. They exist in any graph.

A tap is a feature map, or tokens, that a layer with a kernel reads: what one block passes to the next, and
what passes between the convolutions within it, after activation. Early taps say little about what an image
shows; the last ones keep information that the output has dropped in favour of the classes it was trained on
(Evci et al., Head2Toe, 2022, arXiv:2201.03529).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from regraft.backbones.graph import find_node, find_operation, list_nodes
from regraft.backbones.load import Backbone
from regraft.errors import UsageError
from regraft.models.cut import Cut, cut
from regraft.models.head import is_head
from regraft.recipe import Taps

__all__ = ["Tap", "cut_at_taps", "find_taps"]

MOST_TAPS = {"last": 1, "late": 12, "auto": 12}  # "late" also asks for the output's resolution


class Tap(NamedTuple):
    """A tensor of a backbone: its `name` in the store, and the `layer` that makes it."""

    name: str
    layer: str
    tensor: keras.KerasTensor


def find_taps(backbone: Backbone, which: Taps) -> tuple[Tap, ...]:
    """Return the taps of a backbone in the order of its layers; its output is the last.

    Args:
        backbone: from `load_backbone`.
        which: "last" for its output alone, "late" for up to 12 of the output's resolution, "auto" for the
            last 12 of any resolution, since 24 cost more time for a loss only 3 % lower.

    Raises:
        UsageError: `which` is "late", and the backbone shows no layers.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("mobilenet_v2", weights="random", image_size=96)
        >>> [tap.layer for tap in find_taps(backbone, "late")][-3:]
        ['block_16_depthwise_relu', 'block_16_project_BN', 'out_relu']
    """
    output = backbone.model.outputs[0]
    tensors = [tensor for tensor in _list_candidates(backbone.model) if tensor is not output]
    if which == "late" and tensors:
        resolution = output.shape[1:-1] if len(output.shape) > 2 else tensors[-1].shape[1:-1]
        tensors = [tensor for tensor in tensors if tensor.shape[1:-1] == resolution]
    if which == "late" and not tensors:
        raise UsageError(
            f"taps {which}: expected a backbone with layers to tap. Received: {backbone.name}, which shows "
            "its output only. Leave the option out."
        )
    chosen = [*tensors, output][-MOST_TAPS[which] :]
    return tuple(
        Tap(f"tap_{len(chosen) - number}", find_operation(tensor).name, tensor)
        for number, tensor in enumerate(chosen)
    )


def cut_at_taps(model: keras.Model, taps: Sequence[Tap]) -> Cut:
    """Cut a model from `graft` with these taps after their poolings; each tap's tensor has its name."""
    pooled = cut(model, is_head).prefix.outputs if len(taps) == 1 else model.get_layer("head_pool").input
    prefix = keras.Model(
        model.inputs[0], {tap.name: tensor for tap, tensor in zip(taps, pooled, strict=True)}
    )
    suffix = keras.Model(pooled if len(taps) > 1 else pooled[0], model.outputs[0])
    return Cut(prefix, suffix, tuple(tap.name for tap in taps), is_head)


def _list_candidates(model: keras.Model) -> list[keras.KerasTensor]:
    """Return the feature maps and tokens that a layer with a kernel reads, in the order of the graph."""
    nodes = list_nodes(model)
    first = next((number for number, node in enumerate(nodes) if _has_kernel(node.operation)), len(nodes))
    read = {
        id(_skip_padding(tensor))
        for node in nodes
        if _has_kernel(node.operation)
        for tensor in node.input_tensors
    }
    made = [tensor for node in nodes[first:] for tensor in node.outputs]  # before, there are only pixels
    return [tensor for tensor in made if id(tensor) in read and _has_positions(tensor)]


def _skip_padding(tensor: keras.KerasTensor) -> keras.KerasTensor:
    """Return what a layer pads with zeros, or the tensor itself: padding tells nothing new."""
    node = find_node(tensor)
    return node.input_tensors[0] if isinstance(node.operation, keras.layers.ZeroPadding2D) else tensor


def _has_kernel(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer) and any(len(w.shape) > 1 for w in operation.weights)


def _has_positions(tensor: keras.KerasTensor) -> bool:
    """Return whether there is something to pool: neither a vector nor a map of a single position."""
    positions = tensor.shape[1:-1]
    return len(tensor.shape) in (3, 4) and any(side is None or side > 1 for side in positions)
