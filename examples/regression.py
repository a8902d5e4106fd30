"""Predict a number for each image: regression on a frozen ResNet152.

System R3 of docs/gallery.md.

The hand-written script is usually a classifier, edited until it runs: accuracy stays in `metrics` (and is
0.0 for ever), and the split is stratified by "classes" that are numbers. In regraft the task decides loss,
scores, split and report: training minimises the squared error, and the report has the mean absolute error
in the target's own unit.

    python examples/regression.py HOUSES.csv        # a table with the columns "image" and "price"
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(
    table, out="runs/regression", *, target="price", backbone="resnet152", weights="imagenet", image_size=224
):
    recipe = Recipe(
        image=("image",),
        target=(target,),
        task="regression",
        backbone=backbone,
        weights=weights,
        image_size=image_size,
        head=HeadSpec(hidden=(128,), dropout=0),
        phases=(),
    )
    return train(table, recipe, out)


if __name__ == "__main__":
    print(main(sys.argv[1]).metrics["validation"]["mae"])
