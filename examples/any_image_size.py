"""Train at any input size that the backbone allows; below its minimum, fail before any work.

System S6 of docs/gallery.md.

    python examples/any_image_size.py IMAGES
"""

import sys

from regraft import Recipe, train


def main(
    images, out="runs/any_image_size", *, sizes=(96, 160, 224), backbone="mobilenet_v2", weights="imagenet"
):
    runs = {}
    for size in sizes:
        recipe = Recipe(backbone=backbone, weights=weights, image_size=size, phases=())
        runs[size] = train(images, recipe, f"{out}/{size}")
    return runs


if __name__ == "__main__":
    for size, run in main(sys.argv[1]).items():
        print(size, run.metrics["validation"]["top1"]["value"])
