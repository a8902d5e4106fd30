"""Write features to a file and cross-validate an estimator of scikit-learn on them.

System S9 of docs/gallery.md.

    python examples/features_to_file.py IMAGES features.npz
"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regraft import Recipe, embed


def main(images, out="features.npz", *, backbone="mobilenet_v2", weights="imagenet", image_size=224):
    embed(images, Recipe(backbone=backbone, weights=weights, image_size=image_size), out)
    table = np.load(out)
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return cross_val_score(estimator, table["features"], table["class"])


if __name__ == "__main__":
    print(main(*sys.argv[1:3]))
