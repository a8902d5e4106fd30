"""`regraft demo`: the main job in a minute, without network or download.

A small network learns scikit-learn's handwritten digits 0-4; then it is grafted onto the digits 5-9 with 20
images a class, through the same `train` as any run, beside the same network with random weights.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.console import say
from regraft.errors import EnvironmentFault, UsageError
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.run import Run, train

if TYPE_CHECKING:
    import keras

__all__ = ["DemoResult", "run_demo"]

SIZE = 32  # pixels a side; the originals have 8
KNOWN = range(5)
SHOTS = 20  # training images a class
EPOCHS = 25


@dataclass(frozen=True)
class DemoResult:
    """Top-1 on `tested` images of the digits 5-9, and where the grafted model's report lies."""

    grafted: float
    scratch: float
    tested: int
    report: Path


def run_demo(out: Path, *, overwrite: bool = False) -> DemoResult:
    """Run the demonstration into a folder: digits/, backbone.keras and the runs grafted/ and scratch/.

    Raises:
        UsageError: the folder exists, and is no earlier demo or `overwrite` is not set.
    """
    network = out / "backbone.keras"
    if out.exists():
        if not (overwrite and network.is_file()):
            raise UsageError(f"{out} exists already. Choose another folder with -o, or --overwrite an earlier demo.")
        shutil.rmtree(out)
    images, digits = _digits()
    _write_images(images, digits, out / "digits")
    say("Pre-training a small network on the digits 0-4.")
    known = np.isin(digits, KNOWN)
    _pretrained(images[known], digits[known]).save(network)
    finetune = Phase(epochs=EPOCHS, patience=EPOCHS, learning_rate=1e-3, batch_size=10, augment=("crop",))
    recipe = Recipe(
        backbone=str(network), unfreeze="all", head=HeadSpec(dropout=0.0), finetune=finetune
    )
    runs: dict[str, Run] = {}
    for name, weights in (("grafted", "imagenet"), ("scratch", "random")):
        say(f"Training {name}.")
        chosen = replace(recipe, weights=weights)
        runs[name] = train(out / "digits", chosen, out / name, store=out / "store")
    scores = {name: run.metrics["test"]["top1"]["value"] for name, run in runs.items()}
    tested = runs["grafted"].metrics["test"]["n"]
    return DemoResult(scores["grafted"], scores["scratch"], tested, out / "grafted" / "report.html")


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """scikit-learn's digits, enlarged: uint8 (1797, SIZE, SIZE, 3), and which digit each is."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    small = (found.images * (255 / 16)).astype(np.uint8)
    large = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in small]
    return np.stack([np.asarray(image.convert("RGB")) for image in large]), found.target


def _write_images(images: NDArray[np.uint8], digits: NDArray[np.int64], folder: Path) -> None:
    """The unknown digits as PNG files: SHOTS a class to learn from, as many to validate, the rest to test."""
    from PIL import Image

    try:
        for digit in sorted(set(digits.tolist()) - set(KNOWN)):
            for number, row in enumerate(np.flatnonzero(digits == digit)):
                part = ("train", "validation")[number // SHOTS] if number < 2 * SHOTS else "test"
                path = folder / part / str(digit) / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[row]).save(path)
    except OSError as error:
        raise EnvironmentFault(f"Nothing can be written to {folder}: {error.strerror or error}.") from error


def _pretrained(images: NDArray[np.uint8], digits: NDArray[np.int64]) -> keras.Model:
    """A small convolutional network, trained for a few seconds, without its classifier."""
    import keras

    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    for filters in (16, 32, 48):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    features = keras.layers.Conv2D(64, 3, padding="same", activation="relu")(x)
    answer = keras.layers.Dense(len(KNOWN), activation="softmax")(keras.layers.GlobalAveragePooling2D()(features))
    classifier = keras.Model(pixels, answer)
    classifier.compile("adam", "sparse_categorical_crossentropy")
    classifier.fit(images.astype("float32"), digits, epochs=20, batch_size=32, verbose=0)
    return keras.Model(pixels, features, name="small_network")
