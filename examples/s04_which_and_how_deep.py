"""S4. Which backbone, which head, how many layers, which rates: by experiment, on validation images.

python examples/s04_which_and_how_deep.py PHOTOS
"""

import sys

from regraft import Recipe, Space, recommend, search

BACKBONES = ("mobilenet_v2", "efficientnet_v2_b0", "densenet121", "resnet50_v2")


def main(photos, out="runs/s04", *, backbones=BACKBONES, weights="imagenet", budget=1800, space=None):
    best = recommend(photos, backbones=backbones, weights=weights).best
    space = space or Space(learning_rates=(1e-3, 3e-4, 1e-4), backbone_rates=(1.0, 0.3), epochs=9)
    recipe = Recipe(backbone=best.backbone, weights=best.weights, budget=budget)
    return search(photos, recipe, out, space=space)  # its recipe.toml makes the same model again


if __name__ == "__main__":
    for tried in sorted(main(sys.argv[1]).metrics["search"], key=lambda tried: tried["val_loss"]):
        print(f"{tried['unfreeze']:<16} {tried['head']:<9} {tried['epochs']:>2} {tried['val_loss']:.4f}")
