"""R2. The last 50 layers of a ResNet152 fine-tuned at 1e-5, and every other layer frozen.

Written by hand, "unfreezing" the last 50 layers is `for layer in base.layers[-50:]: layer.trainable =
True`. On a network whose layers all train to begin with, that changes nothing: all of it trains. Here a
plan says which layers train and so which do not, and after training every other weight is compared bit by
bit.

    python examples/r02_last_50_of_resnet152.py PHOTOS
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(photos, out="runs/r02", *, backbone="resnet152", weights="imagenet", image_size=224, epochs=10):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(Phase("last:50", learning_rate=1e-5, backbone_rate=1, epochs=epochs),),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
