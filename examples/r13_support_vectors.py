"""R13. Features of a ResNet50 into a support vector machine of scikit-learn.

Written by hand: pixels without `preprocess_input`; `features.reshape(n, -1)`, which is 100,352 numbers an
image where pooling gives 2,048; and a `StandardScaler` fitted on all images, the test images among them.
Here the embedder is the first step of a pipeline: pixels are converted, features are pooled, and what is
fitted is fitted on the training part.

    python examples/r13_support_vectors.py PHOTOS
"""

import sys

from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from regraft import Catalog, ImageEmbedder


def main(photos, *, weights="imagenet", image_size=224):
    catalog = Catalog.from_folder(photos)
    files = [str(catalog.root / sample.path) for sample in catalog.samples]
    labels = [catalog.words(sample) for sample in catalog.samples]
    train, test, train_labels, test_labels = train_test_split(files, labels, stratify=labels, random_state=0)
    embedder = ImageEmbedder("resnet50", weights=weights, image_size=image_size)
    pipeline = make_pipeline(embedder, StandardScaler(), SVC())
    pipeline.fit(train, train_labels)
    return pipeline, pipeline.score(test, test_labels)


if __name__ == "__main__":
    print(main(sys.argv[1])[1])
