"""S7. Augmentation in training, and nowhere else: not in validation, not in the model that is saved.

python examples/s07_augmentation.py PHOTOS
"""

import sys

from regraft import Phase, Recipe, train

CHANGES = ("flip", "crop", "rotation", "zoom", "colour", "cutmix")


def main(photos, out="runs/s07", *, backbone="mobilenet_v2", weights="imagenet", image_size=224, epochs=10):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        augment=CHANGES,
        phases=(Phase("all", learning_rate=1e-4, epochs=epochs),),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
