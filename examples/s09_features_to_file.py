"""S9. Features as a product of their own: to a file, and from there into any estimator of scikit-learn.

python examples/s09_features_to_file.py PHOTOS features.npz
"""

import sys

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from regraft import Recipe, embed


def main(photos, out="features.npz", *, backbone="mobilenet_v2", weights="imagenet", image_size=224):
    embed(photos, Recipe(backbone=backbone, weights=weights, image_size=image_size), out)
    table = np.load(out)
    estimator = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return cross_val_score(estimator, table["features"], table["class"])


if __name__ == "__main__":
    print(main(*sys.argv[1:3]))
