"""What a model gives for files that are being decoded.

A few answers kept with a run, and whether what runs its network here still gives them.

A file with the right digest can answer otherwise under another Keras, another OpenVINO or another processor.
So a run holds a few pictures with what the network made of them on the day it was trained. Whatever runs the
network is asked about these once on every machine, and again with every version.
"""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.images.decode import Decoded
from regraft.data.images.decoder_pool import DecodeAhead
from regraft.data.images.rejections import Refusal
from regraft.data.samples import Sample
from regraft.errors import ModelRefused
from regraft.features.store import Store
from regraft.system.console import Reporter

if TYPE_CHECKING:
    import keras

    from regraft.features.engine import Engine

__all__ = [
    "OUTPUT",
    "SELFTEST",
    "answer_contents",
    "check_answers",
    "compute_answers",
    "group_images",
    "make_default_engine",
    "make_pictures",
    "name_output",
    "run_engine",
]


OUTPUT = "answers"


def name_output(model: keras.Model, name: str = OUTPUT) -> keras.Model:
    """Return the same network with its one output named, as engines give it."""
    import keras

    given = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(given, {name: model.outputs[0]})


def make_default_engine(model: keras.Model) -> Engine:
    """Return what runs a model in memory fastest."""
    from regraft.features.engine import Speed

    return Speed(name_output(model), Store()).engine


def run_engine(
    engine: Engine, decoding: DecodeAhead, photos: int = 1, *, reporter: Reporter
) -> Iterator[NDArray[np.float32] | Refusal]:
    """Yield what an engine gives for files that are being decoded, so many of them a sample.

    A sample with a refused file is refused.
    """
    size, total = engine.batch, len(decoding) // photos
    # What shows progress takes longer to import than a few images to predict.
    shown = reporter.track("Predicting", total) if total > 8 else nullcontext(lambda done: None)
    with shown as advance:
        decoded = iter(decoding)
        while samples := list(islice(group_images(decoded, photos), 8 * size)):
            pixels = [sample for sample in samples if not isinstance(sample, Refusal)]
            batches = (np.stack(pixels[at : at + size]) for at in range(0, len(pixels), size))
            rows = chain.from_iterable(output[OUTPUT] for output in engine.run(batches))
            yield from (item if isinstance(item, Refusal) else next(rows) for item in samples)
            advance(len(samples))


def answer_contents(
    make_engine: Callable[[int], Engine],
    catalog: Catalog,
    samples: Sequence[Sample],
    size: int,
    *,
    reporter: Reporter,
) -> dict[str, NDArray[np.float32] | Refusal]:
    """Return what a network answers to each content of samples of one image; `size` is in pixels a side.

    Decoding begins before the engine is made, for as many images as it is told.
    """
    contents = list(dict.fromkeys(sample.digest for sample in samples))
    with DecodeAhead(catalog.jobs(contents), size) as decoding:
        answers = run_engine(make_engine(len(contents)), decoding, reporter=reporter)
        return dict(zip(contents, answers, strict=True))


def group_images(decoded: Iterator[Decoded | Refusal], photos: int) -> Iterator[NDArray[np.uint8] | Refusal]:
    """Pixels (size, size, 3) of one-image samples, (photos, size, size, 3) of others."""
    while sample := list(islice(decoded, photos)):
        bad = [item for item in sample if isinstance(item, Refusal)]
        pixels = [item.pixels for item in sample if not isinstance(item, Refusal)]
        yield bad[0] if bad else (pixels[0] if photos == 1 else np.stack(pixels))


SELFTEST = "selftest.npz"
SAID, REFUSED = 1e-4, 1e-2  # of the largest answer: beyond float32 sums in another order; another network


def make_pictures(size: int, photos: int = 1) -> NDArray[np.uint8]:
    """Return 4 samples of square pictures: colours that change slowly or fast, and noise.

    No image of the user's is among them: a run may be handed on.

    Args:
        size: side in pixels.
        photos: how many images make a sample.

    >>> make_pictures(8).shape, make_pictures(8, photos=2).shape
    ((4, 8, 8, 3), (4, 2, 8, 8, 3))
    """
    along = np.linspace(0, 1, size)
    down, across = np.meshgrid(along, along, indexing="ij")
    noise = np.random.default_rng(0).random((size, size, 3))
    found = [
        np.stack([down, across, 1 - down], axis=-1),
        np.stack([across**2, 0.3 + 0 * down, down], axis=-1),
        0.5 + 0.5 * np.sin(20 * np.stack([down, across, down + across], axis=-1)),
        noise,
    ]
    shown: NDArray[np.uint8] = np.rint(255 * np.stack(found)).astype(np.uint8)
    if photos == 1:
        return shown
    return np.stack([np.roll(shown, number, axis=0) for number in range(photos)], axis=1)


def compute_answers(model: keras.Model, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what Keras gives for samples, (n, units), in f32."""
    import keras

    answers = model(pixels.astype(np.float32), training=False)
    return np.asarray(keras.ops.convert_to_numpy(answers), np.float32)


def check_answers(path: Path, digests: dict[str, Any], engine: Engine, reporter: Reporter) -> None:
    """Ask an engine about a run's pictures, unless it was right about them before on this machine.

    Raises:
        ModelRefused: it gives other answers, or the file is none of ours.
    """
    asked = f"{engine.name}\n{np.__version__}\n{sorted(digests.items())}"
    passed = Store().folder("selftests", hashlib.sha256(asked.encode()).hexdigest())
    if passed.exists():
        return
    try:
        with np.load(path, allow_pickle=False) as stored:
            shown, expected = stored["pictures"], stored["answers"]
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as fault:
        raise ModelRefused(f"{path} does not hold pictures and answers: {fault}.") from fault
    batches = (shown[at : at + engine.batch] for at in range(0, len(shown), engine.batch))
    received = np.concatenate([output[OUTPUT] for output in engine.run(batches)])
    if received.shape != expected.shape:
        raise ModelRefused(
            f"{path}: the network gives {received.shape[1:]} where {expected.shape[1:]} is right."
        )
    error = float(np.abs(received - expected).max() / max(float(np.abs(expected).max()), 1e-6))
    said = f"than when it was trained, by {error:.1g} of its largest answer, under {engine.name}"
    if not error <= REFUSED:
        raise ModelRefused(
            f"The model in {path.parent} answers otherwise {said}. Its manifest.json says what to install."
        )
    if error > SAID:
        reporter.warn(f"The model in {path.parent} answers a little otherwise {said}.")
    with contextlib.suppress(OSError):  # where nothing can be remembered, it is asked again
        passed.mkdir(parents=True, exist_ok=True)
