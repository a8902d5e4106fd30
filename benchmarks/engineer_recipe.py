"""Transfer learning as a skilled engineer writes it in an hour without a framework, for comparison.

MobileNetV2 as ONNX gives features, Pillow decodes in threads, and scikit-learn's logistic regression
predicts; its penalty is chosen on a fifth of the training images. The last line holds its score and the
seconds of its parts.

usage: engineer_recipe.py DATA NETWORK.onnx
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

BATCH = 32
data, network = Path(sys.argv[1]), sys.argv[2]
session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name


def load(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR))


def embed(files):
    features = []
    with ThreadPoolExecutor(2) as pool:
        images = pool.map(load, files)
        for start in range(0, len(files), BATCH):
            batch = np.stack([next(images) for _ in files[start : start + BATCH]])
            (output,) = session.run(None, {name: batch.astype(np.float32) / 127.5 - 1})
            features.append(output)
    return np.concatenate(features)


def read(part):
    files = sorted((data / part).glob("*/*"))
    return embed(files), np.array([file.parent.name for file in files])


def fit(features, labels, c):
    return make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(features, labels)


start = time.monotonic()
train, labels = read("train")
test, truth = read("test")
embedded = time.monotonic()
fitted, held, fitted_labels, held_labels = train_test_split(
    train, labels, test_size=0.2, stratify=labels, random_state=0
)
scores = {c: fit(fitted, fitted_labels, c).score(held, held_labels) for c in (0.001, 0.01, 0.1, 1.0)}
top1 = fit(train, labels, max(scores, key=scores.get)).score(test, truth)
parts = {"features": embedded - start, "logistic regression": time.monotonic() - embedded}
print(json.dumps({"top1": top1, "parts": parts}))
