"""R7. A frozen MobileNetV2: what is frozen is computed once.

Written by hand, `model.fit(epochs=20)` sends every image through the frozen network twenty times for the
same answer, and once more for every other head that you try. Here it goes through once; epochs, other heads
and later runs read what was stored.

    python examples/r07_features_once.py PHOTOS
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(photos, out="runs/r07", *, hidden=128, weights="imagenet", image_size=224):
    recipe = Recipe(
        backbone="mobilenet_v2",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(hidden,), dropout=0),
        phases=(),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).metrics["features"])
