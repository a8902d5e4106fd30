"""R9. Hybrid: the last 10 layers of an InceptionV3 and a convolution of one's own before pooling.

Written by hand, "layer number N" of an Inception is a point on one of several parallel branches. A script
that computes the frozen part up to that layer, to save time, leaves the other branches out. Here the cut
follows the graph: every tensor that crosses from frozen to trained is kept, and both halves together give
what the whole gives.

    python examples/r09_hybrid_inception.py PHOTOS
"""

import sys

from regraft import HeadSpec, Phase, Recipe, train


def main(photos, out="runs/r09", *, weights="imagenet", image_size=299, epochs=10):
    recipe = Recipe(
        backbone="inception_v3",
        weights=weights,
        image_size=image_size,
        head=HeadSpec(convolutions=(64,), dropout=0),
        phases=(Phase("last:10", learning_rate=1e-4, epochs=epochs),),
    )
    return train(photos, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).path / "report.html")
