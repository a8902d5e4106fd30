"""Run a model over images while they are being decoded, and test whether it still gives its answers.

An unchanged file can give other answers under another version of Keras or OpenVINO or on another processor.
So a run holds a few test images with the answers of the day it was trained. Every engine is tested with them
once on each machine, and again with each version.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.images.decode import DecodedImage
from regraft.data.images.decoder_pool import DecodingPool
from regraft.data.images.rejections import Rejection
from regraft.data.samples import Sample
from regraft.errors import ModelRefused
from regraft.features.store import Store
from regraft.models.inner_outputs import ANSWERS, FEATURES, HEAT, MAP, InnerLayer, name_tensors
from regraft.system.console import Reporter

if TYPE_CHECKING:
    import keras

    from regraft.features.engine import Engine

__all__ = [
    "SELFTEST",
    "ModelOutput",
    "check_answers",
    "compute_answers",
    "group_images",
    "list_rows",
    "make_default_engine",
    "make_test_images",
    "name_outputs",
    "predict_contents",
    "predict_pixels",
    "run_engine",
]

SELFTEST = "selftest.npz"
WARN_ABOVE = 1e-4  # of the largest answer: more than float32 sums in another order differ
REFUSE_ABOVE = 1e-2  # of the largest answer: another network


# --- predicting


class ModelOutput(NamedTuple):
    """What a model computes of a sample: its answer, (units,), and its features, (d,), if it has them.

    The map, (height, width, channels), is there if the model has one and the engine was made to return it; of
    a head on several layers it is their heat, (height, width, units).
    The familiarity, in 0..1, is measured afterwards.
    """

    answer: NDArray[np.float32]
    features: NDArray[np.float32] | None
    map: NDArray[np.float32] | None = None
    familiarity: float | None = None


def name_outputs(model: keras.Model, inner: InnerLayer | None = None) -> keras.Model:
    """Return the same network with named outputs, as engines need it.

    Args:
        model: from pixels to answers.
        inner: where its features and its feature map are; None for the answers alone.
    """
    import keras

    inputs = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(inputs, name_tensors(model, inner))


def make_default_engine(model: keras.Model, inner: InnerLayer | None = None) -> Engine:
    """Return the fastest engine for a model in memory."""
    from regraft.features.engine import EngineRunner

    return EngineRunner(name_outputs(model, inner), Store()).engine


def run_engine(
    engine: Engine, decoding: DecodingPool, images_per_sample: int = 1, *, reporter: Reporter
) -> Iterator[ModelOutput | Rejection]:
    """Yield what an engine computes of samples being decoded; a refused file refuses its sample."""
    size, total = engine.batch, len(decoding) // images_per_sample
    # Importing the progress bar takes longer than predicting a few images.
    progress = reporter.track("Predicting", total) if total > 8 else nullcontext(lambda done: None)
    with progress as advance:
        decoded = iter(decoding)
        while samples := list(islice(group_images(decoded, images_per_sample), 8 * size)):
            pixels = [sample for sample in samples if not isinstance(sample, Rejection)]
            batches = (np.stack(pixels[start : start + size]) for start in range(0, len(pixels), size))
            rows = chain.from_iterable(list_rows(outputs) for outputs in engine.run(batches))
            yield from (item if isinstance(item, Rejection) else next(rows) for item in samples)
            advance(len(samples))


def list_rows(outputs: dict[str, NDArray[np.float32]]) -> list[ModelOutput]:
    """Return what an engine computed of each sample of a batch."""
    absent = [None] * len(outputs[ANSWERS])
    inner = [outputs.get(FEATURES, absent), outputs.get(MAP, outputs.get(HEAT, absent))]
    return [ModelOutput(*row) for row in zip(outputs[ANSWERS], *inner, strict=True)]


def predict_pixels(engine: Engine, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the answers of an engine to samples in memory, (n, units)."""
    batches = (pixels[start : start + engine.batch] for start in range(0, len(pixels), engine.batch))
    return np.concatenate([output[ANSWERS] for output in engine.run(batches)])


def predict_contents(
    make_engine: Callable[[int], Engine],
    catalog: Catalog,
    samples: Sequence[Sample],
    size: int,
    *,
    reporter: Reporter,
) -> dict[str, ModelOutput | Rejection]:
    """Return what a network computes by digest, for samples of one image.

    Decoding starts before the engine is made.

    Args:
        make_engine: makes an engine for a number of images.
        catalog: the catalog of the samples.
        samples: the samples to predict.
        size: the side of the network's input in pixels.
        reporter: shows progress.
    """
    digests = list(dict.fromkeys(sample.digest for sample in samples))
    with DecodingPool(catalog.make_jobs(digests), size, depth=catalog.depth) as decoding:
        answers = run_engine(make_engine(len(digests)), decoding, reporter=reporter)
        return dict(zip(digests, answers, strict=True))


def group_images(
    decoded: Iterator[DecodedImage | Rejection], count: int
) -> Iterator[NDArray[np.uint8] | Rejection]:
    """Yield the pixels of samples, (size, size, 3), or (count, size, size, 3) for several images."""
    while sample := list(islice(decoded, count)):
        rejections = [item for item in sample if isinstance(item, Rejection)]
        pixels = [item.pixels for item in sample if not isinstance(item, Rejection)]
        yield rejections[0] if rejections else (pixels[0] if count == 1 else np.stack(pixels))


# --- the self-test


def make_test_images(size: int, images_per_sample: int = 1) -> NDArray[np.uint8]:
    """Return 4 samples of square images: colours that change slowly or fast, and noise.

    They contain none of the user's images, so that a run can be passed on.

    Args:
        size: side in pixels.
        images_per_sample: how many images make a sample.

    >>> make_test_images(8).shape, make_test_images(8, images_per_sample=2).shape
    ((4, 8, 8, 3), (4, 2, 8, 8, 3))
    """
    ramp = np.linspace(0, 1, size)
    down, across = np.meshgrid(ramp, ramp, indexing="ij")
    noise = np.random.default_rng(0).random((size, size, 3))
    patterns = [
        np.stack([down, across, 1 - down], axis=-1),
        np.stack([across**2, 0.3 + 0 * down, down], axis=-1),
        0.5 + 0.5 * np.sin(20 * np.stack([down, across, down + across], axis=-1)),
        noise,
    ]
    images: NDArray[np.uint8] = np.rint(255 * np.stack(patterns)).astype(np.uint8)
    if images_per_sample == 1:
        return images
    return np.stack([np.roll(images, number, axis=0) for number in range(images_per_sample)], axis=1)


def compute_answers(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the answers of a Keras model to samples, (n, units), in float32."""
    import keras

    answers = model(pixels.astype(np.float32), training=False)
    return np.asarray(keras.ops.convert_to_numpy(answers), np.float32)


def check_answers(path: Path, digests: dict[str, Any], engine: Engine, reporter: Reporter) -> None:
    """Test an engine with a run's test images, unless it has passed on this machine before.

    Args:
        path: the file with test images and answers.
        digests: the digests of the run's files.
        engine: the engine to test.
        reporter: is warned of small differences.

    Raises:
        ModelRefused: the engine gives other answers, or the file is damaged.
    """
    question = f"{engine.name}\n{np.__version__}\n{sorted(digests.items())}"
    passed = Store().folder("selftests", hashlib.sha256(question.encode()).hexdigest())
    if passed.exists():
        return
    try:
        with np.load(path, allow_pickle=False) as stored:
            images, expected = stored["pictures"], stored["answers"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as fault:
        raise ModelRefused(f"{path} does not hold test images and answers: {fault}.") from fault
    received = predict_pixels(engine, images)
    if received.shape != expected.shape:
        raise ModelRefused(
            f"{path}: expected answers of shape {expected.shape[1:]}. Received: {received.shape[1:]}."
        )
    error = float(np.abs(received - expected).max() / max(float(np.abs(expected).max()), 1e-6))
    difference = f"than when it was trained, by {error:.1g} of its largest answer, under {engine.name}"
    if not error <= REFUSE_ABOVE:
        raise ModelRefused(
            f"The model in {path.parent} gives other answers {difference}. "
            "Its manifest.json lists the versions to install."
        )
    if error > WARN_ABOVE:
        reporter.warn(f"The model in {path.parent} gives slightly other answers {difference}.")
    with contextlib.suppress(OSError):  # if it cannot be remembered, the engine is tested again next time
        passed.mkdir(parents=True, exist_ok=True)
