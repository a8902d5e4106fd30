"""The images answered worst, each with a thumbnail."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from regraft.data.catalog import Catalog
from regraft.data.decode import decode
from regraft.evaluation.content import WrongImage, WrongLabels, WrongNumbers
from regraft.evaluation.explain import largest_errors, most_wrong, most_wrong_labels

__all__ = ["thumbnail", "wrong_images", "wrong_labels", "wrong_numbers"]

THUMBNAIL = 220  # pixels on the longer side

Array = npt.NDArray[Any]


def wrong_images(catalog: Catalog, part: str, probabilities: Array) -> list[WrongImage]:
    """The most confident mistakes of a part; `probabilities` of every class, shape (n, classes).

    Example:
        wrong_images(catalog, "test", model.predict(pixels))
    """
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
    """The images of a part with the most labels missed or added.

    Args:
        catalog: the images.
        part: its name.
        answers: probabilities, shape (n, labels).
        thresholds: one a label, shape (labels,).
    """
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
