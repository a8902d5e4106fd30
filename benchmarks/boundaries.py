"""Compare prefix and suffix with the uncut network, at every boundary of eight families of backbones.

Weights are random, and batch normalisation is fitted to its pixels: else signals would vanish or explode. The
last layer with weights trains; the network is cut in two at each boundary before it, and the output of both
halves is compared with that of the network, relative to its largest value. That one step of training on
features equals one on pixels in float64 is tested in tests/models/test_cut.py.

usage: boundaries.py [--count N] [--json FILE] [NAME ...]
"""

from __future__ import annotations

import os
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rows import Row, Sheet, make_parser

from regraft.backbones.graph import find_node, flatten_layers
from regraft.backbones.load import load_backbone
from regraft.models.cut import Boundary, cut, partition_graph

MAX_DIFFERENCE = 1e-6  # relative
SIDES = {  # the smallest images that each takes: the comparison does not depend on their size
    "mobilenet_v2": 32,
    "resnet50": 32,
    "inception_v3": 75,
    "densenet121": 32,
    "efficientnet_b0": 32,
    "convnext_tiny": 32,
    "vgg16": 32,
    "nasnet_mobile": 32,
}


def build_network(name: str, size: int) -> keras.Model:
    """Return a backbone whose batch normalisation has seen pixels."""
    backbone = load_backbone(name, weights="random", image_size=size)
    layers = (inner for layer in backbone.layers for inner in flatten_layers(layer))
    norms = [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    backbone.model(draw_pixels(size, 4), training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return backbone.model


def draw_pixels(size: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype("float32")


def find_last_with_weights(model: keras.Model) -> keras.layers.Layer:
    layer = model.layers[-1]
    while not layer.weights:
        layer = find_node(layer.output).parent_nodes[0].operation
    return layer


def measure_differences(name: str, size: int, count: int | None) -> list[float]:
    """Return the relative difference at each boundary, or at `count` random ones."""
    model, images = build_network(name, size), draw_pixels(size, 2)
    expected = keras.ops.convert_to_numpy(model(images, training=False))
    last = find_last_with_weights(model)
    boundaries = partition_graph(model, lambda layer: layer is last).boundaries
    if count is not None and count < len(boundaries):
        chosen = np.random.default_rng(0).choice(len(boundaries), count, replace=False)
        boundaries = [boundaries[number] for number in chosen]

    def measure(boundary: Boundary) -> float:
        halves = cut(model, lambda layer: layer is last, boundary)
        crossing = halves.prefix(images, training=False)
        inputs = [crossing[name] for name in halves.names]
        received = halves.suffix(inputs if len(inputs) > 1 else inputs[0], training=False)
        difference = np.abs(keras.ops.convert_to_numpy(received) - expected).max()
        return float(difference / np.abs(expected).max())

    return [measure(boundary) for boundary in boundaries]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("names", nargs="*", default=list(SIDES), metavar="NAME")
    parser.add_argument("--count", type=int, help="boundaries of each family [default: all]")
    options = parser.parse_args()
    rows = []
    for name in options.names:
        start = time.monotonic()
        differences = measure_differences(name, SIDES[name], options.count)
        keras.backend.clear_session()
        remark = f"{len(differences)} boundaries, {differences.count(0)} of them bit-identical"
        title = f"suffix(prefix(x)) against backbone(x), {name}: relative difference, the largest"
        rows.append(Row(title, "", (max(differences),), at_most=MAX_DIFFERENCE, remark=remark))
        print(f"{name:<16} {max(differences):.1e}; {remark}; {time.monotonic() - start:.0f} s", flush=True)
    Sheet(rows).write(options.json)


if __name__ == "__main__":
    main()
