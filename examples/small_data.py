"""Train on a few dozen images a class, with every remedy for overfitting.

System S10 of docs/gallery.md.

The remedies are dropout, weight decay, augmentation, early stopping and small rates for pre-trained layers:
a tenth of the head's rate, halved again for every stage further down. An epoch counts only if it is better
on validation images.

    python examples/small_data.py IMAGES
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(
    images, out="runs/small_data", *, backbone="resnet50", weights="imagenet", image_size=224, epochs=30
):
    phase = Phase(
        "all",
        epochs=epochs,
        learning_rate=1e-3,
        backbone_rate=0.1,
        depth_decay=0.5,
        weight_decay=1e-3,
        patience=3,  # stops after three epochs without improvement
    )
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        augment=("flip", "crop", "rotation", "colour"),
        class_weight="balanced",
        head=HeadSpec(dropout=0.5),
        phases=(phase,),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
