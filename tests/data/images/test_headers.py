"""Headers: the stated size is right, and no decoder is asked beyond the limits."""

import struct

import pytest
from helpers.images import encoded, noise, png, refusal
from PIL import Image

from regraft.data.images import decode
from regraft.data.images.headers import read_size


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}),
        ("GIF", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("WEBP", {"exif": b"Exif\0\0"}),
    ],
)
def test_the_size_is_read_without_a_decoder(kind, options):
    assert read_size(encoded(Image.fromarray(noise(321, 257)), kind, **options)) == (321, 257, kind)


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBPVP8X"]
)
def test_a_header_cut_short_states_nothing(data):
    assert read_size(data) is None


def extended_webp(width, height):
    body = (
        struct.pack("<4sII", b"VP8X", 10, 0)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def jpeg_of(width, height):
    data = encoded(Image.fromarray(noise()), "JPEG")
    return data.replace(struct.pack(">HH", 40, 48), struct.pack(">HH", height, width), 1)


@pytest.mark.parametrize(
    "data",
    [extended_webp(5000, 4001), png(8001, 8000, 8, 2, [b""]), jpeg_of(48010, 16173)],
    ids=["WebP beyond its own ceiling", "PNG", "JPEG"],
)
def test_too_many_pixels_are_refused_before_a_decoder_is_asked(data, monkeypatch):
    monkeypatch.setattr(decode.Image, "open", lambda *_, **__: pytest.fail("a decoder was asked"))
    assert refusal(data).code == "too_many_pixels"


@pytest.mark.parametrize(
    "data",
    [png(0, 9, 8, 2, [b""]), png(9, 0, 8, 2, [b""]), jpeg_of(0, 40), jpeg_of(48, 0), b"GIF89a" + bytes(20)],
    ids=["PNG", "PNG without height", "JPEG", "JPEG without height", "GIF"],
)
def test_no_pixels_are_bad_dimensions(data):
    assert refusal(data).code == "bad_dimensions"
