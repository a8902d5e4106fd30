"""Replay an export: the same images must get the answers of the run, one at a time or several together."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.errors import ModelRefused, shorten_error
from regraft.exports.formats import Format
from regraft.exports.run_images import RunImages
from regraft.features.openvino import join_batches
from regraft.inference.bundle import Bundle
from regraft.inference.predict import SELFTEST, make_test_images
from regraft.models.inner_outputs import ANSWERS, FEATURES
from regraft.pipeline.predictions import ImageRow

if TYPE_CHECKING:
    from regraft.features.engine import Engine

__all__ = [
    "RUNTIME", "Replay", "Runtime", "load_runtime", "replay_exactly", "replay_quantized", "replay_unresized",
]  # fmt: skip

RUNTIME = "runtime.py"
BATCHES = (1, 3, 8)  # images given at a time, in turn
TOLERANCE = 1e-4  # of the largest answer, if the pixels are the same
TOLERANCE_RESIZED = 2e-2  # of the largest answer, if the network resizes: a few pixels differ by 1 of 255

Outputs = dict[str, NDArray[np.float32]]
Runtime = Callable[[NDArray[np.uint8]], Outputs]


@dataclass(frozen=True)
class Replay:
    """How an export answered: the images of the run, and the largest difference of an answer."""

    images: int
    difference: float


def load_runtime(folder: Path, kind: Format) -> Runtime:
    """Load an exported model with the very program that the export brings with it.

    Raises:
        ModelRefused: the runtime does not take the model.
    """
    spec = importlib.util.spec_from_file_location("regraft_exported_runtime", folder / RUNTIME)
    if spec is None or spec.loader is None:
        raise ModelRefused(f"{folder / RUNTIME} cannot be loaded.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        runtime: Runtime = module.load(folder / kind.model)
    except Exception as error:  # runtimes document no types for this
        raise ModelRefused(
            f"The network was written as {kind.name}, but its runtime does not take it: "
            f"{shorten_error(error)}"
        ) from error
    return runtime


def replay_exactly(runtime: Runtime, bundle: Bundle, images: RunImages, rows: list[ImageRow]) -> Replay:
    """Compare answers and features to the self-test and to images of the run, in batches of several sizes.

    Args:
        runtime: runs the export.
        bundle: the run.
        images: its images.
        rows: those to replay; it may be none.

    Raises:
        ModelRefused: an answer differs by more than `TOLERANCE`, or a batch size is refused.
    """
    engine, worst, count = bundle.make_engine(64), 0.0, 0
    for pixels, stored in _list_samples(bundle, images, rows):
        expected = _run_engine(engine, pixels)
        if stored is not None:
            expected[ANSWERS] = stored
        received = _run_in_batches(runtime, pixels)
        worst = max(worst, _compare(received, expected))
        count += len(pixels) if stored is None else 0
    return Replay(count, worst)


def _list_samples(
    bundle: Bundle, images: RunImages, rows: list[ImageRow]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.float32] | None]]:
    """Yield the pixels of the self-test with the answers of the day of training, then those of images."""
    if SELFTEST in bundle.manifest["files"]:
        with np.load(bundle.path / SELFTEST, allow_pickle=False) as stored:  # the engine has checked the file
            yield stored["pictures"], stored["answers"]
    else:  # a run of an earlier version
        yield make_test_images(bundle.image_size, bundle.images_per_sample), None
    for _, pixels in images.decode(rows) if rows else ():
        yield pixels, None


def _run_engine(engine: Engine, pixels: NDArray[np.uint8]) -> Outputs:
    """Return the outputs of the run's own network for samples."""
    starts = range(0, len(pixels), engine.batch)
    return join_batches(list(engine.run(pixels[start : start + engine.batch] for start in starts)))


def _run_in_batches(runtime: Runtime, pixels: NDArray[np.uint8]) -> Outputs:
    """Run samples in batches of all sizes in turn."""
    outputs, start, turn = [], 0, 0
    while start < len(pixels):
        size = BATCHES[turn % len(BATCHES)]
        try:
            outputs.append(runtime(pixels[start : start + size]))
        except Exception as error:  # runtimes document no types for this
            raise ModelRefused(
                f"The exported model refuses {min(size, len(pixels) - start)} images at a time: "
                f"{shorten_error(error)}"
            ) from error
        start, turn = start + size, turn + 1
    return join_batches(outputs)


def _compare(received: Outputs, expected: Outputs) -> float:
    """Return the largest difference of an answer.

    Raises:
        ModelRefused: an output differs.
    """
    for name in (ANSWERS, FEATURES):
        if name in received and name in expected:
            difference = np.abs(received[name] - expected[name]).max()
            limit = TOLERANCE * max(float(np.abs(expected[name]).max()), 1e-6)
            if not difference <= limit:
                raise ModelRefused(
                    f"The exported model gives other {name} than the run, by {difference:.1g} where at most "
                    f"{limit:.1g} is expected. No file is written."
                )
    return float(np.abs(received[ANSWERS] - expected[ANSWERS]).max())


def replay_unresized(runtime: Runtime, bundle: Bundle, images: RunImages, rows: list[ImageRow]) -> Replay:
    """Compare the answers to images as large as they are with those to the images that the decoder resized.

    Raises:
        ModelRefused: an answer differs by more than `TOLERANCE_RESIZED`.
    """
    engine, worst, count = bundle.make_engine(64), 0.0, 0
    for numbers, pixels in images.decode(rows) if rows else ():
        expected = _run_engine(engine, pixels)[ANSWERS]
        received = np.concatenate(
            [runtime(images.decode_unresized(rows[number]))[ANSWERS] for number in numbers]
        )
        difference = float(np.abs(received - expected).max())
        if not difference <= TOLERANCE_RESIZED * max(float(np.abs(expected).max()), 1e-6):
            raise ModelRefused(
                f"The exported model, which resizes images itself, gives other answers than the run, by "
                f"{difference:.1g}. No file is written. Export without --any-size."
            )
        worst, count = max(worst, difference), count + len(numbers)
    return Replay(count, worst)


def replay_quantized(runtime: Runtime, images: RunImages, rows: list[ImageRow]) -> tuple[list[int], Outputs]:
    """Return the answers of a quantized model to images: the numbers of their rows, and the outputs."""
    numbers, outputs = [], []
    for chunk, pixels in images.decode(rows):
        numbers += chunk
        outputs.append(_run_in_batches(runtime, pixels))
    return numbers, join_batches(outputs)
