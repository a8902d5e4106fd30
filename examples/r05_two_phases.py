"""R5. Two phases: the head at 1e-3, then the last 20 layers of a ResNet50 at 1e-4.

Written by hand, the second phase sets `trainable` and calls `fit` again. Without another `compile` the
training step is the old one: twenty layers that were to train do not, and the loss goes on falling a
little, so it looks right. Here a phase is a value; each one sets what trains, then builds its own training
step.

    python examples/r05_two_phases.py PHOTOS
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(photos, out="runs/r05", *, weights="imagenet", image_size=224, epochs=10):
    recipe = Recipe(
        backbone="resnet50",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(512,), dropout=0.5),
        phases=(
            Phase("none", learning_rate=1e-3, epochs=epochs),
            Phase("last:20", learning_rate=1e-4, backbone_rate=1, epochs=epochs),
        ),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
