"""Where else than at its end a backbone's activations are worth pooling: taps, found in any graph.

A tap is a feature map, or tokens, that a layer with a kernel reads: what one block hands to the next, and
what stands between the convolutions within it, after activation. Early ones say little of what an image
shows; the last ones say things that the output has given up for the classes it was trained on (Evci et al.,
Head2Toe, 2022, arXiv:2201.03529).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from regraft.backbones.graph import nodes_of
from regraft.backbones.load import Backbone
from regraft.errors import UsageError
from regraft.models.cut import Cut, cut
from regraft.models.head import is_head
from regraft.recipe import Taps

__all__ = ["Tap", "cut_at_taps", "find_taps"]

MOST = {"last": 1, "late": 12, "auto": 24}  # taps; those of "late" have the output's resolution besides


class Tap(NamedTuple):
    """One tensor of a backbone: `name` among what is stored, `layer` that makes it."""

    name: str
    layer: str
    tensor: keras.KerasTensor


def find_taps(backbone: Backbone, which: Taps) -> tuple[Tap, ...]:
    """The taps of a backbone in the order of its layers; its output is the last.

    Args:
        backbone: from `load_backbone`.
        which: "last" for its output alone, "late" for those of the output's resolution too, at most 12,
            "auto" for the last 24 of any resolution.

    Raises:
        UsageError: more than the last are asked for of a backbone that shows no layers.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> backbone = load_backbone("mobilenet_v2", weights="random", image_size=96)
        >>> [tap.layer for tap in find_taps(backbone, "late")][-3:]
        ['block_16_depthwise_relu', 'block_16_project_BN', 'out_relu']
    """
    output = backbone.model.outputs[0]
    found = [tensor for tensor in _read(backbone.model) if tensor is not output]
    if which == "late" and found:
        places = output.shape[1:-1] if len(output.shape) > 2 else found[-1].shape[1:-1]
        found = [tensor for tensor in found if tensor.shape[1:-1] == places]
    if which != "last" and not found:
        raise UsageError(
            f"taps {which}: expected a backbone with layers to tap. Received: {backbone.name}, which shows "
            "its output only. Leave the option out."
        )
    chosen = [*found, output][-MOST[which] :]
    return tuple(
        Tap(f"tap_{len(chosen) - number}", tensor._keras_history.operation.name, tensor)
        for number, tensor in enumerate(chosen)
    )


def cut_at_taps(model: keras.Model, taps: Sequence[Tap]) -> Cut:
    """A model from `graft` with these taps, cut behind their poolings: one tensor a tap, by its name."""
    whole = cut(model, is_head)
    pooled = whole.prefix.outputs if len(taps) == 1 else model.get_layer("head_pool").input
    prefix = keras.Model(
        model.inputs[0], {tap.name: tensor for tap, tensor in zip(taps, pooled, strict=True)}
    )
    suffix = keras.Model(pooled if len(taps) > 1 else pooled[0], model.outputs[0])
    return Cut(prefix, suffix, tuple(tap.name for tap in taps), is_head)


def _read(model: keras.Model) -> list[keras.KerasTensor]:
    """Feature maps and tokens that a layer with a kernel reads, in the order in which they are made."""
    nodes = nodes_of(model)
    first = next((number for number, node in enumerate(nodes) if _has_kernel(node.operation)), len(nodes))
    read = {id(tensor) for node in nodes if _has_kernel(node.operation) for tensor in node.input_tensors}
    made = [tensor for node in nodes[first:] for tensor in node.outputs]  # before it there are pixels only
    return [tensor for tensor in made if id(tensor) in read and _has_places(tensor)]


def _has_kernel(operation: Any) -> bool:
    return isinstance(operation, keras.layers.Layer) and any(len(w.shape) > 1 for w in operation.weights)


def _has_places(tensor: keras.KerasTensor) -> bool:
    """Whether there is something to pool: not one vector, nor one under the name of a map."""
    places = tensor.shape[1:-1]
    return len(tensor.shape) in (3, 4) and any(side is None or side > 1 for side in places)
