"""Augment training images only: neither validation nor the saved model sees a change.

System S7 of docs/gallery.md.

    python examples/augmentation.py IMAGES
"""

import sys

from regraft import Phase, Recipe, train

AUGMENTATIONS = ("flip", "crop", "rotation", "zoom", "colour", "cutmix")


def main(
    images, out="runs/augmentation", *, backbone="mobilenet_v2", weights="imagenet", image_size=224, epochs=10
):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        augment=AUGMENTATIONS,
        phases=(Phase("all", learning_rate=1e-4, epochs=epochs),),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
