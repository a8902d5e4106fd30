"""R10. A ResNet50 in inference mode: its batch normalisation keeps the statistics of ImageNet.

Written by hand, `base(x, training=False)` is the idiom of the guides. In Keras 3.15 it does not hold during
`fit`: unless every layer is frozen as well, the statistics drift. Here a frozen backbone does not run
during training at all, batch normalisation is frozen under every plan, layer by layer, and the saved model
remembers that: it holds when you go on training it yourself.

    python examples/r10_inference_mode.py PHOTOS
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(photos, out="runs/r10", *, weights="imagenet", image_size=224):
    recipe = Recipe(
        backbone="resnet50",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
