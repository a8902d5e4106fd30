"""Train a support vector machine of scikit-learn on features of a ResNet50.

System R13 of docs/gallery.md.

Three things go wrong in hand-written scripts: pixels do not pass through `preprocess_input`;
`features.reshape(n, -1)` makes 100,352 numbers an image where pooling gives 2,048; and `StandardScaler` is
fitted on all images, including the test images. In regraft the embedder is the first step of a pipeline: it
converts the pixels and pools the features, and every later step is fitted on the training part only.

    python examples/svm_on_features.py IMAGES
"""

import sys

from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from regraft import Catalog, ImageEmbedder


def main(images, *, backbone="resnet50", weights="imagenet", image_size=224):
    catalog = Catalog.from_folder(images)
    files = [str(catalog.root / sample.path) for sample in catalog.samples]
    labels = [catalog.describe_target(sample) for sample in catalog.samples]
    train, test, train_labels, test_labels = train_test_split(files, labels, stratify=labels, random_state=0)
    embedder = ImageEmbedder(backbone, weights=weights, image_size=image_size)
    pipeline = make_pipeline(embedder, StandardScaler(), SVC())
    pipeline.fit(train, train_labels)
    return pipeline, pipeline.score(test, test_labels)


if __name__ == "__main__":
    print(main(sys.argv[1])[1])
