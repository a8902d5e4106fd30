"""PNGs with wrong checksums, or with more metadata than any image has."""

import time
import tracemalloc
import zlib

import numpy as np
import pytest
from helpers.images import chunk, encoded, noise, pixels, refusal
from PIL import Image

from regraft.data.images.headers import MAX_PNG_CHUNKS

PICTURE = encoded(Image.fromarray(noise()))
HEADER = 33  # bytes up to the end of IHDR


def with_chunk(kind, body):
    return PICTURE[:HEADER] + chunk(kind, body) + PICTURE[HEADER:]


def broken(kind):
    """The image with the last byte of the checksum of a chunk changed."""
    at = PICTURE.index(kind)
    end = at + 8 + int.from_bytes(PICTURE[at - 4 : at], "big")
    return PICTURE[: end - 1] + bytes([PICTURE[end - 1] ^ 1]) + PICTURE[end:]


@pytest.mark.parametrize("kind", [b"IHDR", b"IDAT", b"IEND"])
def test_a_wrong_checksum_of_pixels_is_refused_by_name(kind):
    found = refusal(broken(kind))
    assert found.code == "corrupt"
    assert kind.decode() in found.detail


def test_a_wrong_checksum_within_the_pixels_is_refused():
    at = PICTURE.index(b"IDAT")
    length = int.from_bytes(PICTURE[at - 4 : at], "big")
    body = bytearray(PICTURE[at + 4 : at + 4 + length])
    body[-1] ^= 1
    assert (
        refusal(PICTURE[: at - 4] + chunk(b"IDAT", bytes(body)) + PICTURE[at + 8 + length :]).code
        == "corrupt"
    )


@pytest.mark.parametrize("kind", [b"tEXt", b"eXIf", b"iCCP", b"zzZz"])
def test_a_wrong_checksum_of_metadata_costs_nothing(kind):
    data = with_chunk(kind, b"a\0\0bcd")
    at = data.index(kind) + 4 + 6
    np.testing.assert_array_equal(pixels(data[:at] + b"\1\2\3\4" + data[at + 4 :]), noise())


@pytest.mark.parametrize("ends", [(b"\r\n", b"\n"), (b"\n", b"\r\n"), (b"\r\n", b"\r")])
def test_an_image_sent_as_text_is_refused_as_such(ends):
    found = refusal(PICTURE.replace(*ends))
    assert found.code == "corrupt"
    assert "line ends" in found.detail


BOMB = zlib.compress(bytes(100_000_000))


@pytest.mark.parametrize(
    "data",
    [
        with_chunk(b"iCCP", b"name\0\0" + BOMB),
        with_chunk(b"zTXt", b"name\0\0" + BOMB),
        with_chunk(b"iTXt", b"name\0\1\0\0\0" + BOMB),
    ],
    ids=["iCCP", "zTXt", "iTXt"],
)
def test_metadata_that_unpack_to_more_than_an_image_are_refused(data):
    tracemalloc.start()
    begun = time.monotonic()
    assert refusal(data).code == "corrupt"
    assert time.monotonic() - begun < 1
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_more_chunks_than_any_image_has_are_refused():
    empty = chunk(b"tEXt", b"") * (MAX_PNG_CHUNKS + 1)
    assert refusal(PICTURE[:HEADER] + empty + PICTURE[HEADER:]).code == "decode_timeout"


@pytest.mark.parametrize("at", [1, 12, 14, 20, 40])
def test_an_image_cut_anywhere_is_refused(at):
    assert refusal(PICTURE[:-at]).code == "truncated"
