"""The segments of a JPEG: its frame, its scans, and whether scan lines are missing.

Cameras and broken copies leave files that lack nothing but the last two bytes. libjpeg shows any shorter
file too, grey where lines are missing and blurred where a progressive file's later scans are; so it does
where the end marker stands behind half a picture.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from itertools import islice, takewhile
from typing import NamedTuple

import numpy as np
from PIL import Image

from regraft.data.images.rejections import Refusal

__all__ = ["MAX_EXIF", "Frame", "check_work", "frame", "note_missing", "without_end_marker"]

MAX_PASSED = 2_000_000_000  # pixels over all scans: each passes over the whole picture, however few its bytes
MAX_EXIF = 2 * 2**20  # bytes, of which Pillow makes numbers; a camera fills a segment of 65,533
MAX_PIECES = 10_000  # segments before the first scan; a large colour profile has 200
_PADDING = b"\xff" * 65536  # allowed before a marker, in any number
_END = b"\xff\xd9"
_RESTARTS = [bytes([0xFF, 0xD0 + number]) for number in range(8)] * 2
_MADE_UP = (
    b"",
    b"".join(bytes(range(1, 255, 3)) + restart for restart in _RESTARTS),
    b"".join(bytes(range(254, 0, -3)) + restart for restart in _RESTARTS),
)
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # neither a stuffed zero nor a restart within a scan
_NO_FRAME = (0xC4, 0xC8, 0xCC)  # tables and reserved, among the numbers of frames
_HOLE = bytes(16)  # more zeros than any scan ends in


class Frame(NamedTuple):
    """What the header states: size in pixels, bits a sample."""

    width: int
    height: int
    bits: int


def frame(data: bytes) -> Frame | None:
    """The first frame's header, None where there is none."""
    for kind, start, end in _segments(data):
        if 0xC0 <= kind <= 0xCF and kind not in _NO_FRAME and end - start >= 5:
            height, width = (int.from_bytes(data[at : at + 2], "big") for at in (start + 1, start + 3))
            return Frame(width, height, data[start])
        if kind == 0xDA:
            return None
    return None


def check_work(data: bytes) -> None:
    """Refuse a file that takes minutes to decode: its picture comes in thousands of scans, its header in
    millions of pieces, which Pillow takes one by one, or its EXIF holds millions of numbers.

    Raises:
        Refusal: `decode_timeout`.
    """
    pieces = exif = 0
    for kind, start, end in takewhile(
        lambda segment: segment[0] != 0xDA, islice(_segments(data), MAX_PIECES + 1)
    ):
        pieces += 1
        exif += (end - start) * (kind == 0xE1 and data.startswith(b"Exif", start))
    if pieces > MAX_PIECES or _PADDING in data:
        raise Refusal("decode_timeout", f"a JPEG whose header has more than {MAX_PIECES:,} pieces")
    if exif > MAX_EXIF:
        raise Refusal("decode_timeout", f"a JPEG with {exif:,} bytes of EXIF, at most {MAX_EXIF:,}")
    found = frame(data)
    if found is None:
        return
    most = max(1, MAX_PASSED // max(1, found.width * found.height))  # an encoder writes a dozen
    if (
        len(data) > 10 * most and data.count(b"\xff\xda") > most
    ):  # it may be a video behind the picture, or a table of numbers
        scans = sum(kind == 0xDA for kind, *_ in _segments(data))
        if scans > most:
            raise Refusal("decode_timeout", f"a JPEG of {scans:,} scans, at most {most} for its size")


def note_missing(image: Image.Image, data: bytes, size: int | None) -> list[str]:
    """Return notes on what libjpeg shows without a word: grey for missing scan lines, blur for missing scans.

    Args:
        image: the picture, loaded.
        data: the whole file.
        size: what the decoder was told that suffices; None for all of it.

    Raises:
        Refusal: `truncated`.
    """
    unfilled = _ends_in_hole(data)
    if (unfilled or _ends_in_grey(image)) and without_end_marker(data[: _end(data)]) is None:
        raise Refusal("truncated", "scan lines are missing")
    notes = ["jpeg_missing_eoi"] if unfilled else []
    if "progressive" in image.info and not (_is_refined(data) and _last_scan_is_whole(image, data, size)):
        notes.append("jpeg_missing_scans")
    return notes


def _ends_in_grey(image: Image.Image) -> bool:
    """Whether the last pixel has the grey of blocks that were never read; few other pictures end so."""
    last = image.getpixel((image.width - 1, image.height - 1))
    return all(value in (127, 128) for value in (last if isinstance(last, tuple) else (last,)))


def _ends_in_hole(data: bytes) -> bool:
    """Whether zeros stand where the end marker should: a copy whose last part was never filled."""
    return data.endswith(_HOLE) and not data.rstrip(b"\0").endswith(_END)


def without_end_marker(data: bytes) -> Image.Image | None:
    """The picture of a JPEG that lacks nothing but its end marker, else None.

    What is missing shows when it is made up: bytes put behind the data change the picture where scan lines
    are missing, and are skipped as padding where the picture is complete.
    """
    if _ends_in_hole(data):
        data = data.rstrip(b"\0")
        data += b"\0" if data.endswith(b"\xff") else b""  # which belonged to the last byte of the scan
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
    for kind, start, end in _segments(data):
        body = data[start:end]
        if kind == 0xC2:  # the frame: its components, three bytes each
            missing = {(component, k) for component in body[6::3] for k in range(64)}
        elif kind == 0xDA:  # a scan: its components, two bytes each, then the band and the bits left out
            count = body[0]
            first, last, bits = body[1 + 2 * count : 4 + 2 * count]
            if bits & 0x0F == 0:
                missing -= {(c, k) for c in body[1 : 1 + 2 * count : 2] for k in range(first, last + 1)}
    return not missing


def _last_scan_is_whole(image: Image.Image, data: bytes, size: int | None) -> bool:
    """Whether a progressive JPEG's last scan goes to its end, as far as that shows at this size.

    What is missing of it is no grey but a little blur; made-up bytes behind it show, as in
    `without_end_marker`. Arguments are those of `note_missing`.
    """
    try:
        filled = Image.open(
            io.BytesIO(data[: _end(data)].rstrip(b"\xff") + _MADE_UP[-1] + _END), formats=["JPEG"]
        )
        if size is not None:
            filled.draft(None, (size, size))
        return np.array_equal(np.asarray(image), np.asarray(filled))
    except Exception:  # no memory for two of the largest: the picture is there all the same
        return True


def _end(data: bytes) -> int:
    """Where the end marker is, or would be."""
    return next((start - 2 for kind, start, _ in _segments(data) if kind == 0xD9), len(data))


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Each marker segment's kind and where its body starts and ends, up to the end marker."""
    at = 2
    while (found := _MARKER.search(data, at)) is not None:
        kind, start = data[found.end() - 1], found.end()
        at = start if kind in (0x01, 0xD8, 0xD9) else start + int.from_bytes(data[start : start + 2], "big")
        yield kind, start if kind == 0xD9 else start + 2, at
        if kind == 0xD9:
            return
