"""Run a ResNet50 in inference mode, so that batch normalisation keeps the statistics of ImageNet.

System R10 of docs/gallery.md.

The guides recommend `base(x, training=False)`. In Keras 3.15 it does not hold during `fit`: unless every
layer is frozen as well, the statistics drift. In regraft a frozen backbone does not run during training at
all, and every plan freezes batch normalisation, layer by layer. The saved model remembers that, even if you
train it further yourself.

    python examples/inference_mode.py IMAGES
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(images, out="runs/inference_mode", *, backbone="resnet50", weights="imagenet", image_size=224):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
