"""R11. ResNet V2 50 from TensorFlow Hub: first nothing of it trains, then everything.

Written by hand, `hub.KerasLayer` is a layer of Keras 2: Keras 3 refuses it, or, wrapped, runs it without
seeing its weights, so that "trainable=True" trains nothing. Here a SavedModel is a layer whose variables
are real weights; the model that is saved holds it whole.

    python examples/r11_savedmodel_then_all.py PHOTOS
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train

RESNET_V2_50 = "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5"


def main(photos, out="runs/r11", *, backbone=RESNET_V2_50, image_size=224, epochs=5):
    recipe = Recipe(
        backbone=backbone,  # a handle of TensorFlow Hub or Kaggle, or the folder of a SavedModel
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(
            Phase("none", learning_rate=1e-3, epochs=epochs),
            Phase("all", learning_rate=1e-4, backbone_rate=0.1, epochs=epochs),
        ),
    )
    return train(photos, recipe, out, trust=True)  # the graph is run: you know where it comes from


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
