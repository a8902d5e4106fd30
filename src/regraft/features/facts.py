"""What the decoder learnt of images, as rows of the store: once an image, whatever sees it later.

They lie under a key of their own, which names no network, view or precision. Which notes there are is part of
it: a note that is new is looked for in every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import DECODER, THUMBNAIL, Facts
from regraft.data.notes import NOTES
from regraft.features.store import Entries

__all__ = ["as_tensors", "facts_key", "read_facts"]

FORMAT = "S8"  # the longest name of a format has five letters


def facts_key(size: int) -> str:
    """The key of what is learnt by decoding to this side in pixels."""
    return f"facts\n{DECODER}\nsize {size}\nnotes {' '.join(NOTES)}"


def as_tensors(facts: Sequence[Facts]) -> dict[str, NDArray[np.generic]]:
    """Facts as tensors, a row an image.

    Returns:
        "size" (n, 2), width and height; "format" (n,), ASCII; "notes" (n, number of `NOTES`), whether each
        was made; "thumbnail" (n, 16, 16, 3).

    Example:
        >>> tensors = as_tensors([Facts(640, 480, "JPEG", ("uniform",))])
        >>> tensors["size"].tolist(), tensors["format"].tolist(), tensors["notes"].sum()
        ([[640, 480]], [b'JPEG'], np.int64(1))
    """
    thumbnails = np.frombuffer(b"".join(each.thumbnail for each in facts), np.uint8)
    return {
        "size": np.array([(each.width, each.height) for each in facts], np.uint32),
        "format": np.array([each.format for each in facts], FORMAT),
        "notes": np.array([[note in each.notes for note in NOTES] for each in facts]),
        "thumbnail": thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL, 3),
    }


def read_facts(entries: Entries, digests: Sequence[str]) -> list[Facts]:
    """The facts of images, in the order given.

    Args:
        entries: those of `facts_key`.
        digests: of the images.

    Raises:
        KeyError: one of them has no sound row.
        EnvironmentFault: the store cannot be read any more.
    """
    sizes, formats, made = (entries.read(digests, name).tolist() for name in ("size", "format", "notes"))
    thumbnails = entries.read(digests, "thumbnail")
    return [
        Facts(width, height, kind.decode("ascii"), tuple(compress(NOTES, notes)), small.tobytes())
        for (width, height), kind, notes, small in zip(sizes, formats, made, thumbnails, strict=True)
    ]
