"""Check what the header of a file states, before a decoder is asked: size, checksums, amount of work.

Decoders ask for as much memory as the header says. So each format has a limit on pixels: what one decoder
process can hold (`decoder_process.MEMORY`), by the bytes that the decoder of this format takes for a pixel.
The environment variable REGRAFT_MAX_MEGAPIXELS moves all limits, and that memory with them. It is a variable
because what fits depends on the machine and not on the run, and because decoder processes inherit it.
"""

from __future__ import annotations

import math
import os
import struct
import zlib

from regraft.data.images.jpeg import read_frame
from regraft.data.images.rejections import Rejection
from regraft.errors import UsageError

__all__ = [
    "MAX_PIXELS",
    "check_gif",
    "check_size",
    "check_tiff",
    "drop_bad_chunks",
    "read_limit_factor",
    "read_size",
]

MAX_PIXELS = 64_000_000
LOWER_MAX_PIXELS = {"WEBP": 20_000_000, "AVIF": 40_000_000, "HEIF": 50_000_000}  # 8 to 20 bytes for a pixel
LIMIT_VARIABLE = "REGRAFT_MAX_MEGAPIXELS"

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_PNG_CHUNKS = 100_000  # an image at every limit has a tenth of that
_CRITICAL_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"IEND")

MAX_GIF_BLOCKS = 100_000  # and one more for every `BYTES_PER_BLOCK`; encoders fill blocks to 255 bytes
BYTES_PER_BLOCK = 128
_EXTENSION, _FRAME, _TRAILER = 0x21, 0x2C, 0x3B

# The largest image in the smallest tiles, 16 x 16 pixels, has 250,000, each with an offset and a length.
MAX_TIFF_NUMBERS = 1_000_000
# Bytes of each type of number; Pillow keeps the other types as text.
_NUMBER_BYTES = {3: 2, 4: 4, 5: 8, 6: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_FRACTION_TYPES = (5, 10)


def read_limit_factor() -> float:
    """Return how many times the default number of pixels an image may have on this machine.

    Raises:
        UsageError: the variable does not hold a number above zero.
    """
    setting = os.environ.get(LIMIT_VARIABLE) or str(MAX_PIXELS // 10**6)
    try:
        factor = float(setting) * 1e6 / MAX_PIXELS
    except ValueError:
        factor = math.nan
    if not 0 < factor < math.inf:
        raise UsageError(f"{LIMIT_VARIABLE}: expected millions of pixels, such as 200. Received: {setting}.")
    return factor


def check_size(width: int, height: int, kind: str) -> None:
    """Reject an image with no pixels, or with more than its format may have.

    Raises:
        Rejection: `bad_dimensions`, `too_many_pixels`.
    """
    most = int(LOWER_MAX_PIXELS.get(kind, MAX_PIXELS) * read_limit_factor())
    if width < 1 or height < 1:
        raise Rejection("bad_dimensions", f"{width} x {height}")
    if width * height > most:
        detail = f"{width} x {height}, at most {most:,} in {kind}; see {LIMIT_VARIABLE}"
        raise Rejection("too_many_pixels", detail)


def read_size(data: bytes) -> tuple[int, int, str] | None:
    """Return width, height and format by the header of a PNG, GIF, WebP or JPEG; None for all other files.

    >>> read_size(b"GIF89a" + bytes([3, 0, 0, 1]))
    (3, 256, 'GIF')
    """
    try:
        if data.startswith(PNG_SIGNATURE):
            return *struct.unpack_from(">II", data, 16), "PNG"
        if data.startswith(b"GIF8"):
            return *struct.unpack_from("<HH", data, 6), "GIF"
        if data[8:12] == b"WEBP":
            return *_read_webp_size(data), "WEBP"
    except struct.error:
        return None
    frame = read_frame(data) if data.startswith(b"\xff\xd8") else None
    return (frame.width, frame.height, "JPEG") if frame else None


def _read_webp_size(data: bytes) -> tuple[int, int]:
    """Return the size of an extended file's canvas, else that of the lossless or lossy frame."""
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
    """Return a PNG without the chunks of metadata whose checksum is wrong.

    Pillow checks the checksums of metadata, not those of pixels.

    Raises:
        Rejection: `truncated` without the chunk that ends a PNG; `corrupt` where the checksum of a chunk that
            makes pixels is wrong; `decode_timeout` for more chunks than any image needs.
    """
    view, position = memoryview(data), len(PNG_SIGNATURE)
    good_stretches, stretch_start = [], 0
    for _ in range(MAX_PNG_CHUNKS):
        kind = data[position + 4 : position + 8]
        end = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if end > len(data):
            raise Rejection("truncated", "the file ends before its last chunk")
        if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            if kind in _CRITICAL_CHUNKS:
                raise Rejection("corrupt", f"the checksum of {kind.decode()} is wrong")
            good_stretches.append(view[stretch_start:position])
            stretch_start = end
        position = end
        if kind == b"IEND":
            break
    else:
        raise Rejection("decode_timeout", f"a PNG of more than {MAX_PNG_CHUNKS:,} chunks")
    return b"".join([*good_stretches, view[stretch_start:]]) if good_stretches else data


def check_gif(data: bytes) -> None:
    """Reject a GIF with more blocks, up to its second frame, than any encoder writes.

    Pillow reads blocks one by one, so a file of one-byte blocks would keep it busy for long.

    Raises:
        Rejection: `decode_timeout`.
    """
    position, blocks, frames = _skip_palette(data, 10, 13), 0, 0
    most = MAX_GIF_BLOCKS + len(data) // BYTES_PER_BLOCK
    while position < len(data) and frames < 2:
        kind = data[position]
        if kind == _TRAILER:
            return
        if kind == _EXTENSION:
            position += 2
        elif kind == _FRAME:
            position = _skip_palette(data, position + 9, position + 10) + 1
            frames += 1
        else:  # an unknown byte, which Pillow skips
            position += 1
        if kind in (_EXTENSION, _FRAME):
            while position < len(data) and data[position] and blocks <= most:
                position += data[position] + 1
                blocks += 1
            position += 1
        blocks += 1
        if blocks > most:
            raise Rejection("decode_timeout", f"a GIF of more than {most:,} blocks")


def _skip_palette(data: bytes, flags_position: int, start: int) -> int:
    """Return where the palette at `start` ends; `start` itself where the flags say that there is none."""
    flags = data[flags_position] if flags_position < len(data) else 0
    return start + (3 << (flags & 7) + 1 if flags & 0x80 else 0)


def check_tiff(data: bytes) -> None:
    """Reject a TIFF whose first directory holds more numbers than any image needs.

    Pillow makes an object of each number, and several of a fraction, so a file full of numbers would keep it
    busy for minutes. Offsets of tiles are such numbers too.

    Raises:
        Rejection: `decode_timeout`.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = 43 in data[2:4]
    offset_format, count_format, entry_format = ("Q", "Q", "HHQQ") if is_big else ("I", "H", "HHII")
    try:
        (position,) = struct.unpack_from(order + offset_format, data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + count_format, data, position)
        position += struct.calcsize(order + count_format)
        step, numbers = struct.calcsize(order + entry_format), 0
        for start in range(position, min(position + entries * step, len(data)), step):
            _, kind, count, offset = struct.unpack_from(order + entry_format, data, start)
            if kind in _NUMBER_BYTES and offset + count * _NUMBER_BYTES[kind] <= len(data):
                numbers += count * (10 if kind in _FRACTION_TYPES else 1)
    except (struct.error, OverflowError):  # a broken file: the decoder says how
        return
    if numbers > MAX_TIFF_NUMBERS:
        detail = f"a TIFF whose directory holds {numbers:,} numbers, at most {MAX_TIFF_NUMBERS:,}"
        raise Rejection("decode_timeout", detail)
