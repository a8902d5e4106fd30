"""Pictures and files made by hand, which tests of the decoder share."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from regraft.data.images.decode import decode
from regraft.data.images.rejections import Rejection, has_heif_plugin


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width=48, height=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)


def write_noise(root, names, count):
    """Write as many images into a folder of each name, no two alike."""
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir()
        for number in range(count):
            image = rng.integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(image).save(root / name / f"{number}.png")
    return root


def scene(width=96, height=80):
    """Smooth and different in every corner: a JPEG keeps it, and no mirroring maps it to itself."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / width, 255 * y / height, 255 * (x * y) / (width * height))
    return np.stack(channels, axis=-1).astype(np.uint8)


def pixels(data, name=""):
    return decode(data, None, name=name).pixels


def refusal(data, name=""):
    with pytest.raises(Rejection) as caught:
        decode(data, 32, name=name)
    return caught.value


def verdict(data, name=""):
    """None for decoded, else the code."""
    try:
        received = decode(data, 24, name=name).pixels
    except Rejection as found:
        return found.code
    assert received.shape == (24, 24, 3)
    assert received.dtype == np.uint8
    return None


def chunk(kind, body):
    """One chunk of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, rows, *chunks):
    """A PNG written by hand: `rows` are the bytes of each line, `chunks` come before the data."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunk(*each) for each in chunks)
        + chunk(b"IDAT", body)
        + chunk(b"IEND", b"")
    )


without_heif = pytest.mark.skipif(has_heif_plugin(), reason="the plugin for HEIC and HEIF is installed")
