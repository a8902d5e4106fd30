"""What can be told of a user's own network: its family, and its stages.

A network of `keras.applications` is recognised by the name of its model or, since models that people build
around one have names of their own, by a layer that no other family has. Any other network is divided into
stages where the resolution of its feature maps halves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from regraft.backbones.graph import list_nodes
from regraft.backbones.zoo import ZOO, Entry, recognise_model

__all__ = ["find_stages", "recognise_layers", "recognise_network"]

# A layer of each family, by its module; VGG19, which has all layers of VGG16, comes after that.
# ConvNeXt puts the name of its model in front of every layer.
MARKS = {
    "mobilenet": "conv_pw_13",
    "mobilenet_v2": "block_16_project_BN",
    "mobilenet_v3": "expanded_conv_10_project_bn",
    "nasnet": "reduction_concat_stem_1",
    "resnet": "conv5_block1_3_bn",
    "resnet_v2": "conv5_block1_preact_bn",
    "vgg16": "block5_conv3",
    "vgg19": "block5_conv4",
    "xception": "block14_sepconv2",
    "inception_v3": "mixed10",
    "inception_resnet_v2": "conv_7b_ac",
    "densenet": "conv5_block16_concat",
    "efficientnet": "block7a_dwconv",
    "efficientnet_v2": "block6a_dwconv2",
}
HALF = 0.7  # of the last resolution, from which it counts as halved: uneven sides and borders are cut off


def recognise_network(names: Iterable[str], model: keras.Model) -> Entry | None:
    """Return the entry of the table that a network is of, or one of its family; None where there is none.

    Args:
        names: what the model, and the networks within it, are called.
        model: the network without a classifier.
    """
    by_name = next(filter(None, map(recognise_model, names)), None)
    channels = model.outputs[0].shape[-1]
    return by_name or recognise_layers((layer.name for layer in model.layers), channels)


def recognise_layers(layer_names: Iterable[str], channels: int | None) -> Entry | None:
    """Return an entry of the family whose layers have these names, whatever the model itself is called.

    Networks of one family have the same contract and the same kinds of stages, so any of its entries does.

    Args:
        layer_names: the names of the layers of a network.
        channels: of its output, which must be those of a network of the family.

    >>> recognise_layers(["conv1", "conv_pw_13"], 1024).name, recognise_layers(["conv_pw_13"], 7)
    ('mobilenet', None)
    """
    names = frozenset(layer_names)
    entries = (entry for entry in ZOO.values() if entry.features == channels)
    modules, matches = list(MARKS), [entry for entry in entries if MARKS.get(entry.module) in names]
    return max(matches, key=lambda entry: modules.index(entry.module), default=None)


def find_stages(
    entry: Entry | None, model: keras.Model, layers: Sequence[keras.layers.Layer]
) -> dict[str, int]:
    """Return the index of the first layer of each stage, in order; {} where there is only one.

    Args:
        entry: the entry of the network, whose names tell its stages; None to go by the resolution.
        model: the network.
        layers: its own layers, in order.

    Example:
        >>> x = image = keras.Input((32, 32, 3))
        >>> for _ in range(3):
        ...     x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(x)
        >>> model = keras.Model(image, x)
        >>> find_stages(None, model, model.layers[1:])
        {'stage_1': 0, 'stage_2': 1, 'stage_3': 2}
    """
    starts = entry.stages.find_starts(layer.name for layer in layers) if entry else {}
    return starts or _divide_by_resolution(model, layers)


def _divide_by_resolution(model: keras.Model, layers: Sequence[keras.layers.Layer]) -> dict[str, int]:
    sides: dict[int, int] = {}
    for node in list_nodes(model):
        sides.setdefault(id(node.operation), _get_side(node.outputs[0]))
    starts, side, has_kernel = [0], 0, False
    for number, layer in enumerate(layers):
        now = sides.get(id(layer), 0)
        if now and side and now <= HALF * side:
            # Before the first kernel there is nothing to train, so no stage ends there.
            starts += [number] if has_kernel else []
            side = now
        side = side or now
        has_kernel = has_kernel or any(len(weight.shape) > 1 for weight in layer.weights)
    names = {f"stage_{number}": start for number, start in enumerate(starts, 1)}
    return names if len(names) > 1 else {}


def _get_side(tensor: Any) -> int:
    """Return the height of a feature map; 0 for other tensors."""
    return int(tensor.shape[1] or 0) if len(tensor.shape) == 4 else 0
