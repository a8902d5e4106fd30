"""What a model gives for files that are being decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from regraft.console import Reporter
from regraft.data.catalog import Catalog
from regraft.data.decode import Decoded
from regraft.data.refusal import Refusal
from regraft.data.sample import Sample
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.features.store import Store

if TYPE_CHECKING:
    import keras

    from regraft.features.engine import Engine

__all__ = ["OUTPUT", "answer_contents", "group_images", "make_default_engine", "name_output", "run_engine"]

OUTPUT = "answers"


def name_output(model: keras.Model, name: str = OUTPUT) -> keras.Model:
    """Return the same network with its one output named, as engines give it."""
    import keras

    given = model.inputs if len(model.inputs) > 1 else model.inputs[0]
    return keras.Model(given, {name: model.outputs[0]})


def make_default_engine(model: keras.Model) -> Engine:
    """Return what runs a model in memory fastest."""
    from regraft.features.speed import Speed

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
    with DecodeAhead(jobs_for(catalog, contents), size) as decoding:
        answers = run_engine(make_engine(len(contents)), decoding, reporter=reporter)
        return dict(zip(contents, answers, strict=True))


def group_images(decoded: Iterator[Decoded | Refusal], photos: int) -> Iterator[NDArray[np.uint8] | Refusal]:
    """Pixels (size, size, 3) of one-image samples, (photos, size, size, 3) of others."""
    while sample := list(islice(decoded, photos)):
        bad = [item for item in sample if isinstance(item, Refusal)]
        pixels = [item.pixels for item in sample if not isinstance(item, Refusal)]
        yield bad[0] if bad else (pixels[0] if photos == 1 else np.stack(pixels))
