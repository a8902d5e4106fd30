"""Images whose class is the direction of their stripes, and small networks that have to learn it."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
from PIL import Image

SIDE = 24
DIRECTIONS = ("diagonal", "level", "upright")


def stripes(direction: str, rng: np.random.Generator) -> np.ndarray:
    """Stripes in two random colours under noise: the colours say nothing of the class."""
    y, x = np.mgrid[:SIDE, :SIDE]
    place = {"diagonal": x + y, "level": y, "upright": x}[direction] + rng.integers(8)
    colours = rng.uniform(60, 200, (2, 3))
    return np.clip(colours[place // 4 % 2] + rng.normal(0, 40, (SIDE, SIDE, 3)), 0, 255)


def write_stripes(root: Path, *, each: int, seed: int = 0) -> Path:
    """Class folders of them."""
    rng = np.random.default_rng(seed)
    for direction in DIRECTIONS:
        (root / direction).mkdir(parents=True)
        for number in range(each):
            pixels = stripes(direction, rng).astype(np.uint8)
            Image.fromarray(pixels).save(root / direction / f"{number:02}.png")
    return root


def network(seed: int) -> keras.Model:
    keras.utils.set_random_seed(seed)
    pixels = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    x = keras.layers.Conv2D(6, 5, activation="relu", name="first")(x)
    x = keras.layers.Conv2D(6, 5, activation="relu", name="second")(x)
    return keras.Model(pixels, x, name=f"net{seed}")


def trained(backbone: keras.Model, *, images: int, epochs: int) -> keras.Model:
    """The network after some training on stripes of its own."""
    rng = np.random.default_rng(1)
    labels = np.arange(images) % 3
    pixels = np.stack([stripes(DIRECTIONS[label], rng) for label in labels])
    pooled = keras.layers.GlobalAveragePooling2D()(backbone.output)
    whole = keras.Model(backbone.input, keras.layers.Dense(3, "softmax")(pooled))
    whole.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    whole.fit(pixels, labels, batch_size=24, epochs=epochs, verbose=0)
    return backbone
