"""Cut the ImageNet classifier off a ResNet50 and train its layers from index 140 on.

System R12 of docs/gallery.md.

The hand-written `Dense(n)(base.output)` puts the new classes on top of the old classifier's probabilities,
and `base.layers[-3].output` cuts at the wrong layer. regraft recognises the old classifier and cuts it off.

Keras counts a network's input as layer 0. A freeze plan counts from the first layer after the input, so
Keras' `layers[140:]` is `from:139`.

    python examples/cut_off_classifier.py IMAGES
"""

import sys

import keras

from regraft import HeadSpec, Phase, Recipe, load_backbone, train


def main(images, out="runs/cut_off_classifier", *, weights="imagenet", image_size=224, epochs=10):
    published = keras.applications.ResNet50(weights=weights, input_shape=(image_size, image_size, 3))
    recipe = Recipe(
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(Phase("from:139", learning_rate=1e-5, backbone_rate=1, epochs=epochs),),
    )
    return train(images, recipe, out, backbone=load_backbone(published))


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
