"""R4. Arrays in memory, 32 x 32 as in CIFAR-10, on a ResNet50.

Written by hand, `ResNet50(input_shape=(32, 32, 3))` runs: the network answers with a feature map of 1 x 1
made of little but padding, and nobody says a word. Here the images are enlarged to what the backbone was
trained on, and you are told that they are small.

    python examples/r04_small_arrays.py CIFAR.npz       # arrays "images" (n, 32, 32, 3) and "labels" (n,)
"""

import sys

import numpy as np

from regraft import Catalog, HeadSpec, Recipe, train


def main(images, labels, out="runs/r04", *, weights="imagenet", image_size=224):
    catalog = Catalog.from_arrays(images, labels, task="multiclass")
    recipe = Recipe(
        backbone="resnet50",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(128,), dropout=0),
        phases=(),
    )
    return train(catalog, recipe, out)


if __name__ == "__main__":
    arrays = np.load(sys.argv[1])
    print(main(arrays["images"], arrays["labels"]).path / "report.html")
