"""Train in two phases: the head at 1e-3, then the last 20 layers of a ResNet50 at 1e-4.

System R5 of docs/gallery.md.

In a hand-written script the second phase sets `trainable` and calls `fit` again. Without another `compile`,
`fit` reuses the old training step: the twenty layers do not train, and the loss still falls a little, so
everything looks right. In regraft a phase is a value. Each phase sets what trains and then builds its own
training step.

    python examples/two_phases.py IMAGES
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(
    images, out="runs/two_phases", *, backbone="resnet50", weights="imagenet", image_size=224, epochs=10
):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(512,), dropout=0.5),
        phases=(
            Phase("none", learning_rate=1e-3, epochs=epochs),
            Phase("last:20", learning_rate=1e-4, backbone_rate=1, epochs=epochs),
        ),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
