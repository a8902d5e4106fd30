"""`regraft demo`: transfer learning in a minute, without data or downloads.

A small network learns scikit-learn's handwritten digits 0-4. Then it is grafted onto the digits 5-9 with 20
images per class, by the same `train` as any run. For comparison the same network learns them from scratch.
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
from regraft.data.images.decode import DecodedImage
from regraft.data.images.decoder_pool import DecodingPool, Job
from regraft.data.split import split
from regraft.errors import wrap_os_errors
from regraft.pipeline.outputs import DEMO_FOLDER, require_replaceable
from regraft.pipeline.train import train
from regraft.recipe import Recipe
from regraft.system.console import TERMINAL

if TYPE_CHECKING:
    import keras

__all__ = ["DemoResult", "run_demo"]

SIZE = 32  # side in pixels; that of the original images is 8
PRETRAINED_DIGITS = range(5)
SHOTS = 20  # training images per class
PRETRAINING_EPOCHS = 4
SCRATCH_EPOCHS = 40


@dataclass(frozen=True)
class DemoResult:
    """The top-1 accuracies on `tested` images of the digits 5-9, and the path of the run's report."""

    grafted: float
    scratch: float
    tested: int
    report: Path


def run_demo(out: Path, *, overwrite: bool = False) -> DemoResult:
    """Run the demonstration and write digits/, backbone.keras and the run grafted/ to a folder.

    Raises:
        UsageError: the folder exists and `overwrite` is not set, or it holds anything but an earlier demo.
    """
    network = out / "backbone.keras"
    require_replaceable(out, overwrite=overwrite, kind=DEMO_FOLDER)
    if out.exists():
        shutil.rmtree(out)
    images, digits = _load_digits()
    _write_images(images, digits, out / "digits")
    pretraining = np.isin(digits, PRETRAINED_DIGITS)
    _pretrain(images[pretraining], digits[pretraining]).save(network)
    recipe = Recipe(backbone=str(network), phases=())
    run = train(out / "digits", recipe, out / "grafted", store=out / "store")
    catalog = split(Catalog.from_folder(out / "digits"), fraction=recipe.validation)
    scratch = _train_from_scratch(run.model, catalog)
    test = run.metrics["test"]
    return DemoResult(test["top1"]["value"], scratch, test["n"], out / "grafted" / "report.html")


def _train_from_scratch(model: keras.Model, catalog: Catalog) -> float:
    """Train the same network from random weights with plain `fit`; return its test accuracy."""
    import keras

    def read_part(part: str) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        samples = catalog.part(part)
        with DecodingPool([Job(catalog.root / s.path, s.digest) for s in samples], SIZE) as decoding:
            pixels = [image.pixels for image in decoding if isinstance(image, DecodedImage)]
        return np.stack(pixels).astype("float32"), np.array([sample.target for sample in samples])

    TERMINAL.info(f"Training the same network from scratch, {SCRATCH_EPOCHS} epochs.")
    keras.utils.set_random_seed(0)
    untrained = keras.models.clone_model(model)
    for layer in untrained.layers:  # one by one: the model's flag is set already and would not reach them
        layer.trainable = True
    untrained.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    untrained.fit(*read_part("train"), epochs=SCRATCH_EPOCHS, batch_size=10, verbose=0)
    return float(untrained.evaluate(*read_part("test"), verbose=0)[1])


def _load_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return scikit-learn's digits, enlarged, as uint8 (1797, SIZE, SIZE, 3), and their labels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = (digits.images * (255 / 16)).astype(np.uint8)
    large = [Image.fromarray(image).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in small]
    return np.stack([np.asarray(image.convert("RGB")) for image in large]), digits.target


def _write_images(images: NDArray[np.uint8], digits: NDArray[np.int64], folder: Path) -> None:
    """Write the other digits as PNG files: SHOTS per class to train, SHOTS to validate, the rest to test.

    The data set is ordered by writer, so most test images are from people who wrote none of the others.
    """
    from PIL import Image

    with wrap_os_errors(f"Nothing can be written to {folder}"):
        for digit in sorted(set(digits.tolist()) - set(PRETRAINED_DIGITS)):
            for number, row in enumerate(np.flatnonzero(digits == digit)):
                part = ("train", "validation")[number // SHOTS] if number < 2 * SHOTS else "test"
                path = folder / part / str(digit) / f"{number:03}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(images[row]).save(path)


def _pretrain(images: NDArray[np.uint8], digits: NDArray[np.int64]) -> keras.Model:
    """Train a small convolutional network for a few seconds and return it without its classifier.

    Five classes are few to learn from, so every rotated or mirrored version of a digit is another class.
    """
    import keras

    rotated = [np.rot90(images, turns, axes=(1, 2)) for turns in range(4)]
    versions = [*rotated, *(version[:, :, ::-1] for version in rotated)]
    targets = np.concatenate([digits * len(versions) + number for number in range(len(versions))])
    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(pixels)
    for filters in (16, 32, 64):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D()(x)
    features = keras.layers.Conv2D(128, 3, padding="same", activation="relu")(x)
    vector = keras.layers.GlobalAveragePooling2D()(features)
    answer = keras.layers.Dense(len(PRETRAINED_DIGITS) * len(versions), activation="softmax")(vector)
    classifier = keras.Model(pixels, answer)
    steps = PRETRAINING_EPOCHS * -(-len(targets) // 64)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    classifier.compile(keras.optimizers.AdamW(rate, weight_decay=0.01), "sparse_categorical_crossentropy")
    with TERMINAL.track("Pre-training on 0-4", PRETRAINING_EPOCHS * len(targets)) as advance:
        for epoch in range(PRETRAINING_EPOCHS):
            views = augment_pixels(np.concatenate(versions), ("crop",), [0, epoch])
            classifier.fit(views, targets, batch_size=64, verbose=0)
            advance(len(targets))
    return keras.Model(pixels, features, name="small_network")
