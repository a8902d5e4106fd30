"""Choose backbone, head, number of layers and rates by experiment, on validation images.

System S4 of docs/gallery.md.

    python examples/recommend_and_search.py IMAGES
"""

import sys

from regraft import Recipe, Space, recommend, search

BACKBONES = ("mobilenet_v2", "efficientnet_v2_b0", "densenet121", "resnet50_v2")


def main(
    images,
    out="runs/recommend_and_search",
    *,
    backbones=BACKBONES,
    weights="imagenet",
    budget=1800,
    space=None,
):
    best = recommend(images, backbones=backbones, weights=weights).best
    space = space or Space(learning_rates=(1e-3, 3e-4, 1e-4), backbone_rates=(1.0, 0.3), epochs=9)
    recipe = Recipe(backbone=best.backbone, weights=best.weights, budget=budget)
    return search(images, recipe, out, space=space)  # its recipe.toml makes the same model again


if __name__ == "__main__":
    for trial in sorted(main(sys.argv[1]).metrics["search"], key=lambda trial: trial["val_loss"]):
        print(f"{trial['unfreeze']:<16} {trial['head']:<9} {trial['epochs']:>2} {trial['val_loss']:.4f}")
