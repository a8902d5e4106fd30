"""Fine-tune the last 5 layers of a ResNet50 at 1e-5, with a softmax directly on the pooled features.

System R8 of docs/gallery.md.

The hand-written script makes the mistake of R2, so that all 175 layers train, and one more: the softmax
starts from random numbers at the backbone's rate of 1e-5, at which it learns next to nothing. regraft
solves the softmax first, which needs no rate, and trains the five layers from there.

    python examples/finetune_last_5_layers.py IMAGES
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(
    images,
    out="runs/finetune_last_5_layers",
    *,
    backbone="resnet50",
    weights="imagenet",
    image_size=224,
    epochs=10,
):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(dropout=0),
        phases=(Phase("last:5", learning_rate=1e-5, backbone_rate=1, epochs=epochs),),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
