"""Check that targets hold something to learn: numbers that differ, classes that come more than once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from regraft.data.cells import write_number
from regraft.errors import DataError

__all__ = ["check_numbers", "check_repetition", "check_weights"]

MANY_IMAGES = 10  # from which a class of its own for almost each of them is an error
MOST_IMAGES = 0.9  # share of the images, more than which are "almost each"
FINE_STEP = 0.01  # of a target's standard deviation: larger steps between answers are noted


def check_numbers(targets: NDArray[np.float64], names: Sequence[str]) -> tuple[str, ...]:
    """Check that each target of a regression differs between training samples; return notes.

    Args:
        targets: those of the training samples, (n, targets).
        names: of the targets.

    Raises:
        DataError: a target is the same number in all samples.

    >>> check_numbers(np.array([[1.7e9], [1.7e9 + 60]]), ["time"])[0][:52]
    'The numbers of time differ little next to their size'
    """
    notes = []
    for name, values in zip(names, targets.T, strict=True):
        if len(set(values.tolist())) < 2:
            received = f"{write_number(values[0])} in every training sample" if len(values) else "no sample"
            raise DataError(f"Expected different numbers of {name} to learn from. Received: {received}.")
        step = float(np.spacing(np.float32(abs(values).max())))
        if step > FINE_STEP * values.std():
            notes.append(
                f"The numbers of {name} differ little next to their size: they are learnt with all "
                f"digits, but a saved model answers in steps of {write_number(step)}. Subtract a constant "
                "from all of them for finer answers."
            )
    return tuple(notes)


def check_weights(weights: Iterable[float]) -> None:
    """Check the weights of the training samples.

    Raises:
        DataError: all of them are zero.

    >>> check_weights([0.0, 2.0])
    """
    values = list(weights)
    if values and not any(values):
        raise DataError(
            "Expected a weight above 0 for some training image. Received: the weight zero for all of "
            f"{len(values):,} training images."
        )


def check_repetition(labels: Sequence[int], outputs: Sequence[str]) -> None:
    """Check that classes come more than once; otherwise the target holds numbers, dates or names.

    Args:
        labels: the class of each sample.
        outputs: names of the classes.

    Raises:
        DataError: almost each of many samples has a class of its own.

    >>> check_repetition([0, 1, 0, 1], ["cat", "dog"])
    """
    single = [outputs[label] for label, count in sorted(Counter(labels).items()) if count == 1]
    if len(labels) >= MANY_IMAGES and len(single) > MOST_IMAGES * len(labels):
        raise DataError(
            f"Expected several images of each class. Received: {len(single):,} classes with one image each "
            f"in {len(labels):,} images, such as {', '.join(map(repr, single[:3]))}. If these are numbers, "
            "write them like 1200 or 0.5 (or 0,5, if all are written so). If not, name another target."
        )
