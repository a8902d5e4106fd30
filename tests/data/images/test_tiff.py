"""TIFFs that would take minutes are recognised by their directory."""

from __future__ import annotations

import struct

import pytest
from helpers.images import encoded, refusal, scene
from PIL import Image

from regraft.data.images.decode import decode
from regraft.data.images.headers import check_tiff

SHORT, FRACTION, UNDEFINED, TEXT = 3, 5, 7, 2
HELD = {SHORT: 2, FRACTION: 8, UNDEFINED: 1, TEXT: 1}
XMP, ICC = 700, 34675


def with_tag(tag: int, kind: int, count: int, *, order: str = "<", big: bool = False) -> bytes:
    """A grey image of 8 by 8 pixels with one more tag, which has `count` values."""
    word, entry, place = ("Q", "HHQQ", 16) if big else ("I", "HHII", 8)
    size = struct.calcsize(order + entry)
    pixels = place + (8 if big else 2) + 10 * size + struct.calcsize(order + word)
    plain = {256: 8, 257: 8, 258: 8, 259: 1, 262: 1, 273: pixels, 277: 1, 278: 8, 279: 64}
    rows = [(each, 16 if big else 4, 1, value) for each, value in plain.items()] + [
        (tag, kind, count, pixels + 64)
    ]
    packed = b"".join(
        struct.pack(order + entry[:3], *row[:3]) + struct.pack(order + word, row[3]) for row in sorted(rows)
    )
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "H", 43 if big else 42)
    head += struct.pack(order + "HHQ", 8, 0, place) if big else struct.pack(order + "I", place)
    number = struct.pack(order + ("Q" if big else "H"), 10)
    return (
        head + number + packed + struct.pack(order + word, 0) + bytes(range(64)) + bytes(count * HELD[kind])
    )


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
@pytest.mark.parametrize("kind", [SHORT, FRACTION])
def test_millions_of_numbers_are_refused_before_any_is_read(kind: int, order: str, big: bool) -> None:
    count = 1_100_000 if kind == SHORT else 110_000
    assert refusal(with_tag(XMP, kind, count, order=order, big=big)).code == "decode_timeout"
    assert decode(with_tag(XMP, kind, 1000, order=order, big=big), 8).facts.format == "TIFF"


@pytest.mark.parametrize("kind", [UNDEFINED, TEXT])
def test_a_long_text_is_not_refused_whatever_type_it_has(kind: int) -> None:
    assert decode(with_tag(XMP, kind, 2_000_000), 8).facts.format == "TIFF"


def test_numbers_that_are_not_there_do_not_count() -> None:
    data = with_tag(ICC, FRACTION, 110_000)
    assert decode(data[: len(data) // 2], 8).facts.format == "TIFF"


def test_a_short_file_is_left_to_the_decoder() -> None:
    data = encoded(Image.fromarray(scene(40, 40)), "TIFF")
    for cut in (4, 7, 8, 12, 30):
        check_tiff(data[:cut])
