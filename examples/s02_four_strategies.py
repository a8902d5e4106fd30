"""S2. The four strategies by name: feature extraction, fine-tuning, hybrid, architectural modification.

python examples/s02_four_strategies.py PHOTOS
"""

import sys
from dataclasses import replace

import keras

from regraft import HeadSpec, Phase, Recipe, load_backbone, train
from regraft.models.attention import cbam
from regraft.models.surgery import cut_at, insert_after, replace_layer


def main(photos, out="runs/s02", *, weights="imagenet", image_size=224, epochs=5):
    start = Recipe(backbone="resnet50", weights=weights, image_size=image_size, phases=())
    everything, a_few = (Phase(plan, learning_rate=1e-4, epochs=epochs) for plan in ("all", "last:10"))
    hybrid = HeadSpec(convolutions=(64,), hidden=(128,))
    recipes = {
        "feature extraction": start,
        "fine-tuning": replace(start, phases=(everything,)),
        "hybrid": replace(start, phases=(a_few,), head=hybrid),
    }
    runs = {name: train(photos, recipe, f"{out}/{name}") for name, recipe in recipes.items()}

    changed = load_backbone("resnet50", weights=weights, image_size=image_size)
    changed = cut_at(changed, "conv4")  # a stage removed
    changed = insert_after(changed, "conv4", cbam)  # an attention block added
    smaller = keras.layers.Conv2D(256, 1, padding="same", name="conv4_block6_2_conv")
    changed = replace_layer(changed, "conv4_block6_2_conv", smaller)  # another kernel size: 1 x 1, not 3 x 3
    name = "architectural modification"
    runs[name] = train(photos, replace(start, phases=(a_few,)), f"{out}/{name}", backbone=changed)
    return runs


if __name__ == "__main__":
    for strategy, run in main(sys.argv[1]).items():
        print(f"{strategy:<28} {run.metrics['validation']['log_loss']['value']:.3f}")
