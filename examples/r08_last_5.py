"""R8. The last 5 layers of a ResNet50 at 1e-5, softmax straight on the pooled features.

Written by hand, this has the mistake of R2, all 175 layers train, and one more: the softmax starts from
random numbers at the rate of the backbone, 1e-5, at which it learns next to nothing. Here the softmax is
solved first, which needs no rate, and the five layers train from there.

    python examples/r08_last_5.py PHOTOS
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(photos, out="runs/r08", *, weights="imagenet", image_size=224, epochs=10):
    recipe = Recipe(
        backbone="resnet50",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(dropout=0),
        phases=(Phase("last:5", learning_rate=1e-5, backbone_rate=1, epochs=epochs),),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
