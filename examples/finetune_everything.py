"""Fine-tune a whole ResNet50 from its pre-trained weights.

System R14 of docs/gallery.md.

In a hand-written script a new, random head sends large gradients into the network in the first steps, and
what ImageNet taught is gone before the head makes sense. In regraft the head always converges first, on
features of the unchanged backbone. Fine-tuning begins from there and warms up; it is kept only if it is
better on validation images.

    python examples/finetune_everything.py IMAGES
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(
    images,
    out="runs/finetune_everything",
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
        head=HeadSpec(hidden=(128,), dropout=0),
        phases=(Phase("all", learning_rate=1e-4, epochs=epochs),),  # the head converges before any phase
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
