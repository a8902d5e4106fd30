"""Prefix and suffix at every boundary of eight families of backbones: how far they are from the whole.

Weights are random, and batch normalisation is fitted to its pixels: else signals die out or grow on the way.
The last layer with weights trains; at each boundary before it the network is cut in two, and what both answer
is compared with what the whole network answers, relative to its largest number. That one step of training on
features equals one on the whole in float64 is held by tests/test_cut.py.

usage: boundaries.py [--count N] [--json FILE] [NAME ...]
"""

from __future__ import annotations

import argparse
import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rows import Row, Sheet, add_json

from regraft.backbones.load import load_backbone
from regraft.models.cut import Boundary, cut, sides

MOST = 1e-6  # relative difference
SIDES = {  # the smallest images that each takes: what is compared does not depend on it
    "mobilenet_v2": 32,
    "resnet50": 32,
    "inception_v3": 75,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "convnext_tiny": 32,
    "vgg16": 32,
    "nasnet_mobile": 32,
}


def network(name: str, size: int) -> keras.Model:
    """A backbone whose batch normalisation has seen pixels."""
    backbone = load_backbone(name, weights="random", image_size=size)
    norms = [part for layer in backbone.layers for part in layer._flatten_layers() if _is_norm(part)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    backbone.model(pixels(size, 4), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return backbone.model


def _is_norm(layer: keras.layers.Layer) -> bool:
    return isinstance(layer, keras.layers.BatchNormalization)


def pixels(size: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("float32")


def last_with_weights(model: keras.Model) -> keras.layers.Layer:
    layer = model.layers[-1]
    while not layer.weights:
        layer = layer._inbound_nodes[0].parent_nodes[0].operation
    return layer


def differences(name: str, size: int, count: int | None) -> list[float]:
    """The relative difference at each boundary, or at some of them, drawn."""
    model, images = network(name, size), pixels(size, 2)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    last = last_with_weights(model)
    found = sides(model, lambda layer: layer is last).boundaries
    if count is not None and count < len(found):
        found = [
            found[number] for number in np.random.default_rng(0).choice(len(found), count, replace=False)
        ]

    def difference(at: Boundary) -> float:
        halves = cut(model, lambda layer: layer is last, at)
        crossing = halves.prefix(images, training=False)
        given = [crossing[each] for each in halves.names]
        received = halves.suffix(given if len(given) > 1 else given[0], training=False)
        apart = np.abs(keras.ops.convert_to_numpy(received) - expected).max()
        return float(apart / np.abs(expected).max())

    return [difference(at) for at in found]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(SIDES), metavar="NAME")
    parser.add_argument("--count", type=int, help="boundaries of each family; all by default")
    add_json(parser)
    options = parser.parse_args()
    rows = []
    for name in options.names:
        begun = time.monotonic()
        found = differences(name, SIDES[name], options.count)
        keras.backend.clear_session()
        remark = f"{len(found)} boundaries, {sum(each == 0 for each in found)} of them bit for bit"
        title = f"suffix(prefix(x)) against backbone(x), {name}: relative difference, the largest"
        rows.append(Row(title, "", (max(found),), at_most=MOST, remark=remark))
        print(f"{name:<16} {max(found):.1e}; {remark}; {time.monotonic() - begun:.0f} s", flush=True)
    Sheet(rows).write(options.json)


if __name__ == "__main__":
    main()
