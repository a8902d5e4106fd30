"""Fine-tune the last 50 layers of a ResNet152 at 1e-5 and freeze every other layer.

System R2 of docs/gallery.md.

Hand-written scripts "unfreeze" the last 50 layers with `for layer in base.layers[-50:]: layer.trainable =
True`. All layers of a new network are trainable already, so this changes nothing and the whole network
trains. In regraft a plan says which layers train, and all others are frozen. After training, every frozen
weight is compared with its old value bit by bit.

    python examples/finetune_last_50_layers.py IMAGES
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(
    images,
    out="runs/finetune_last_50_layers",
    *,
    backbone="resnet152",
    weights="imagenet",
    image_size=224,
    epochs=10,
):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(Phase("last:50", learning_rate=1e-5, backbone_rate=1, epochs=epochs),),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
