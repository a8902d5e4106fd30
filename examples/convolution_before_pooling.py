"""Train a hybrid: the last 10 layers of an InceptionV3 and a new convolution before pooling.

System R9 of docs/gallery.md.

"Layer number N" of an Inception network lies on one of several parallel branches. A hand-written script
that saves time by computing the frozen part up to that layer leaves the other branches out. In regraft the
cut follows the graph: it keeps every tensor that crosses from the frozen to the trained part, and the two
parts together give what the uncut network gives.

    python examples/convolution_before_pooling.py IMAGES
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(
    images,
    out="runs/convolution_before_pooling",
    *,
    backbone="inception_v3",
    weights="imagenet",
    image_size=299,
    epochs=10,
):
    recipe = Recipe(
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(convolutions=(64,), dropout=0),
        phases=(Phase("last:10", learning_rate=1e-4, epochs=epochs),),
    )
    return train(images, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
