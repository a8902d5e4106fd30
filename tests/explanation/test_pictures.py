"""Heat painted over a photograph."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.images.rejections import Rejection
from regraft.explanation.pictures import encode_jpeg, enlarge, paint, read_picture

GREY = np.full((40, 60, 3), 120, np.uint8)


def test_hot_parts_are_warm_cold_parts_blue_and_the_rest_is_grey() -> None:
    picture = paint(GREY, np.array([[1.0, 0.0, -1.0]]), is_signed=True).astype(int)
    left, middle, right = picture[20, 3], picture[20, 30], picture[20, 56]
    assert left[0] - left[2] > 40
    assert right[2] - right[0] > 40
    assert np.ptp(middle) < 12


def test_negative_heat_is_not_painted_unless_asked_for() -> None:
    np.testing.assert_array_equal(paint(GREY, np.array([[-1.0, -2.0]])), GREY)


@pytest.mark.parametrize("heat", [0.0, np.nan])
def test_an_image_without_heat_stays_without_colours(heat: float) -> None:
    np.testing.assert_array_equal(paint(GREY, np.full((7, 7), heat)), GREY)


def test_the_scale_of_heat_does_not_matter() -> None:
    heat = np.random.default_rng(0).normal(size=(7, 7))
    np.testing.assert_array_equal(paint(GREY, heat), paint(GREY, heat * 1024))


def test_a_larger_map_keeps_its_positions() -> None:
    heat = np.zeros((7, 7))
    heat[1, 5] = 1
    large = enlarge(heat, 70, 140)
    assert np.unravel_index(large.argmax(), large.shape) in {(14, 109), (14, 110), (15, 109), (15, 110)}


def test_a_picture_is_read_upright_and_small(tmp_path: Path) -> None:
    image = Image.new("RGB", (900, 300), (10, 200, 30))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / "image.jpg", exif=exif)
    assert read_picture(tmp_path / "image.jpg", 300).shape == (300, 100, 3)
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(Rejection):
        read_picture(tmp_path / "text.jpg", 300)


def test_a_picture_becomes_a_jpeg_file() -> None:
    assert Image.open(io.BytesIO(encode_jpeg(GREY))).size == (60, 40)
