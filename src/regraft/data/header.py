"""What a file states of itself before a decoder is asked: width and height, and how many pixels are too many.

Decoders ask for memory by what the header says. A ceiling is what one decoding process can hold
(`data.child.MEMORY`) of a format, by the bytes that its decoder takes for a pixel.
REGRAFT_MAX_MEGAPIXELS moves the ceilings of all formats, and that memory with them: an environment variable,
because what fits is a matter of the machine and not of a run, and because decoding processes inherit it.
"""

from __future__ import annotations

import math
import os
import struct

from regraft.data.jpeg import frame
from regraft.data.png import SIGNATURE
from regraft.data.refusal import Refusal
from regraft.errors import UsageError

__all__ = ["LOWER", "MAX_PIXELS", "allowance", "check_size", "stated_size"]

MAX_PIXELS = 64_000_000
LOWER = {"WEBP": 20_000_000, "AVIF": 40_000_000, "HEIF": 50_000_000}  # 8 to 20 bytes for a pixel
SETTING = "REGRAFT_MAX_MEGAPIXELS"


def allowance() -> float:
    """How many times as many pixels as by default a picture may have here.

    Raises:
        UsageError: the setting is no number above zero.
    """
    said = os.environ.get(SETTING) or str(MAX_PIXELS // 10**6)
    try:
        found = float(said) * 1e6 / MAX_PIXELS
    except ValueError:
        found = math.nan
    if not 0 < found < math.inf:
        raise UsageError(f"{SETTING}: expected millions of pixels, such as 200. Received: {said}.")
    return found


def check_size(width: int, height: int, kind: str) -> None:
    """Refuse a picture with no pixels, or with more than its format may have.

    Raises:
        Refusal: `bad_dimensions`, `too_many_pixels`.
    """
    most = int(LOWER.get(kind, MAX_PIXELS) * allowance())
    if width < 1 or height < 1:
        raise Refusal("bad_dimensions", f"{width} x {height}")
    if width * height > most:
        raise Refusal("too_many_pixels", f"{width} x {height}, at most {most:,} in {kind}; see {SETTING}")


def stated_size(data: bytes) -> tuple[int, int, str] | None:
    """Width, height and format by the header of a PNG, GIF, WebP or JPEG; None for others and broken ones.

    >>> stated_size(b"GIF89a" + bytes([3, 0, 0, 1]))
    (3, 256, 'GIF')
    """
    try:
        if data.startswith(SIGNATURE):
            return *struct.unpack_from(">II", data, 16), "PNG"
        if data.startswith(b"GIF8"):
            return *struct.unpack_from("<HH", data, 6), "GIF"
        if data[8:12] == b"WEBP":
            return *_webp(data), "WEBP"
    except struct.error:
        return None
    found = frame(data) if data.startswith(b"\xff\xd8") else None
    return (found.width, found.height, "JPEG") if found else None


def _webp(data: bytes) -> tuple[int, int]:
    """The canvas of an extended file, else the frame of a lossless or a lossy one."""
    kind = data[12:16]
    if kind == b"VP8X":
        low_width, high_width, low_height, high_height = struct.unpack_from("<HBHB", data, 24)
        return (low_width | high_width << 16) + 1, (low_height | high_height << 16) + 1
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
