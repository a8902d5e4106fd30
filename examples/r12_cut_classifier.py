"""R12. A ResNet50 with its ImageNet classifier, cut before it; its layers from index 140 on train.

Written by hand, `Dense(n)(base.output)` puts the new classes on top of the old classifier's probabilities,
or `base.layers[-3].output` cuts at the wrong place. Here the old classifier is recognised and cut off.

A network in Keras counts its input as layer 0; a freeze plan counts what has been learned, so Keras'
`layers[140:]` is `from:139`.

    python examples/r12_cut_classifier.py PHOTOS
"""

import sys

import keras

from regraft import HeadSpec, Phase, Recipe, load_backbone, train


def main(photos, out="runs/r12", *, weights="imagenet", image_size=224, epochs=10):
    published = keras.applications.ResNet50(weights=weights, input_shape=(image_size, image_size, 3))
    recipe = Recipe(
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(Phase("from:139", learning_rate=1e-5, backbone_rate=1, epochs=epochs),),
    )
    return train(photos, recipe, out, backbone=load_backbone(published))


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
