"""The worst mistakes of each task with their thumbnails, and the most frequent confusions."""

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
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.errors import DataError
from regraft.report.content import StrangeImage, WrongImage, WrongLabels, WrongNumbers

__all__ = [
    "Confusion",
    "list_strangest",
    "list_wrong_images",
    "list_wrong_labels",
    "list_wrong_numbers",
    "make_thumbnail",
    "rank_confusions",
    "rank_errors",
    "rank_wrong_answers",
    "rank_wrong_labels",
]

STRANGEST = 8  # images shown
THUMBNAIL_SIZE = 220  # pixels on the longer side

Array = npt.NDArray[Any]


def list_wrong_images(catalog: Catalog, part: str, probabilities: Array) -> list[WrongImage]:
    """Return the most confident mistakes of a part.

    `probabilities` holds those of every class, shape (n, classes).
    """
    samples = catalog.part(part)
    truth, predicted = catalog.targets(samples), probabilities.argmax(axis=1)
    return [
        WrongImage(
            image=samples[row].path,
            truth=catalog.outputs[truth[row]],
            predicted=catalog.outputs[predicted[row]],
            probability=float(probabilities[row, predicted[row]]),
            truth_probability=float(probabilities[row, truth[row]]),
            thumbnail=make_thumbnail(catalog.root / samples[row].path, depth=catalog.depth),
        )
        for row in rank_wrong_answers(truth, probabilities)
    ]


def list_wrong_labels(catalog: Catalog, part: str, answers: Array, thresholds: Array) -> list[WrongLabels]:
    """Return the images of a part with the most wrong labels; arrays as in `rank_wrong_labels`."""
    samples = catalog.part(part)
    truth, predicted = catalog.targets(samples) > 0, answers >= thresholds

    def with_probabilities(row: int, chosen: Array) -> list[tuple[str, float]]:
        return [(catalog.outputs[label], float(answers[row, label])) for label in np.flatnonzero(chosen)]

    return [
        WrongLabels(
            image=samples[row].path,
            missed=with_probabilities(row, truth[row] & ~predicted[row]),
            added=with_probabilities(row, predicted[row] & ~truth[row]),
            right=[name for name, _ in with_probabilities(row, truth[row] & predicted[row])],
            thumbnail=make_thumbnail(catalog.root / samples[row].path, depth=catalog.depth),
        )
        for row in rank_wrong_labels(truth, answers, thresholds)
    ]


def list_wrong_numbers(catalog: Catalog, part: str, answers: Array) -> list[WrongNumbers]:
    """Return the images of a part with the largest errors; `answers` has shape (n, targets)."""
    samples = catalog.part(part)
    truth = catalog.targets(samples)
    return [
        WrongNumbers(
            image=samples[row].path,
            values=list(zip(catalog.outputs, truth[row].tolist(), answers[row].tolist(), strict=True)),
            thumbnail=make_thumbnail(catalog.root / samples[row].path, depth=catalog.depth),
        )
        for row in rank_errors(truth, answers)
    ]


def list_strangest(catalog: Catalog, part: str, familiarity: Array) -> list[StrangeImage]:
    """Return the least familiar images of a part, the strangest first; `familiarity` has shape (n,)."""
    samples = catalog.part(part)
    return [
        StrangeImage(
            image=samples[row].path,
            truth=catalog.describe_target(samples[row]),
            familiarity=float(familiarity[row]),
            thumbnail=make_thumbnail(catalog.root / samples[row].path, depth=catalog.depth),
        )
        for row in np.argsort(familiarity, kind="stable")[:STRANGEST]
    ]


def make_thumbnail(path: Path, *, depth: int = FULL_DEPTH) -> bytes:
    """Return a small JPEG of an image file; b"" if the file is gone or holds no image.

    `depth` is how many bits of 16-bit samples are used.
    """
    from PIL import Image

    try:
        image = Image.fromarray(decode(path.read_bytes(), None, depth=depth).pixels)
    except Exception:
        return b""
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def rank_wrong_answers(
    labels: npt.ArrayLike, probabilities: npt.ArrayLike, *, count: int = 24
) -> npt.NDArray[np.int64]:
    """Return the misclassified images, the most confidently wrong first.

    The confidence of a mistake is the probability of the answer minus that of the truth.

    Returns:
        Indices into `labels`, shape (m,), m <= count; ties stay in order.

    Raises:
        DataError: class numbers are not of shape (n,) or probabilities not of shape (n, n_classes).

    >>> rank_wrong_answers([0, 0, 1], [[0.4, 0.6], [0.1, 0.9], [0.2, 0.8]]).tolist()
    [1, 0]
    """
    truth, table = np.asarray(labels, dtype=np.int64), np.asarray(probabilities)
    if table.ndim != 2 or truth.shape != (len(table),):
        raise DataError(
            "Expected labels of shape (n,) and probabilities of shape (n, n_classes). "
            f"Received: {truth.shape} and {table.shape}."
        )
    rows = np.arange(len(table))
    predicted = table.argmax(axis=1) if table.size else rows
    wrong: npt.NDArray[np.int64] = rows[predicted != truth]
    # float64 first: the difference of two float32 would turn near ties into ties.
    table = table.astype(np.float64)
    margin = table[wrong, predicted[wrong]] - table[wrong, truth[wrong]]
    return wrong[np.argsort(-margin, kind="stable")][: max(count, 0)]


def rank_wrong_labels(
    truth: npt.ArrayLike, answers: npt.ArrayLike, thresholds: npt.ArrayLike, *, count: int = 24
) -> npt.NDArray[np.int64]:
    """Return the images with a label missed or added, those with the most such labels first.

    Ties are ordered by how far the answers lie on the wrong side of their thresholds.

    Args:
        truth: 0 or 1, shape (n, labels).
        answers: probabilities, shape (n, labels).
        thresholds: shape (labels,); an answer that is not below its threshold stands for the label.
        count: the most images to return.

    Returns:
        Indices into `truth`, shape (m,), m <= count.

    >>> rank_wrong_labels([[1, 0], [1, 0], [0, 1]], [[0.9, 0.8], [0.2, 0.6], [0.1, 0.9]], [0.5, 0.5]).tolist()
    [1, 0]
    """
    has_label, table = np.asarray(truth, dtype=bool), np.asarray(answers, dtype=np.float64)
    limits = np.asarray(thresholds, dtype=np.float64)
    wrong = has_label != (table >= limits)
    margin = (abs(table - limits) * wrong).sum(axis=1)
    order = np.lexsort((-margin, -wrong.sum(axis=1)))
    ranked: npt.NDArray[np.int64] = order[wrong.any(axis=1)[order]]
    return ranked[: max(count, 0)]


def rank_errors(truth: npt.ArrayLike, answers: npt.ArrayLike, *, count: int = 24) -> npt.NDArray[np.int64]:
    """Return the images with the largest errors; the error of a target counts relative to its mean error.

    Truth and answers have shape (n, targets).

    Returns:
        Indices into `truth`, shape (m,), m <= count, without the images that have no error.

    >>> rank_errors([[1.0], [2.0], [3.0]], [[1.5], [2.0], [1.0]]).tolist()
    [2, 0]
    """
    errors = abs(np.asarray(answers, dtype=np.float64) - np.asarray(truth, dtype=np.float64))
    typical = errors.mean(axis=0)
    size = (errors / np.where(typical > 0, typical, 1.0)).mean(axis=1)
    order = np.argsort(-size, kind="stable")
    ranked: npt.NDArray[np.int64] = order[size[order] > 0]
    return ranked[: max(count, 0)]


@dataclass(frozen=True)
class Confusion:
    """A pair of classes: `count` of the `n` images of class `truth` were classified as `predicted`."""

    truth: str
    predicted: str
    count: int
    n: int


def rank_confusions(
    confusion: npt.NDArray[np.integer[Any]], classes: Sequence[str], *, count: int = 8
) -> list[Confusion]:
    """Return the most frequent confusions, at most `count`.

    Ties are ordered by their share of the true class; see `confusion_matrix`.

    >>> rank_confusions(np.array([[5, 2], [0, 3]]), ["cat", "dog"])
    [Confusion(truth='cat', predicted='dog', count=2, n=7)]
    """
    support = confusion.sum(axis=1)
    pairs = [
        Confusion(classes[row], classes[column], int(confusion[row, column]), int(support[row]))
        for row, column in np.argwhere(confusion).tolist()
        if row != column
    ]
    return sorted(pairs, key=lambda pair: (-pair.count, pair.n))[: max(count, 0)]
