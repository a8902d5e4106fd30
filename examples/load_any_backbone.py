"""Load backbones from any source: a name of keras.applications, a SavedModel, a preset, a file, a model.

System S1 of docs/gallery.md.

    python examples/load_any_backbone.py resnet50 resnet101_v2 mobilenet_v2 inception_v3 my_model.keras
"""

import sys

from regraft import load_backbone


def main(sources, *, weights="imagenet", image_size=None, trust=False):
    table = {}
    for source in sources:
        backbone = load_backbone(source, weights=weights, image_size=image_size, trust=trust)
        features = backbone.model.output_shape[-1]
        table[backbone.name] = (backbone.image_size, len(backbone.layers), features, backbone.contract)
    return table


if __name__ == "__main__":
    for name, (size, layers, features, contract) in main(sys.argv[1:]).items():
        print(f"{name:<24} {size:>4} px {layers:>5} layers {features:>6} features, pixels as {contract}")
