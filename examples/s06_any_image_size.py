"""S6. Any input size that the backbone allows; below its minimum, a clear error before any work.

python examples/s06_any_image_size.py PHOTOS
"""

import sys

from regraft import Recipe, train


def main(photos, out="runs/s06", *, sizes=(96, 160, 224), backbone="mobilenet_v2", weights="imagenet"):
    runs = {}
    for size in sizes:
        recipe = Recipe(backbone=backbone, weights=weights, image_size=size, phases=())
        runs[size] = train(photos, recipe, f"{out}/{size}")
    return runs


if __name__ == "__main__":
    for size, run in main(sys.argv[1]).items():
        print(size, run.metrics["validation"]["top1"]["value"])
