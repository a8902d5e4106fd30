"""R14. The whole ResNet50 trains, its pre-trained weights being the starting point.

Written by hand, a new head of random numbers sends large gradients into the network in the first steps, and
what ImageNet taught is gone before the head makes sense. Here the head always converges first, on features
of the untouched backbone; fine-tuning begins from there, warms up, and is kept only where it is better on
validation images.

    python examples/r14_head_first.py PHOTOS
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(photos, out="runs/r14", *, weights="imagenet", image_size=224, epochs=10):
    recipe = Recipe(
        backbone="resnet50",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(128,), dropout=0),
        phases=(Phase("all", learning_rate=1e-4, epochs=epochs),),  # the head is found before any phase
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
