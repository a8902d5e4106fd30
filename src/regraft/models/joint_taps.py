"""Taps of several networks: each network's output, and what its own taps are, as tensors on one image."""

from __future__ import annotations

import keras

from regraft.backbones.graph import replay_graph
from regraft.backbones.joint import JointBackbone
from regraft.backbones.load import Backbone
from regraft.models.attention import pool
from regraft.models.head import pool_features
from regraft.models.taps import Tap, find_taps
from regraft.recipe import HeadSpec, Taps

__all__ = ["find_joint_taps", "make_pooled_network", "make_pooled_networks", "name_tensor"]

OUTPUT = "cut_0"  # as `cut` names the only output of a frozen network, so that stored features are shared


def find_joint_taps(backbone: JointBackbone, head: HeadSpec) -> tuple[Tap, ...]:
    """Return the taps of every network, on the image of all; a network's output is the last of its taps.

    Args:
        backbone: several networks.
        head: says which taps of each network its features may come from.

    Example:
        >>> from regraft.backbones.joint import join_backbones
        >>> from regraft.backbones.load import load_backbone
        >>> names = "mobilenet_v2", "mobilenet"
        >>> parts = [load_backbone(name, weights="random", image_size=32) for name in names]
        >>> [tap.name for tap in find_joint_taps(join_backbones(parts), HeadSpec(taps="last"))]
        ['network_1_cut_0', 'network_2_cut_0']
    """
    image, joint = backbone.model.inputs[0], []
    for number, part in enumerate(backbone.parts):
        taps = _list_taps(part, head)
        tensors = replay_graph(keras.Model(part.model.inputs[0], [tap.tensor for tap in taps]), image)
        tensors = tensors if isinstance(tensors, (list, tuple)) else [tensors]
        joint += [
            tap._replace(name=name_tensor(number, tap.name), tensor=tensor)
            for tap, tensor in zip(taps, tensors, strict=True)
        ]
    return tuple(joint)


def make_pooled_networks(backbone: JointBackbone, head: HeadSpec) -> list[keras.Model]:
    """Return each network by itself, from pixels to its pooled taps: what a run of it alone would extract."""
    return [make_pooled_network(part, head) for part in backbone.parts]


def make_pooled_network(part: Backbone, head: HeadSpec) -> keras.Model:
    """Return one network from pixels to its pooled taps: that, and so the key, of `train` without phases.

    The last of its outputs is the backbone's own; the others are those of the layers that a head may use.
    """
    taps = _list_taps(part, head)
    if len(taps) == 1:
        return keras.Model(part.model.inputs[0], {OUTPUT: pool_features(part, head)})
    names = [f"head_pool_{number}" for number in range(1, len(taps) + 1)]
    vectors = {tap.name: pool(tap.tensor, head.pooling, name) for tap, name in zip(taps, names, strict=True)}
    return keras.Model(part.model.inputs[0], vectors)


def _list_taps(part: Backbone, head: HeadSpec) -> tuple[Tap, ...]:
    """Return the taps of one network under the names that a run of it alone would give them."""
    which: Taps = "auto" if head.chooses_taps else "last"
    taps = find_taps(part, "late" if head.taps == "late" else which)
    return taps if len(taps) > 1 else (taps[0]._replace(name=OUTPUT),)


def name_tensor(network: int, tensor: str) -> str:
    """Return the name of a network's tensor among those of several networks.

    Args:
        network: its number, from 0.
        tensor: its name in that network alone.

    >>> name_tensor(0, "tap_1")
    'network_1_tap_1'
    """
    return f"network_{network + 1}_{tensor}"
