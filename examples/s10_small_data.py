"""S10. A few dozen images a class: dropout, weight decay, augmentation, early stopping, small rates below.

What the backbone knows is kept by what it is not given: a tenth of the head's rate for the pre-trained
layers, half as much again for every stage further down, and no epoch counts that is not better on
validation.

    python examples/s10_small_data.py PHOTOS
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(photos, out="runs/s10", *, backbone="resnet50", weights="imagenet", image_size=224, epochs=30):
    careful = Phase(
        "all",
        epochs=epochs,
        learning_rate=1e-3,
        backbone_rate=0.1,
        depth_decay=0.5,
        weight_decay=1e-3,
        patience=3,  # epochs without a better one, after which it stops
    )
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        augment=("flip", "crop", "rotation", "colour"),
        class_weight="balanced",
        head=HeadSpec(dropout=0.5),
        phases=(careful,),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
