"""Where the answers go wrong: the worst mistakes of each task, with thumbnails; frequent confusions."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.data.catalog import Catalog
from regraft.data.images.decode import decode
from regraft.errors import DataError
from regraft.report.content import WrongImage, WrongLabels, WrongNumbers

__all__ = [
    "Confusion",
    "largest_errors",
    "most_confused",
    "most_wrong",
    "most_wrong_labels",
    "thumbnail",
    "wrong_images",
    "wrong_labels",
    "wrong_numbers",
]

THUMBNAIL = 220  # pixels on the longer side

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Confusion:
    """`count` of the `n` images of class `truth` were called `said`."""

    truth: str
    said: str
    count: int
    n: int


def most_wrong(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, count: int = 24
) -> npt.NDArray[np.int64]:
    """The wrongly answered images, the most confidently wrong first.

    Confidence in a mistake is the probability of the answer minus the probability of the truth.

    Returns:
        Places in `labels`, shape (m,), m <= count; equally confident ones in their given order.

    Raises:
        DataError: if class numbers are not of shape (n,) and probabilities not of shape (n, n_classes).

    >>> most_wrong([0, 0, 1], [[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]).tolist()
    [1, 0]
    """
    truth, table = np.asarray(labels, dtype=np.int64), np.asarray(probabilities)
    if table.ndim != 2 or truth.shape != (len(table),):
        raise DataError(
            "Expected labels of shape (n,) and probabilities of shape (n, n_classes). "
            f"Received: {truth.shape} and {table.shape}."
        )
    places = np.arange(len(table))
    said = table.argmax(axis=1) if table.size else places
    wrong: npt.NDArray[np.int64] = places[said != truth]
    # float64 first: the difference of two float32 would make ties out of near ties.
    table = table.astype(np.float64)
    margin = table[wrong, said[wrong]] - table[wrong, truth[wrong]]
    return wrong[np.argsort(-margin, kind="stable")][: max(count, 0)]


def most_wrong_labels(
    truth: npt.ArrayLike, answers: npt.ArrayLike, thresholds: npt.ArrayLike, *, count: int = 24
) -> npt.NDArray[np.int64]:
    """The images with a label missed or added, those with the most such labels first.

    Among equally many, the one whose answers are the farthest on the wrong side of their thresholds.

    Truth, 0 or 1, and probabilities are of shape (n, labels), thresholds of shape (labels,): an answer that
    is not below its threshold means the label. Returns places in `truth`, shape (m,), m <= count.

    >>> most_wrong_labels([[1, 0], [1, 0], [0, 1]], [[0.9, 0.8], [0.2, 0.6], [0.1, 0.9]], [0.5, 0.5]).tolist()
    [1, 0]
    """
    has, table = np.asarray(truth, dtype=bool), np.asarray(answers, dtype=np.float64)
    limits = np.asarray(thresholds, dtype=np.float64)
    wrong = has != (table >= limits)
    margin = (abs(table - limits) * wrong).sum(axis=1)
    order = np.lexsort((-margin, -wrong.sum(axis=1)))
    found: npt.NDArray[np.int64] = order[wrong.any(axis=1)[order]]
    return found[: max(count, 0)]


def largest_errors(truth: npt.ArrayLike, answers: npt.ArrayLike, *, count: int = 24) -> npt.NDArray[np.int64]:
    """The images with the largest errors; of several targets each counts in units of its own mean error.

    Truth and answers are of shape (n, targets). Returns places in `truth`, shape (m,), m <= count; images
    without any error are not among them.

    >>> largest_errors([[1.0], [2.0], [3.0]], [[1.5], [2.0], [1.0]]).tolist()
    [2, 0]
    """
    errors = abs(np.asarray(answers, dtype=np.float64) - np.asarray(truth, dtype=np.float64))
    typical = errors.mean(axis=0)
    size = (errors / np.where(typical > 0, typical, 1.0)).mean(axis=1)
    order = np.argsort(-size, kind="stable")
    found: npt.NDArray[np.int64] = order[size[order] > 0]
    return found[: max(count, 0)]


def most_confused(
    confusion: npt.NDArray[np.integer[Any]], classes: Sequence[str], *, count: int = 8
) -> list[Confusion]:
    """The pairs of classes most often taken for each other, `count` at most, the most frequent first.

    Of equally frequent ones the one with the larger share of its class is first; see `confusion_matrix`.

    >>> most_confused(np.array([[5, 2], [0, 3]]), ["cat", "dog"])
    [Confusion(truth='cat', said='dog', count=2, n=7)]
    """
    support = confusion.sum(axis=1)
    found = [
        Confusion(classes[row], classes[column], int(confusion[row, column]), int(support[row]))
        for row, column in np.argwhere(confusion).tolist()
        if row != column
    ]
    return sorted(found, key=lambda pair: (-pair.count, pair.n))[: max(count, 0)]


def wrong_images(catalog: Catalog, part: str, probabilities: Array) -> list[WrongImage]:
    """The most confident mistakes of a part; `probabilities` of every class, shape (n, classes)."""
    samples = catalog.part(part)
    truth, said = catalog.targets(samples), probabilities.argmax(axis=1)
    return [
        WrongImage(
            image=samples[at].path,
            truth=catalog.outputs[truth[at]],
            said=catalog.outputs[said[at]],
            probability=float(probabilities[at, said[at]]),
            truth_probability=float(probabilities[at, truth[at]]),
            thumbnail=thumbnail(catalog.root / samples[at].path),
        )
        for at in most_wrong(truth, probabilities)
    ]


def wrong_labels(catalog: Catalog, part: str, answers: Array, thresholds: Array) -> list[WrongLabels]:
    """The images of a part with the most labels missed or added; arrays as in `most_wrong_labels`."""
    samples = catalog.part(part)
    truth, said = catalog.targets(samples) > 0, answers >= thresholds

    def named(at: int, wanted: Array) -> list[tuple[str, float]]:
        return [(catalog.outputs[label], float(answers[at, label])) for label in np.flatnonzero(wanted)]

    return [
        WrongLabels(
            image=samples[at].path,
            missed=named(at, truth[at] & ~said[at]),
            added=named(at, said[at] & ~truth[at]),
            right=[name for name, _ in named(at, truth[at] & said[at])],
            thumbnail=thumbnail(catalog.root / samples[at].path),
        )
        for at in most_wrong_labels(truth, answers, thresholds)
    ]


def wrong_numbers(catalog: Catalog, part: str, answers: Array) -> list[WrongNumbers]:
    """The images of a part with the largest errors; `answers` of shape (n, targets)."""
    samples = catalog.part(part)
    truth = catalog.targets(samples)
    return [
        WrongNumbers(
            image=samples[at].path,
            values=list(zip(catalog.outputs, truth[at].tolist(), answers[at].tolist(), strict=True)),
            thumbnail=thumbnail(catalog.root / samples[at].path),
        )
        for at in largest_errors(truth, answers)
    ]


def thumbnail(path: Path) -> bytes:
    """A small JPEG of an image file; empty where it is gone by now, or no image."""
    from PIL import Image

    try:
        image = Image.fromarray(decode(path.read_bytes(), None).pixels)
    except Exception:
        return b""
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()
