"""R6. Yes or no: a frozen ResNet50 at 128 x 128, one sigmoid unit, random flips and rotations.

Written by hand, three things go wrong: two sigmoid units against one column of labels; augmentation layers
in the model, which act on the images it is asked about as well; `preprocess_input` on pixels that a
generator had scaled to 0..1 already. Here two classes give one unit, augmentation never is part of a model,
and pixels in 0..1 are refused.

    python examples/r06_binary_augmented.py PHOTOS      # two class folders
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(photos, out="runs/r06", *, weights="imagenet", image_size=128):
    recipe = Recipe(
        task="binary",
        backbone="resnet50",
        weights=weights,
        image_size=image_size,
        augment=("flip", "rotation"),  # of training images only
        head=HeadSpec(hidden=(256,), dropout=0.3),
        phases=(),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
