"""GIFs that would take long are recognised by their blocks."""

from __future__ import annotations

import struct

import pytest
from helpers.images import encoded, refusal, scene
from PIL import Image

from regraft.data.images import headers
from regraft.data.images.decode import decode

MANY = 400_000
GIF = encoded(Image.fromarray(scene(64, 64)).quantize(16), "GIF")
PICTURE = 13 + 3 * 16  # behind the header and its palette
SMALL = b"\x2c" + struct.pack("<HHHH", 0, 0, 64, 64) + b"\0\2"
COMMENT, CONTROL = b"\x21\xfe\1x\0", b"\x21\xf9\4\0\0\0\0\0"

HOSTILE = {
    "comments": COMMENT * MANY,
    "controls": CONTROL * MANY,
    "blocks of a comment": b"\x21\xfe" + b"\1x" * MANY + b"\0",
    "garbage": b"\1" * MANY,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_endless_blocks_before_an_image_or_behind_it_are_refused(name: str) -> None:
    assert GIF[PICTURE : PICTURE + 1] in (b"\x21", b"\x2c")
    before = GIF[:PICTURE] + HOSTILE[name] + GIF[PICTURE:]
    behind = GIF[:-1] + HOSTILE[name] + b";"
    assert refusal(before).code == refusal(behind).code == "decode_timeout"


def test_an_image_in_one_byte_blocks_is_refused() -> None:
    data = GIF[:PICTURE] + SMALL + b"\1\4" * MANY + b"\0;"
    assert refusal(data).code == "decode_timeout"


def test_a_large_image_in_full_blocks_and_what_is_behind_the_second_one_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(headers, "MAX_GIF_BLOCKS", 10)
    frames = [Image.fromarray(scene(300, 300)).rotate(turn) for turn in (0, 90, 180)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert len(data) > 256 * 128
    assert decode(data, 32).facts.notes == ("animated_first_frame",)
    assert decode(GIF[:-1] + GIF[PICTURE:-1] + b"\1" * MANY + b";", 32)


@pytest.mark.parametrize("cut", [6, 10, 12, 20, PICTURE, PICTURE + 5])
def test_a_short_file_is_left_to_the_decoder(cut: int) -> None:
    headers.check_gif(GIF[:cut])
    assert refusal(GIF[:cut]).code in ("truncated", "corrupt")
