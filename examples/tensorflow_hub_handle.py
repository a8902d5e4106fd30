"""Train on any feature vector of TensorFlow Hub or Kaggle, given by its handle.

System R15 of docs/gallery.md.

Three things go wrong in hand-written scripts: a handle without a version may be another network tomorrow;
the cache lies in the folder for temporary files and is gone after a restart; and Hub's networks expect
pixels in 0..1 but get 0..255. regraft asks for a version, keeps downloads, and scales pixels inside the
model.

    python examples/tensorflow_hub_handle.py IMAGES https://tfhub.dev/google/imagenet/inception_v3/feature_vector/5
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(images, handle, out="runs/tensorflow_hub_handle", *, image_size=None):
    recipe = Recipe(
        backbone=handle,
        image_size=image_size,  # None: the module's own size
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(),
    )
    return train(images, recipe, out, trust=True)  # runs the graph: only if you know its source


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]).path / "report.html")
