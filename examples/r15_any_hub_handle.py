"""R15. Any feature vector of TensorFlow Hub or Kaggle, by its handle.

Written by hand: a handle without a version is another network tomorrow; the cache lies in the folder for
temporary files and is gone after a restart; Hub's networks want pixels in 0..1 and get 0..255. Here a
version must be named, downloads are kept, and pixels are scaled inside the model.

    python examples/r15_any_hub_handle.py PHOTOS https://tfhub.dev/google/imagenet/inception_v3/feature_vector/5
"""

import sys

from regraft import HeadSpec, Recipe, train


def main(photos, handle, out="runs/r15", *, image_size=None):
    recipe = Recipe(
        backbone=handle,
        image_size=image_size,  # None for the module's own
        head=HeadSpec(hidden=(1024,), dropout=0),
        phases=(),
    )
    return train(photos, recipe, out, trust=True)  # the graph is run: you know where it comes from


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2]).path / "report.html")
