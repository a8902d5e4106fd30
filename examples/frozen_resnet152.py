"""Train a head with one hidden layer on a frozen ResNet152.

System R1 of docs/gallery.md.

ResNet's ImageNet weights expect BGR pixels with the ImageNet mean subtracted. A hand-written script that
forgets `preprocess_input`, or scales to 0..1 instead, still runs without complaint; the features are simply
poor. In regraft every backbone has its preprocessing inside its graph: the model takes RGB in 0..255, and
so does the saved file.

    python examples/frozen_resnet152.py IMAGES
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(images, out="runs/frozen_resnet152", *, backbone="resnet152", weights="imagenet", image_size=224):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(),  # nothing in the backbone trains; the head learns from stored features
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
