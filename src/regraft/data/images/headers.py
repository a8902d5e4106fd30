"""What a file states of itself before a decoder is asked: its size, its checksums, work that takes minutes.

Decoders ask for memory by what the header says. A ceiling is what one decoding process can hold
(`data.child.MEMORY`) of a format, by the bytes that its decoder takes for a pixel.
REGRAFT_MAX_MEGAPIXELS moves the ceilings of all formats, and that memory with them: an environment variable,
because what fits is a matter of the machine and not of a run, and because decoding processes inherit it.
"""

from __future__ import annotations

import math
import os
import struct
import zlib

from regraft.data.images.jpeg import frame
from regraft.data.images.rejections import Refusal
from regraft.errors import UsageError

__all__ = [
    "LOWER",
    "MAX_PIXELS",
    "MAX_TILES",
    "SIGNATURE",
    "allowance",
    "check_gif",
    "check_size",
    "check_tiff",
    "drop_bad_chunks",
    "stated_size",
]

MAX_PIXELS = 64_000_000
LOWER = {"WEBP": 20_000_000, "AVIF": 40_000_000, "HEIF": 50_000_000}  # 8 to 20 bytes for a pixel
SETTING = "REGRAFT_MAX_MEGAPIXELS"

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNKS = 100_000  # a picture at every limit has a tenth of that
_NEEDED = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")

MAX_PIECES = 100_000  # and one more for so many bytes; encoders fill pieces to 255
BYTES_A_PIECE = 128
_EXTENSION, _PICTURE, _END = 0x21, 0x2C, 0x3B

MAX_TILES = 250_000  # of 16 x 16 pixels, the smallest there are, in a picture of the largest size
MAX_NUMBERS = 4 * MAX_TILES  # each tile has its place and its length
_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_TEXTS = (1, 2, 7)  # types that stay bytes
_FRACTIONS = (5, 10)


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


def drop_bad_chunks(data: bytes) -> bytes:
    """Return a PNG without those chunks of metadata whose checksum is wrong.

    Pillow checks those of metadata, not of pixels.

    Raises:
        Refusal: `truncated` without the chunk that ends a PNG; `corrupt` where the checksum of a chunk that
            makes pixels is wrong; `decode_timeout` for more chunks than anyone could need.
    """
    view, at = memoryview(data), len(SIGNATURE)
    sound, since = [], 0  # the stretches between bad chunks
    for _ in range(MAX_CHUNKS):
        kind = data[at + 4 : at + 8]
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if end > len(data):
            raise Refusal("truncated", "the file ends before its last chunk")
        if zlib.crc32(view[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            if kind in _NEEDED:
                raise Refusal("corrupt", f"the checksum of {kind.decode()} is wrong")
            sound.append(view[since:at])
            since = end
        at = end
        if kind == b"IEND":
            break
    else:
        raise Refusal("decode_timeout", f"a PNG of more than {MAX_CHUNKS:,} chunks")
    return b"".join([*sound, view[since:]]) if sound else data


def check_gif(data: bytes) -> None:
    """Refuse a GIF of more pieces, up to its second picture, than any encoder makes.

    Pillow takes them one by one, so a file of one-byte pieces keeps it for minutes.

    Raises:
        Refusal: `decode_timeout`.
    """
    at, pieces, pictures, most = _behind_palette(data, 10, 13), 0, 0, MAX_PIECES + len(data) // BYTES_A_PIECE
    while at < len(data) and pictures < 2:
        kind = data[at]
        if kind == _END:
            return
        if kind == _EXTENSION:
            at += 2
        elif kind == _PICTURE:
            at = _behind_palette(data, at + 9, at + 10) + 1
            pictures += 1
        else:  # nothing that is known: Pillow goes on by a byte
            at += 1
        if kind in (_EXTENSION, _PICTURE):
            while at < len(data) and data[at] and pieces <= most:
                at += data[at] + 1
                pieces += 1
            at += 1
        pieces += 1
        if pieces > most:
            raise Refusal("decode_timeout", f"a GIF in more than {most:,} pieces")


def _behind_palette(data: bytes, flags: int, start: int) -> int:
    """Where a palette ends that begins at `start`, if the byte at `flags` says that there is one."""
    here = data[flags] if flags < len(data) else 0
    return start + (3 << (here & 7) + 1 if here & 0x80 else 0)


def check_tiff(data: bytes) -> None:
    """Refuse a TIFF whose first directory holds more numbers than any picture needs.

    Pillow makes an object of each, of a fraction several, so a file of nothing else keeps it for minutes.

    Raises:
        Refusal: `decode_timeout`.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = 43 in data[2:4]
    first, count, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    try:
        (at,) = struct.unpack_from(order + first, data, 8 if big else 4)
        (entries,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(order + count)
        step, numbers = struct.calcsize(order + entry), 0
        for place in range(at, min(at + entries * step, len(data)), step):
            _, kind, held, where = struct.unpack_from(order + entry, data, place)
            if kind in _BYTES and kind not in _TEXTS and where + held * _BYTES[kind] <= len(data):
                numbers += held * (10 if kind in _FRACTIONS else 1)
    except (struct.error, OverflowError):  # broken, which the decoder says
        return
    if numbers > MAX_NUMBERS:
        raise Refusal(
            "decode_timeout", f"a TIFF whose directory holds {numbers:,} numbers, at most {MAX_NUMBERS:,}"
        )
