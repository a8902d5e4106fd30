"""16-bit files of fewer bits: the pixels with a depth, the range that was found, and what is said of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers.deep_images import draw, make_png, make_tiff, scale
from helpers.reporters import Recorder
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.duplicates import NearDuplicates
from regraft.data.images.decode import decode
from regraft.data.images.decoder_name import DECODER, name_decoder
from regraft.data.images.rejections import Rejection
from regraft.errors import UsageError
from regraft.evaluation.label_errors import LabelCheck
from regraft.evaluation.problems import find_data_cautions, find_problems
from regraft.features.image_facts import decode_missing, facts_key
from regraft.features.store import Store, pixel_key
from regraft.recipe import Recipe

# --- pixels


@pytest.mark.parametrize("depth", [8, 10, 12, 14])
def test_grey_is_scaled_by_the_depth(depth: int) -> None:
    grey = draw(9, 7, white=2**depth - 1)
    pixels = decode(make_png(grey), None, depth=depth).pixels
    assert (pixels == scale(grey, depth)[..., None]).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_colour_of_a_tiff_is_scaled_with_its_low_bytes(order: str, compression: int) -> None:
    colour = draw(9, 7, 3)
    data = make_tiff(colour, order, compression)
    assert (decode(data, None, depth=12).pixels == scale(colour, 12)).all()
    assert (decode(data, None).pixels == colour >> 8).all()


def test_colour_of_a_png_is_scaled_with_its_low_bytes() -> None:
    colour = draw(300, 7, 3)  # more rows than are converted at a time
    assert (decode(make_png(colour), None, depth=12).pixels == scale(colour, 12)).all()


@pytest.mark.parametrize("channels", [2, 4])
def test_opacity_is_not_scaled_by_the_depth(channels: int) -> None:
    samples = draw(9, 7, channels)
    samples[..., -1] = 65535
    pixels = decode(make_png(samples), None, depth=12).pixels
    assert (pixels == scale(samples[..., :-1], 12)).all()
    samples[..., -1] = 0
    assert (decode(make_png(samples), None, depth=12).pixels == 255).all()


def test_files_of_8_bits_and_of_all_16_are_what_they_were() -> None:
    full = draw(9, 7, white=65535)
    assert (decode(make_png(full), None, depth=16).pixels == (full >> 8)[..., None]).all()
    for image in (Image.new("RGB", (9, 7), (9, 20, 30)), Image.new("L", (9, 7), 40)):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = buffer.getvalue()
        assert (decode(data, None, depth=10).pixels == decode(data, None).pixels).all()


def test_channels_in_a_rare_order_are_refused_and_not_guessed() -> None:
    with pytest.raises(
        Rejection, match="unsupported_bit_depth: RGBa;16L samples cannot be scaled by --depth"
    ):
        decode(make_tiff(draw(9, 7, 4), extra_samples=1), None, depth=12)  # colours times their opacity


# --- the range


@pytest.mark.parametrize(
    ("data", "highest"),
    [
        (make_png(draw(9, 7, white=3000)), 3000),
        (make_png(draw(9, 7, 3, white=1000)), 1023),
        (make_tiff(draw(9, 7, 3, white=4095), ">"), 4095),
        (make_png(draw(9, 7, 4, white=60000)), 60159),
    ],
)
def test_the_highest_sample_is_found(data: bytes, highest: int) -> None:
    facts = decode(data, 16).facts
    assert facts.highest == highest
    assert ("unused_bits" in facts.notes) == (highest < 2**14)


def test_a_note_tells_of_samples_beyond_the_depth() -> None:
    data = make_png(draw(9, 7))
    assert "clipped" in decode(data, 16, depth=10).facts.notes
    assert not {"clipped", "unused_bits"} & set(decode(data, 16, depth=12).facts.notes)


def test_the_store_keeps_pixels_of_each_depth_apart_and_knows_the_old_ones() -> None:
    assert name_decoder(16) == DECODER
    assert pixel_key(224) == f"pixels\n{DECODER}\nsize 224"
    assert len({key(224, depth) for key in (pixel_key, facts_key) for depth in (10, 12, 16)}) == 6


@pytest.mark.parametrize("depth", [7, 17, 0])
def test_a_depth_that_no_16_bit_file_has_is_a_usage_error(depth: int) -> None:
    with pytest.raises(UsageError, match=f"depth: expected bits, from 8 to 16. Received: {depth}"):
        Recipe(depth=depth)


def write_folder(folder: Path, whites: list[int]) -> Path:
    for number, white in enumerate(whites):
        file = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(make_png(draw(40, 40, white=white, seed=number)))
    return folder


def list_cautions(folder: Path, store: Path, depth: int = 16) -> list[str]:
    catalog = Catalog.open(folder, Recipe(depth=depth))
    facts, refused = decode_missing(catalog, store=Store(store), size=16, reporter=Recorder())
    assert not refused
    ordered = [facts[sample.digest] for sample in catalog.samples]
    cautions = find_data_cautions(catalog, ordered, groups=np.arange(len(ordered)))
    texts = [text for text in cautions if "16-bit" in text]
    problems = find_problems(catalog, facts, NearDuplicates(()), LabelCheck())
    assert [problem.summary for problem in problems if problem.summary in texts] == texts
    return texts


def test_images_that_use_few_bits_are_a_warning_with_the_range_and_the_option(tmp_path: Path) -> None:
    (warning,) = list_cautions(write_folder(tmp_path / "a", [4000, 900, 3000, 500]), tmp_path / "store")
    assert "4 images hold 16-bit samples" in warning
    assert "the highest sample is 4,000" in warning
    assert "pass --depth 12." in warning
    (warning,) = list_cautions(write_folder(tmp_path / "b", [255, 200]), tmp_path / "store")
    assert "pass --depth 8." in warning
    assert list_cautions(tmp_path / "a", tmp_path / "store", depth=12) == []


def test_dark_images_among_bright_ones_are_no_warning(tmp_path: Path) -> None:
    assert list_cautions(write_folder(tmp_path / "a", [65535, 900]), tmp_path / "store") == []


def test_a_depth_that_clips_is_a_warning_with_the_depth_that_does_not(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "a", [4000, 900])
    (warning,) = list_cautions(folder, tmp_path / "store", depth=10)
    assert "1 image holds 16-bit samples up to 4,000, and all above 1,023 became white" in warning
    assert "Pass --depth 12." in warning
