"""Measure how familiar images are while a model predicts them, and warn of many that are not."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from regraft.data.images.rejections import Rejection
from regraft.inference.predict import ModelOutput
from regraft.system.console import Reporter
from regraft.uncertainty.familiarity import LEVEL, Familiarity, is_count_surprising

__all__ = ["add_familiarity"]

CHUNK = 64  # samples measured at a time: one by one they would take as long as a tenth of the network
MIN_SAMPLES = 50  # from which a warning means something


def add_familiarity(
    outputs: Iterator[ModelOutput | Rejection],
    familiarity: Familiarity | None,
    total: int,
    reporter: Reporter,
) -> Iterator[ModelOutput | Rejection]:
    """Yield what a model computed of samples, with their familiarity.

    Args:
        outputs: of `total` samples.
        familiarity: None if the run cannot tell.
        total: number of samples; the warning comes with the last of them.
        reporter: is warned if far more samples are unfamiliar than should be.
    """
    if familiarity is None:
        yield from outputs
        return
    done = measured = unfamiliar = 0
    while chunk := list(islice(outputs, CHUNK)):
        results = _measure(chunk, familiarity)
        values = [item.familiarity for item in results if isinstance(item, ModelOutput)]
        done, measured = done + len(chunk), measured + len(values)
        unfamiliar += sum(value is not None and value < LEVEL for value in values)
        if done == total and measured >= MIN_SAMPLES and is_count_surprising(unfamiliar, measured):
            reporter.warn(
                f"{unfamiliar:,} of {measured:,} images are not like the training images; about "
                f"{LEVEL * measured:.0f} should be. Look at them before you trust the answers."
            )
        yield from results


def _measure(chunk: list[ModelOutput | Rejection], familiarity: Familiarity) -> list[ModelOutput | Rejection]:
    outputs = [item for item in chunk if isinstance(item, ModelOutput) and item.features is not None]
    if not outputs:
        return chunk
    features = np.stack([item.features for item in outputs if item.features is not None])
    answers = np.stack([item.answer for item in outputs])
    values = iter(familiarity.measure(features, answers).tolist())
    return [
        item._replace(familiarity=next(values))
        if isinstance(item, ModelOutput) and item.features is not None
        else item
        for item in chunk
    ]
