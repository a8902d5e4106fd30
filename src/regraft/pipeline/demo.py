"""`regraft demo`: the main job in a minute, without network or download.

A small network learns scikit-learn's handwritten digits 0-4; then it is grafted onto the digits 5-9 with 20
images a class, through the same `train` as any run. Beside it the same network learns them from scratch.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.data.augmentation import augment_pixels
from regraft.data.catalog import Catalog
from regraft.data.images.decode import Decoded
from regraft.data.images.decoder_pool import DecodeAhead, Job
from regraft.data.split import split
from regraft.errors import UsageError, name_os_errors
from regraft.pipeline.train import train
from regraft.recipe import Recipe
from regraft.system.console import TERMINAL

if TYPE_CHECKING:
    import keras

__all__ = ["DemoResult", "run_demo"]

SIZE = 32  # pixels a side; the originals have 8
KNOWN = range(5)
SHOTS = 20  # training images a class
PRETRAINING = 4  # passes
SCRATCH_PASSES = 40


@dataclass(frozen=True)
class DemoResult:
    """Top-1 on `tested` images of the digits 5-9, and where the grafted model's report lies."""

    grafted: float
    scratch: float
    tested: int
    report: Path


def run_demo(out: Path, *, overwrite: bool = False) -> DemoResult:
    """Run the demonstration into a folder: digits/, backbone.keras and the run grafted/.

    Raises:
        UsageError: the folder exists, and is no earlier demo or `overwrite` is not set.
    """
    network = out / "backbone.keras"
    if out.exists():
        if not (overwrite and network.is_file()):
            raise UsageError(
                f"{out} exists already. Choose another folder with -o, or --overwrite an earlier demo."
            )
        shutil.rmtree(out)
    images, digits = _digits()
    _write_images(images, digits, out / "digits")
    known = np.isin(digits, KNOWN)
    _pretrained(images[known], digits[known]).save(network)
    recipe = Recipe(backbone=str(network), phases=())
    run = train(out / "digits", recipe, out / "grafted", store=out / "store")
    catalog = split(Catalog.from_folder(out / "digits"), fraction=recipe.validation)
    scratch = _from_scratch(run.model, catalog)
    tested = run.metrics["test"]
    return DemoResult(tested["top1"]["value"], scratch, tested["n"], out / "grafted" / "report.html")


def _from_scratch(model: keras.Model, catalog: Catalog) -> float:
    """Test accuracy of the same network, its weights drawn at random, after many passes of plain `fit`."""
    import keras

    def pixels_and_labels(part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        samples = catalog.part(part)
        with DecodeAhead([Job(catalog.root / s.path, s.digest) for s in samples], SIZE) as decoding:
            pixels = [found.pixels for found in decoding if isinstance(found, Decoded)]
        return np.stack(pixels).astype("float32"), np.array([sample.target for sample in samples])

    TERMINAL.info(f"Training the same network from scratch, {SCRATCH_PASSES} passes.")
    keras.utils.set_random_seed(0)
    fresh = keras.models.clone_model(model)
    for layer in fresh.layers:  # one by one: the model's own flag is up already and would not reach them
        layer.trainable = True
    fresh.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    fresh.fit(*pixels_and_labels("train"), epochs=SCRATCH_PASSES, batch_size=10, verbose=0)
    return float(fresh.evaluate(*pixels_and_labels("test"), verbose=0)[1])


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """scikit-learn's digits, enlarged: uint8 (1797, SIZE, SIZE, 3), and which digit each is."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found = load_digits()
    small = (found.images * (255 / 16)).astype(np.uint8)
    large = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in small]
    return np.stack([np.asarray(image.convert("RGB")) for image in large]), found.target


def _write_images(images: NDArray[np.uint8], digits: NDArray[np.int64], folder: Path) -> None:
    """The unknown digits as PNG files: SHOTS a class to learn from, as many to validate, the rest to test.

    In the order of the collection one writer follows another: the test is mostly by people never seen before.
    """
    from PIL import Image

    with name_os_errors(f"Nothing can be written to {folder}"):
        for digit in sorted(set(digits.tolist()) - set(KNOWN)):
            for number, row in enumerate(np.flatnonzero(digits == digit)):
                part = ("train", "validation")[number // SHOTS] if number < 2 * SHOTS else "test"
                path = folder / part / str(digit) / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[row]).save(path)


def _pretrained(images: NDArray[np.uint8], digits: NDArray[np.int64]) -> keras.Model:
    """A small convolutional network, trained for some seconds, without its classifier.

    Five digits teach little, so each of their turned and mirrored versions counts as a class of its own.
    """
    import keras

    turned = [np.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
    versions = [*turned, *(version[:, :, ::-1] for version in turned)]
    targets = np.concatenate([digits * len(versions) + number for number in range(len(versions))])
    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    for filters in (16, 32, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    features = keras.layers.Conv2D(128, 3, padding="same", activation="relu")(x)
    vector = keras.layers.GlobalAveragePooling2D()(features)
    answer = keras.layers.Dense(len(KNOWN) * len(versions), activation="softmax")(vector)
    classifier = keras.Model(pixels, answer)
    steps = PRETRAINING * -(-len(targets) // 64)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    classifier.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), "sparse_categorical_crossentropy")
    with TERMINAL.track("Pre-training on 0-4", PRETRAINING * len(targets)) as advance:
        for epoch in range(PRETRAINING):
            views = augment_pixels(np.concatenate(versions), ("crop",), [0, epoch])
            classifier.fit(views, targets, batch_size=64, verbose=0)
            advance(len(targets))
    return keras.Model(pixels, features, name="small_network")
