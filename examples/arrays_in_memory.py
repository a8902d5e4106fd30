"""Train on arrays in memory, 32 x 32 as in CIFAR-10, with a ResNet50.

System R4 of docs/gallery.md.

The hand-written `ResNet50(input_shape=(32, 32, 3))` runs without a warning, but its last feature map is
1 x 1 and made of little but padding. regraft enlarges the images to the size that the backbone was trained
on, and tells you that they are small.

    python examples/arrays_in_memory.py CIFAR.npz       # arrays "images" (n, 32, 32, 3) and "labels" (n,)
"""

import sys

import numpy as np

from regraft import Catalog, HeadSpec, Recipe, train


def main(
    images, labels, out="runs/arrays_in_memory", *, backbone="resnet50", weights="imagenet", image_size=224
):
    catalog = Catalog.from_arrays(images, labels, task="multiclass")
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(128,), dropout=0),
        phases=(),
    )
    return train(catalog, recipe, out)


if __name__ == "__main__":
    arrays = np.load(sys.argv[1])
    print(main(arrays["images"], arrays["labels"]).path / "report.html")
