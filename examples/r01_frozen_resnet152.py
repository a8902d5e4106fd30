"""R1. A frozen ResNet152 with a head of one hidden layer.

Written by hand, this goes wrong where pixels meet the network: ResNet's ImageNet weights expect BGR with
the mean of ImageNet taken off. Forget `preprocess_input`, or scale to 0..1 instead, and nothing complains;
the features are simply poor. Here every backbone brings its own convention inside its graph: the model
takes RGB in 0..255, and so does the file that is saved.

    python examples/r01_frozen_resnet152.py PHOTOS
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(photos, out="runs/r01", *, backbone="resnet152", weights="imagenet", image_size=224):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(),  # nothing in the backbone trains; the head learns from stored features
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
