"""Unfreeze gradually: the head, then one more stage at a time, each at its own rate.

System S3 of docs/gallery.md.

    python examples/gradual_unfreezing.py IMAGES
"""

import sys

from regraft import Phase, Recipe, train

RESNET50 = {"none": 1e-3, "stage:conv5": 1e-4, "stage:conv4": 3e-5, "stage:conv3": 1e-5}


def main(
    images,
    out="runs/gradual_unfreezing",
    *,
    backbone="resnet50",
    rates=RESNET50,
    weights="imagenet",
    image_size=224,
):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        phases=tuple(Phase(plan, learning_rate=rate, epochs=3) for plan, rate in rates.items()),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
