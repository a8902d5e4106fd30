"""JPEGs with missing scan lines, whatever their ending, and JPEGs that would take minutes."""

import re
import time

import numpy as np
import pytest
from helpers.images import encoded, noise, refusal, scene
from PIL import Image

from regraft.data.images.decode import decode
from regraft.data.images.jpeg import read_frame

END = b"\xff\xd9"


def jpeg(**options):
    return encoded(Image.fromarray(noise(200, 160)), "JPEG", **options)


@pytest.mark.parametrize("size", [None, 20])
@pytest.mark.parametrize("percent", [10, 30, 50, 90, 99])
def test_an_end_marker_behind_half_an_image_does_not_hide_what_is_missing(percent, size):
    for data in (
        jpeg(),
        jpeg(restart_marker_rows=1),
        encoded(Image.fromarray(scene()).convert("CMYK"), "JPEG"),
    ):
        assert refusal(data[: len(data) * percent // 100] + END).code == "truncated"


def test_an_end_marker_on_either_side_of_a_restart_does_not_either():
    data = jpeg(restart_marker_rows=1)
    restarts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", data)]
    assert len(restarts) > 5
    for at in restarts:
        assert refusal(data[:at] + END).code == refusal(data[: at + 2] + END).code == "truncated"


@pytest.mark.parametrize("percent", [30, 50, 90, 99])
def test_zeros_in_the_place_of_scan_lines_are_missing_lines(percent):
    data = jpeg()
    kept = len(data) * percent // 100
    assert refusal(data[:kept] + bytes(len(data) - kept)).code == "truncated"


def test_zeros_behind_a_whole_image_are_not():
    assert decode(jpeg() + bytes(1000), 32).facts.notes == ()
    cut = decode(jpeg()[:-2] + bytes(1000), None)
    assert cut.facts.notes == ("jpeg_missing_eoi",)
    np.testing.assert_array_equal(cut.pixels, decode(jpeg(), None).pixels)


@pytest.mark.parametrize("grey", [127, 128])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_image_that_is_grey_in_its_corner_is_whole(grey, mode):
    picture = noise(96, 96)
    picture[48:, 48:] = grey
    for options in ({}, {"progressive": True}, {"restart_marker_rows": 1}):
        assert (
            decode(encoded(Image.fromarray(picture).convert(mode), "JPEG", **options), None).facts.notes == ()
        )


def test_a_progressive_image_that_ends_before_its_last_scan_is_noted():
    data = jpeg(progressive=True)
    scans = [found.start() for found in re.finditer(b"\xff\xda", data)]
    assert decode(data, 32).facts.notes == ()
    table = data.rfind(b"\xff\xc4", 0, scans[-1])
    assert decode(data[:table] + END, 32).facts.notes == ("jpeg_missing_scans",)


@pytest.mark.parametrize("quality", [60, 90])
@pytest.mark.parametrize("share", [0, 0.3, 0.9, 1])
def test_a_progressive_image_that_ends_within_its_last_scan_is_noted_or_refused(share, quality):
    data = encoded(Image.fromarray(scene(300, 200)), "JPEG", progressive=True, quality=quality)
    begin = data.rindex(b"\xff\xda") + 12
    cut = data[: min(begin + round(share * (len(data) - begin)), len(data) - 4)]
    assert decode(data, None).facts.notes == decode(data, 64).facts.notes == ()
    assert decode(cut + END, None).facts.notes == ("jpeg_missing_scans",)
    assert refusal(cut).code == "truncated"


@pytest.mark.slow
def test_thousands_of_scans_are_refused_before_any_is_read():
    data = encoded(Image.fromarray(scene(2000, 2000)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    assert decode(data[:-2] + last * 3 + END, 32)
    begun = time.monotonic()
    assert refusal(data[:-2] + last * 2000 + END).code == "decode_timeout"
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("piece", [b"\xff\xfe\0\3x", b"\xff\xe1\0\3x", b"\xff"])
def test_a_header_of_endless_pieces_is_refused_before_any_is_read(piece):
    data = jpeg()
    assert refusal(data[:2] + piece * 70_000 + data[2:]).code == "decode_timeout"


def test_exif_of_millions_of_numbers_is_refused_before_any_is_read():
    data = jpeg()
    segment = b"\xff\xe1" + (60_008).to_bytes(2, "big") + b"Exif\0\0" + bytes(60_000)
    assert refusal(data[:2] + segment * 40 + data[2:]).code == "decode_timeout"
    assert decode(data[:2] + segment * 10 + data[2:], 32)


def test_a_video_behind_the_image_is_not_taken_for_scans():
    data = encoded(Image.fromarray(scene(2000, 2000)), "JPEG")
    assert decode(data + b"\xff\xda\0\x08" * 2000, 32)


@pytest.mark.parametrize("kind", [b"\xff\xc0", b"\xff\xc1"])
def test_twelve_bits_are_refused_as_such(kind):
    data = jpeg().replace(b"\xff\xc0\0\x11\x08", kind + b"\0\x11\x0c")
    assert read_frame(data) == (200, 160, 12)
    assert refusal(data).code == "unsupported_bit_depth"


@pytest.mark.parametrize("ahead", [b"\xff" * 50, b"\xff\xfe\0\x06abcd", b"\xff\xe1\0\x02"])
def test_padding_comments_and_empty_segments_ahead_are_skipped(ahead):
    data = jpeg()
    received = decode(data[:2] + ahead + data[2:], None)
    np.testing.assert_array_equal(received.pixels, decode(data, None).pixels)


def test_metadata_of_any_kind_or_size_costs_nothing():
    data = jpeg()
    huge = b"\xff\xe1\xff\xffExif\0\0" + bytes(65533 - 6)
    xmp = b"\xff\xe1\0\x28http://ns.adobe.com/xap/1.0/\0<<<<<<<<<"
    for segments in (huge, huge * 20, xmp, b"\xff\xe2\0\x14ICC_PROFILE\0\x01\x09abcd"):
        received = decode(data[:2] + segments + data[2:], None)
        np.testing.assert_array_equal(received.pixels, decode(data, None).pixels)
