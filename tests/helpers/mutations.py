"""Broken copies of photographs, the same ones for the same seed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

KINDS = {
    "jpg": ("JPEG", {"quality": 85}),
    "progressive.jpg": ("JPEG", {"quality": 85, "progressive": True}),
    "restarts.jpg": ("JPEG", {"restart_marker_rows": 1}),
    "png": ("PNG", {"compress_level": 1}),
    "palette.png": ("PNG", {"compress_level": 1}),
    "webp": ("WEBP", {"quality": 80, "method": 0}),
    "lossless.webp": ("WEBP", {"lossless": True, "method": 0, "quality": 10}),
    "tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "jpeg.tif": ("TIFF", {"compression": "jpeg"}),
    "gif": ("GIF", {}),
    "avif": ("AVIF", {"speed": 10}),
    "bmp": ("BMP", {}),
}


def mutants(photographs: Sequence[Path], count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Name and content of broken files: two in five of the photographs as they are, the others of the same
    in another format; cut, with bits flipped anywhere or in the header, with a part of another file, with a
    hole, a part twice or missing, or numbers in the header at their largest."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        source = photographs[rng.integers(len(photographs))]
        kind = "original.jpg" if number % 5 < 2 else list(KINDS)[number % len(KINDS)]
        whole = source.read_bytes() if kind == "original.jpg" else _as(source, kind)
        how = list(HOW)[number % len(HOW)]
        broken = bytes(HOW[how](bytearray(whole), rng))
        yield f"{number:05}-{how}.{kind}", broken


def _as(source: Path, kind: str) -> bytes:
    written_as, options = KINDS[kind]
    with Image.open(source) as image:
        small = image.reduce(2)
    buffer = io.BytesIO()
    (small.quantize(64) if kind == "palette.png" else small).save(buffer, written_as, **options)
    return buffer.getvalue()


def _part(data, rng):
    start = int(rng.integers(len(data)))
    return start, int(min(len(data), start + rng.integers(1, 1 + len(data) // 4)))


def _cut(data, rng):
    return data[: rng.integers(1, len(data))]


def _flip(data, rng, within=None):
    for place in rng.integers(0, within or len(data), rng.integers(1, 30)):
        data[place] ^= 1 << int(rng.integers(8))
    return data


def _flip_header(data, rng):
    return _flip(data, rng, min(len(data), 600))


def _splice(data, rng):
    (start, end), at = _part(data, rng), int(rng.integers(len(data)))
    return data[:at] + data[start:end] + data[at:]


def _hole(data, rng):
    start, end = _part(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def _drop(data, rng):
    start, end = _part(data, rng)
    return data[:start] + data[end:]


def _largest(data, rng):
    at = int(rng.integers(4, min(len(data), 400)))
    return data[:at] + b"\xff" * int(rng.choice([1, 2, 4])) + data[at + 4 :]


def _tail(data, rng):
    return _cut(data, rng) + rng.bytes(2000)


HOW = {
    "cut": _cut,
    "flip": _flip,
    "header": _flip_header,
    "splice": _splice,
    "hole": _hole,
    "drop": _drop,
    "largest": _largest,
    "tail": _tail,
}
