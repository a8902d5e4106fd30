"""Train on ResNet V2 50 from TensorFlow Hub: first the head alone, then everything.

System R11 of docs/gallery.md.

`hub.KerasLayer` is a layer of Keras 2. Keras 3 refuses it, or, if it is wrapped, runs it without seeing its
weights, so that "trainable=True" trains nothing. In regraft a SavedModel is a layer whose variables are
real weights, and the saved model contains all of it.

    python examples/finetune_savedmodel.py IMAGES
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train

RESNET_V2_50 = "https://tfhub.dev/google/imagenet/resnet_v2_50/feature_vector/5"


def main(images, out="runs/finetune_savedmodel", *, backbone=RESNET_V2_50, image_size=224, epochs=5):
    recipe = Recipe(
        backbone=backbone,  # a handle of TensorFlow Hub or Kaggle, or the folder of a SavedModel
        image_size=image_size,
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(
            Phase("none", learning_rate=1e-3, epochs=epochs),
            Phase("all", learning_rate=1e-4, backbone_rate=0.1, epochs=epochs),
        ),
    )
    return train(images, recipe, out, trust=True)  # runs the graph: only if you know its source


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
