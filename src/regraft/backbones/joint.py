"""Several networks side by side on one image, as one frozen backbone.

The image has the size of the first network, or the one that the user asks of all of them. A network that is
published for another size resizes the image within its graph. So a network added behind the first ones leaves
what they compute, and the keys of their stored features, as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import keras

from regraft.backbones.graph import list_nodes, replay_graph
from regraft.backbones.load import Backbone
from regraft.errors import UsageError

__all__ = ["JointBackbone", "join_backbones"]

FROZEN = "several networks are used frozen"


@dataclass(frozen=True, kw_only=True)
class JointBackbone(Backbone):
    """Several networks on one image. Its model has the output of each, in order; no plan trains it.

    Attributes:
        parts: the networks. All take images of one size and share their layers with this one.
        resized: which of them resize the images in their graph.
    """

    parts: tuple[Backbone, ...]
    resized: tuple[bool, ...]


def join_backbones(backbones: Sequence[Backbone]) -> JointBackbone:
    """Put several backbones side by side on one image, of the size of the first.

    Their layers are shared, not copied. Where two of them have one name, that of the later one gets the name
    of its network in front, since names in a graph are unique.

    Raises:
        UsageError: two of them are the same network with the same weights.

    Example:
        >>> from regraft.backbones.load import load_backbone
        >>> names = "mobilenet_v2", "mobilenet"
        >>> parts = [load_backbone(name, weights="random", image_size=32) for name in names]
        >>> [tensor.shape for tensor in join_backbones(parts).model.outputs]
        [(None, 1, 1, 1280), (None, 1, 1, 1024)]
    """
    _expect_different(backbones)
    size = backbones[0].image_size
    parts = tuple(_resize_input(backbone, size) for backbone in backbones)
    _make_names_unique(parts)
    image = keras.Input((size, size, 3), name="image")
    outputs = [replay_graph(part.model, image) for part in parts]
    name = " + ".join(part.name for part in parts)
    return JointBackbone(
        name=name,
        model=keras.Model(image, [_take_only(output) for output in outputs]),
        image_size=size,
        layers=tuple(layer for part in parts for layer in part.layers),
        stages={},
        weights="; ".join(part.weights for part in parts),
        contract=", ".join(dict.fromkeys(part.contract for part in parts)),
        frozen_because=FROZEN,
        parts=parts,
        resized=tuple(backbone.image_size != size for backbone in backbones),
    )


def _expect_different(backbones: Sequence[Backbone]) -> None:
    seen = set()
    for backbone in backbones:
        if (backbone.name, backbone.weights) in seen:
            raise UsageError(
                "backbone: expected different networks. "
                f"Received: {backbone.name} twice, with the weights {backbone.short_weights}."
            )
        seen.add((backbone.name, backbone.weights))


def _take_only(output: keras.KerasTensor | list[keras.KerasTensor]) -> keras.KerasTensor:
    return output[0] if isinstance(output, (list, tuple)) else output


def _resize_input(backbone: Backbone, size: int) -> Backbone:
    """Return a backbone that takes images of this size, and resizes them in its graph if it needs another."""
    own = backbone.image_size
    if own == size:
        return backbone
    image = keras.Input((size, size, 3), name="image")
    resized = keras.ops.image.resize(image, (own, own), interpolation="bilinear", antialias=True)
    output = _take_only(replay_graph(backbone.model, resized))
    note = f"{backbone.name} sees the images of {size} pixels a side at its own {own}."
    return replace(backbone, model=keras.Model(image, output), image_size=size, notes=(*backbone.notes, note))


def _make_names_unique(parts: Sequence[Backbone]) -> None:
    """Change the names of operations that an earlier network has as well."""
    taken: set[str] = set()
    for part in parts:
        operations = {
            id(node.operation): node.operation for node in list_nodes(part.model) if not node.is_input
        }
        for operation in operations.values():
            name, number = str(operation.name), 1
            while name in taken:
                name = f"{part.name}_{operation.name}" + (f"_{number}" if number > 1 else "")
                number += 1
            if name != operation.name:
                operation.name = name
            taken.add(name)
