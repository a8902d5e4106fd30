"""Train by four strategies: feature extraction, fine-tuning, hybrid, architectural modification.

System S2 of docs/gallery.md.

    python examples/four_strategies.py IMAGES
"""

import sys
from dataclasses import replace

import keras

from regraft import HeadSpec, Phase, Recipe, load_backbone, train
from regraft.surgery import cbam, cut_at, insert_after, replace_layer


def main(images, out="runs/four_strategies", *, weights="imagenet", image_size=224, epochs=5):
    start = Recipe(backbone="resnet50", weights=weights, image_size=image_size, phases=())
    all_layers, last_layers = (Phase(plan, learning_rate=1e-4, epochs=epochs) for plan in ("all", "last:10"))
    hybrid = HeadSpec(convolutions=(64,), hidden=(128,))
    recipes = {
        "feature extraction": start,
        "fine-tuning": replace(start, phases=(all_layers,)),
        "hybrid": replace(start, phases=(last_layers,), head=hybrid),
    }
    runs = {name: train(images, recipe, f"{out}/{name}") for name, recipe in recipes.items()}

    backbone = load_backbone("resnet50", weights=weights, image_size=image_size)
    backbone = cut_at(backbone, "conv4")  # removes a stage
    backbone = insert_after(backbone, "conv4", cbam)  # adds an attention block
    smaller = keras.layers.Conv2D(256, 1, padding="same", name="conv4_block6_2_conv")
    backbone = replace_layer(backbone, "conv4_block6_2_conv", smaller)  # a 1 x 1 kernel instead of 3 x 3
    name = "architectural modification"
    runs[name] = train(images, replace(start, phases=(last_layers,)), f"{out}/{name}", backbone=backbone)
    return runs


if __name__ == "__main__":
    for strategy, run in main(sys.argv[1]).items():
        print(f"{strategy:<28} {run.metrics['validation']['log_loss']['value']:.3f}")
