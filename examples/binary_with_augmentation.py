"""Answer yes or no: a frozen ResNet50 at 128 x 128, one sigmoid unit, random flips and rotations.

System R6 of docs/gallery.md.

Three things go wrong in hand-written scripts: two sigmoid units meet one column of labels; augmentation
layers inside the model also change the images that it predicts; and a generator that applies
`preprocess_input` also divides by 255. In regraft two classes make one unit, augmentation is never part of
a model, and pixels in 0..1 are refused.

    python examples/binary_with_augmentation.py IMAGES      # two class folders
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(
    images, out="runs/binary_with_augmentation", *, backbone="resnet50", weights="imagenet", image_size=128
):
    recipe = Recipe(
        task="binary",
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        augment=("flip", "rotation"),  # training images only
        head=HeadSpec(hidden=(256,), dropout=0.3),
        phases=(),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
