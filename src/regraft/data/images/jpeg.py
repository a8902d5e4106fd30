"""Read the segments of a JPEG: its frame, its scans, and whether scan lines are missing.

Cameras and broken copies leave files that lack only the last two bytes. But libjpeg opens any shorter file
too, and any file whose end marker follows half an image: it shows grey where lines are missing, and blur
where the later scans of a progressive file are missing.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import NamedTuple

import numpy as np
from PIL import Image

from regraft.data.images.rejections import Rejection

__all__ = ["MAX_EXIF", "Frame", "check_work", "note_missing", "open_without_end_marker", "read_frame"]

MAX_SCANNED_PIXELS = 2_000_000_000  # over all scans: each passes over every pixel, however few its bytes
MAX_EXIF = 2 * 2**20  # bytes, which Pillow turns into numbers; a camera fills one segment of 65,533
MAX_SEGMENTS = 10_000  # before the first scan; a large colour profile has 200
_PADDING = b"\xff" * 65536  # the format allows any number of these before a marker
_END = b"\xff\xd9"
_RESTARTS = [bytes([0xFF, 0xD0 + number]) for number in range(8)] * 2
_MADE_UP_DATA = (
    b"",
    b"".join(bytes(range(1, 255, 3)) + restart for restart in _RESTARTS),
    b"".join(bytes(range(254, 0, -3)) + restart for restart in _RESTARTS),
)
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed zero nor a restart within a scan
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # tables and reserved, among the numbers of frames
_HOLE = bytes(16)  # more zeros than there are at the end of any scan


class Frame(NamedTuple):
    """The header of a frame: its size in pixels, and the bits of a sample."""

    width: int
    height: int
    bits: int


def read_frame(data: bytes) -> Frame | None:
    """Return the header of the first frame; None where there is none."""
    for kind, start, end in _iter_segments(data):
        if 0xC0 <= kind <= 0xCF and kind not in _NO_FRAME and end - start >= 5:
            height = int.from_bytes(data[start + 1 : start + 3], "big")
            width = int.from_bytes(data[start + 3 : start + 5], "big")
            return Frame(width, height, data[start])
        if kind == 0xDA:
            return None
    return None


def check_work(data: bytes) -> None:
    """Reject a file that would take minutes to decode.

    It has thousands of scans, millions of segments before them, or millions of numbers in its EXIF.

    Raises:
        Rejection: `decode_timeout`.
    """
    segments = exif = 0
    first_segments = islice(_iter_segments(data), MAX_SEGMENTS + 1)
    for kind, start, end in takewhile(lambda segment: segment[0] != 0xDA, first_segments):
        segments += 1
        exif += (end - start) * (kind == 0xE1 and data.startswith(b"Exif", start))
    if segments > MAX_SEGMENTS or _PADDING in data:
        raise Rejection("decode_timeout", f"a JPEG whose header has more than {MAX_SEGMENTS:,} segments")
    if exif > MAX_EXIF:
        raise Rejection("decode_timeout", f"a JPEG with {exif:,} bytes of EXIF, at most {MAX_EXIF:,}")
    frame = read_frame(data)
    if frame is None:
        return
    most = max(1, MAX_SCANNED_PIXELS // max(1, frame.width * frame.height))  # an encoder writes a dozen
    if len(data) > 10 * most and data.count(b"\xff\xda") > most:  # in a table or in data behind the image too
        scans = sum(kind == 0xDA for kind, *_ in _iter_segments(data))
        if scans > most:
            raise Rejection("decode_timeout", f"a JPEG of {scans:,} scans, at most {most} for its size")


def note_missing(image: Image.Image, data: bytes, size: int | None) -> list[str]:
    """Return notes on what libjpeg hides: grey for missing scan lines, blur for missing scans.

    Args:
        image: the loaded image.
        data: the whole file.
        size: the size in pixels for which the decoder was allowed to decode less; None for full size.

    Raises:
        Rejection: `truncated`.
    """
    is_unfilled = _ends_in_hole(data)
    if (is_unfilled or _ends_in_grey(image)) and open_without_end_marker(data[: _find_end(data)]) is None:
        raise Rejection("truncated", "scan lines are missing")
    notes = ["jpeg_missing_eoi"] if is_unfilled else []
    if "progressive" in image.info and not (
        _has_all_scans(data) and _is_last_scan_complete(image, data, size)
    ):
        notes.append("jpeg_missing_scans")
    return notes


def _ends_in_grey(image: Image.Image) -> bool:
    """Tell whether the last pixel has the grey of blocks that were never read; few other images end so."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return all(value in (127, 128) for value in (last if isinstance(last, tuple) else (last,)))


def _ends_in_hole(data: bytes) -> bool:
    """Tell whether there are zeros instead of the end marker: the last part of a copy was never filled."""
    return data.endswith(_HOLE) and not data.rstrip(b"\0").endswith(_END)


def open_without_end_marker(data: bytes) -> Image.Image | None:
    """Return the image of a JPEG that lacks only its end marker; None where more is missing.

    Made-up bytes behind the data tell: they change the image where scan lines are missing, and are skipped as
    padding where it is complete.
    """
    if _ends_in_hole(data):
        data = data.rstrip(b"\0")
        data += b"\0" if data.endswith(b"\xff") else b""  # this zero was part of the scan
    try:
        plain, *filled = (
            Image.open(io.BytesIO(data.rstrip(b"\xff") + extra + _END), formats=["JPEG"])
            for extra in _MADE_UP_DATA
        )
        if "progressive" in plain.info and not _has_all_scans(data):
            return None
        is_complete = all(np.array_equal(np.asarray(plain), np.asarray(other)) for other in filled)
    except Exception:  # the file is broken, whatever error the decoder raises
        return None
    return plain if is_complete else None


def _has_all_scans(data: bytes) -> bool:
    """Tell whether the scans of a progressive JPEG hold every coefficient to the last bit."""
    missing: set[tuple[int, int]] = set()
    for kind, start, end in _iter_segments(data):
        body = data[start:end]
        if kind == 0xC2:  # the frame: three bytes for each component
            missing = {(component, number) for component in body[6::3] for number in range(64)}
        elif kind == 0xDA:  # a scan: two bytes for each component, then the band and the omitted bits
            count = body[0]
            first, last, omitted = body[1 + 2 * count : 4 + 2 * count]
            if omitted & 0x0F == 0:
                components, band = body[1 : 1 + 2 * count : 2], range(first, last + 1)
                missing -= {(component, number) for component in components for number in band}
    return not missing


def _is_last_scan_complete(image: Image.Image, data: bytes, size: int | None) -> bool:
    """Tell whether the last scan of a progressive JPEG is complete, as far as that shows at this size.

    A missing part gives a little blur, which made-up bytes reveal, as in `open_without_end_marker`.
    """
    try:
        filled = Image.open(
            io.BytesIO(data[: _find_end(data)].rstrip(b"\xff") + _MADE_UP_DATA[-1] + _END), formats=["JPEG"]
        )
        if size is not None:
            filled.draft(None, (size, size))
        return np.array_equal(np.asarray(image), np.asarray(filled))
    except Exception:  # there is no memory for two of the largest images: the first is good all the same
        return True


def _find_end(data: bytes) -> int:
    """Return where the end marker is, or should be."""
    return next((start - 2 for kind, start, _ in _iter_segments(data) if kind == 0xD9), len(data))


def _iter_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the kind of each marker segment and where its body starts and ends, up to the end marker."""
    end = 2
    while (marker := _MARKER.search(data, end)) is not None:
        kind, start = data[marker.end() - 1], marker.end()
        end = start if kind in (0x01, 0xD8, 0xD9) else start + int.from_bytes(data[start : start + 2], "big")
        yield kind, start if kind == 0xD9 else start + 2, end
        if kind == 0xD9:
            return
