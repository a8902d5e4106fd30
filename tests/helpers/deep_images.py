"""Files of 16-bit samples, which Pillow does not write in colour, and the pixels that they should become."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.uint16]
COLOUR_TYPES = {1: 0, 3: 2, 2: 4, 4: 6}  # of a PNG, by channels


def draw(*shape: int, white: int = 4095, seed: int = 0) -> Samples:
    samples = np.random.default_rng(seed).integers(0, white + 1, shape).astype(np.uint16)
    samples.flat[0] = white
    return samples


def make_png(samples: Samples) -> bytes:
    height, width = samples.shape[:2]
    kind = COLOUR_TYPES[samples.shape[2] if samples.ndim == 3 else 1]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def make_tiff(
    samples: Samples, order: str = "<", compression: int = 1, extra_samples: int | None = None
) -> bytes:
    height, width, channels = samples.shape
    data = samples.astype(f"{order}u2").tobytes()
    data = zlib.compress(data) if compression == 8 else data
    tags = 10 if extra_samples is None else 11
    bits, start = struct.pack(f"{order}{channels}H", *[16] * channels), 8 + 2 + tags * 12 + 4
    entries = [
        (256, width), (257, height), (258, start), (259, compression), (262, 2), (273, start + len(bits)),
        (277, channels), (278, height), (279, len(data)), (284, 1),
    ]  # fmt: skip
    if extra_samples is not None:
        entries.append((338, extra_samples if order == "<" else extra_samples << 16))
    directory = b"".join(
        struct.pack(f"{order}HHII", tag, 4, channels if tag == 258 else 1, value)
        if tag != 258
        else struct.pack(f"{order}HHII", tag, 3, channels, value)
        for tag, value in entries
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HIH", 42, 8, len(entries))
    return head + directory + struct.pack(f"{order}I", 0) + bits + data


def scale(samples: Samples, depth: int) -> NDArray[Any]:
    white = 2**depth - 1
    return np.rint(np.minimum(samples, white).astype(float) * 255 / white)
