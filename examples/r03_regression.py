"""R3. A number for each image: regression on a frozen ResNet152.

Written by hand, the script of a classifier is edited until it runs: accuracy stays in `metrics` (0.0 for
ever), the split is stratified by "classes" that are numbers. Here the task decides loss, scores, split and
report: squared error in training, mean absolute error in the target's own unit in the report.

    python examples/r03_regression.py HOUSES.csv        # a table with the columns "image" and "price"
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(table, out="runs/r03", *, target="price", backbone="resnet152", weights="imagenet", image_size=224):
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
