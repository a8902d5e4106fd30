"""Train for four tasks on the same images: one class, yes or no, several labels, a number.

System S5 of docs/gallery.md.

    python examples/four_tasks.py FRUIT.csv     # columns: image, kind, ripe, defects ("spot|dent"), grams
"""

import sys

from regraft import Recipe, train

TASKS = {"kind": "multiclass", "ripe": "binary", "defects": "multilabel", "grams": "regression"}


def main(table, out="runs/four_tasks", *, backbone="mobilenet_v2", weights="imagenet", image_size=224):
    runs = {}
    for column, task in TASKS.items():
        recipe = Recipe(
            image=("image",),
            target=(column,),
            separator="|" if task == "multilabel" else "",
            task=task,
            backbone=backbone,
            weights=weights,
            image_size=image_size,
            phases=(),
        )
        runs[task] = train(table, recipe, f"{out}/{column}")
    return runs


if __name__ == "__main__":
    for task, run in main(sys.argv[1]).items():
        print(task, list(run.metrics["validation"]))
