"""A JPEG without its end marker: is the picture whole, or is some of it missing?

Cameras and broken copies leave files that lack nothing but the last two bytes. libjpeg shows any shorter
file too, grey where lines are missing and blurred where a progressive file's later scans are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator

import numpy as np
from PIL import Image

__all__ = ["without_end_marker"]

_END = b"\xff\xd9"
_MADE_UP = (b"", bytes(range(1, 255, 3)) * 16, bytes(range(254, 0, -3)) * 16)
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed zero nor a restart within a scan


def without_end_marker(data: bytes) -> Image.Image | None:
    """The picture of a JPEG that lacks nothing but its end marker, else None.

    What is missing shows when it is made up: bytes put behind the data change the picture where scan lines
    are missing, and are skipped as padding where the picture is complete.
    """
    try:
        plain, *filled = (
            Image.open(io.BytesIO(data.rstrip(b"\xff") + extra + _END), formats=["JPEG"])
            for extra in _MADE_UP
        )
        if "progressive" in plain.info and not _is_refined(data):
            return None
        whole = all(np.array_equal(np.asarray(plain), np.asarray(other)) for other in filled)
    except Exception:  # a broken file, whatever the decoder says of it
        return None
    return plain if whole else None


def _is_refined(data: bytes) -> bool:
    """Whether a progressive JPEG's scans bring every coefficient of every component to its last bit."""
    missing: set[tuple[int, int]] = set()
    for kind, body in _segments(data):
        if kind == 0xC2:  # the frame: its components, three bytes each
            missing = {(component, k) for component in body[6::3] for k in range(64)}
        elif kind == 0xDA:  # a scan: its components, two bytes each, then the band and the bits left out
            count = body[0]
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            if bits & 0x0F == 0:
                missing -= {(c, k) for c in body[1 : 1 + 2 * count : 2] for k in range(first, last + 1)}
    return not missing


def _segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Each marker segment's kind and body, what lies between scans left out."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        length = int.from_bytes(data[found.end() : found.end() + 2], "big")
        yield data[found.end() - 1], data[found.end() + 2 : found.end() + length]
        at = found.end() + length
