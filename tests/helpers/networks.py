"""Small networks, their pixels and their answers, for the tests of backbones."""

from __future__ import annotations

import keras
import numpy as np


def pixels(size, count=2):
    """Random RGB pixels 0..255: (count, size, size, 3)."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3)).astype("float32")


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def assert_close(received, expected, relative=1e-4):
    assert received.shape == expected.shape
    assert np.abs(received - expected).max() <= relative * np.abs(expected).max()


def values(model):
    """A copy of every weight and statistic, by its path."""
    return {weight.path: np.array(weight) for weight in model.weights}


def tiny(size=16, output="map", name="tiny"):
    image = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Normalization(name="norm")(x)
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(x)
    if output == "vector":
        x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, x, name=name)


def with_statistics(model):
    model.get_layer("norm").set_weights([np.full(3, 0.4), np.full(3, 0.09), np.array(0)])
    model.get_layer("norm").finalize_state()
    return model


def nested(size=16):
    """Layers within layers, as in ConvNeXt: convolution, normalisation and dropout in a Sequential."""
    image = keras.Input((size, size, 3))
    x = image
    for block in (1, 2, 3):
        inside = [
            keras.layers.Conv2D(4, 3, padding="same", name=f"inner{block}_conv"),
            keras.layers.BatchNormalization(name=f"inner{block}_bn"),
            keras.layers.Dropout(0.5, name=f"inner{block}_drop"),
        ]
        x = keras.Sequential(inside, name=f"block{block}")(x)
    x = keras.layers.Conv2D(4, 1, name="top_conv")(x)
    return keras.Model(image, x, name="nested")


def branched(size=75):
    """Parallel branches, as in Inception: wherever it is cut within them, several tensors cross."""
    image = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    branches = [x, x, x]
    for _ in range(4):
        branches = [keras.layers.Conv2D(4, 1, activation="relu")(branch) for branch in branches]
    return keras.Model(image, keras.layers.Concatenate()(branches), name="branched")
