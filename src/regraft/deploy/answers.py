"""What a model gives for files that are being decoded."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.console import track
from regraft.data.decode import Decoded
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead
from regraft.features.store import Store

if TYPE_CHECKING:
    import keras

__all__ = ["run_model"]

OUTPUT = "answers"


def run_model(
    model: keras.Model, decoding: DecodeAhead, photos: int = 1
) -> Iterator[NDArray[np.float32] | Refusal]:
    """What a model in memory gives for files that are being decoded, so many of them a sample; with a refused
    file the sample is refused."""
    import keras

    from regraft.features.engine import fingerprint, make_engine
    from regraft.features.openvino import BATCH

    network = keras.Model(model.inputs[0], {OUTPUT: model.outputs[0]})
    engine = make_engine(network, Store().folder("engines", fingerprint(network)))
    with track("Predicting", len(decoding) // photos) as advance:
        decoded = iter(decoding)
        while samples := list(islice(_grouped(decoded, photos), 8 * BATCH)):
            pixels = [sample for sample in samples if not isinstance(sample, Refusal)]
            batches = (np.stack(pixels[at : at + BATCH]) for at in range(0, len(pixels), BATCH))
            rows = chain.from_iterable(output[OUTPUT] for output in engine.run(batches))
            yield from (item if isinstance(item, Refusal) else next(rows) for item in samples)
            advance(len(samples))


def _grouped(decoded: Iterator[Decoded | Refusal], photos: int) -> Iterator[NDArray[np.uint8] | Refusal]:
    """Pixels (size, size, 3) of one-image samples, (photos, size, size, 3) of others."""
    while sample := list(islice(decoded, photos)):
        bad = [item for item in sample if isinstance(item, Refusal)]
        pixels = [item.pixels for item in sample if not isinstance(item, Refusal)]
        yield bad[0] if bad else (pixels[0] if photos == 1 else np.stack(pixels))
