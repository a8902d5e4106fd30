"""Train a head on a frozen MobileNetV2 whose features are computed once.

System R7 of docs/gallery.md.

A hand-written `model.fit(epochs=20)` sends every image through the frozen network twenty times for the same
answer, and twenty times more for every other head that you try. regraft sends it through once; epochs,
other heads and later runs read the stored features.

    python examples/features_computed_once.py IMAGES
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(images, out="runs/features_computed_once", *, hidden=128, weights="imagenet", image_size=224):
    recipe = Recipe(
        backbone="mobilenet_v2",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(hidden,), dropout=0),
        phases=(),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).metrics["features"])
