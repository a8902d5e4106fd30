"""Images from memory as files: lossless, named by content, and only with valid pixels."""

import io
import struct

import numpy as np
import pytest
from conftest import largest_file
from helpers.reporters import Recorder
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.image_writer import ENOUGH_IMAGES, ImageWriter
from regraft.data.images.decode import decode
from regraft.data.images.decode import digest as digest_of
from regraft.data.images.rejections import Rejection
from regraft.errors import DataError, EnvironmentFault


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(writer, file):
    data = (writer.root / file.path).read_bytes()
    assert digest_of(data) == file.digest
    return decode(data, None).pixels


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7, 5, 3), (7, 5, 1), (7, 5)])
def test_the_decoder_reads_the_very_pixels(tmp_path, kind, shape):
    writer = ImageWriter(tmp_path)
    picture = noise(*shape)
    found = pixels(writer, writer.write(picture.astype(kind)))
    assert (found == picture.reshape(7, 5, -1)).all()
    assert not writer.has_rounded


def test_channels_may_come_first(tmp_path):
    writer = ImageWriter(tmp_path)
    picture = noise(7, 5, 3)
    assert writer.write(np.moveaxis(picture, 2, 0)) == writer.write(picture)
    assert writer.write(picture[None, :, :, 0]) == writer.write(picture[:, :, 0])


def test_an_image_has_one_file_and_one_digest_everywhere(tmp_path):
    writer = ImageWriter(tmp_path)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    file = writer.write(picture)
    assert file == writer.write(picture.astype(float))
    header = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 78, 0, 0, 54, 40, 4, 2, 1, 24, 0, 24, 3780, 3780, 0, 0)
    bitmap = header + picture[::-1, :, ::-1].tobytes()  # rows from the bottom, blue first
    assert file.digest == digest_of(bitmap)  # splits depend on it: the same for any version of Pillow
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == [file.path]


def test_a_file_that_was_damaged_is_written_again(tmp_path):
    writer = ImageWriter(tmp_path)
    file = writer.write(noise(4, 4, 3))
    whole = (tmp_path / file.path).read_bytes()
    for damaged in (whole[:20], whole[:-1] + b"\0"):
        (tmp_path / file.path).write_bytes(damaged)
        assert writer.write(noise(4, 4, 3)) == file
        assert (tmp_path / file.path).read_bytes() == whole


def test_files_in_memory_are_kept_as_they_are(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(noise(9, 9, 3)).save(buffer, "JPEG")
    writer = ImageWriter(tmp_path)
    assert (tmp_path / writer.write(buffer.getvalue()).path).read_bytes() == buffer.getvalue()
    with pytest.raises(Rejection, match="looks like HTML"):
        writer.write(b"<html>404")


def test_pillow_images_are_decoded_as_files_are(tmp_path):
    rgba = np.concatenate([noise(6, 6, 3), noise(6, 6, 1, seed=1)], axis=2)
    writer = ImageWriter(tmp_path)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    file = writer.write(Image.open(buffer))
    assert (pixels(writer, file) == decode(buffer.getvalue(), None).pixels).all()
    with pytest.raises(Rejection) as caught:
        writer.write(Image.open(io.BytesIO(buffer.getvalue()[:90])))
    assert caught.value.code == "corrupt"


def test_a_scale_brings_pixels_into_range(tmp_path):
    writer = ImageWriter(tmp_path, scale=255)
    picture = noise(6, 6, 3)
    assert (pixels(writer, writer.write(picture.astype(np.float32) / 255)) == picture).all()
    assert not writer.has_rounded
    writer.write(np.full((4, 4, 3), 0.5))
    assert writer.has_rounded
    deep = ImageWriter(tmp_path, scale=1 / 257)
    assert (pixels(deep, deep.write(picture.astype(np.uint16) * 257)) == picture).all()


def test_pixels_between_0_and_1_are_an_error_that_says_what_to_pass(tmp_path):
    writer = ImageWriter(tmp_path)
    for number in range(ENOUGH_IMAGES - 1):
        writer.write(noise(4, 4, 3, seed=number) / 255)
    with pytest.raises(DataError, match="pass scale=255"):
        writer.write(noise(4, 4, 3) / 255)
    few = ImageWriter(tmp_path)
    few.write(noise(4, 4, 3) / 255)
    with pytest.raises(DataError, match="pass scale=255"):
        few.check_scale()


def test_dark_images_among_others_are_none(tmp_path):
    writer = ImageWriter(tmp_path)
    writer.write(np.zeros((4, 4, 3)))
    writer.write(np.ones((4, 4, 3), np.uint8))
    writer.write(noise(4, 4, 3))
    writer.check_scale()
    black = ImageWriter(tmp_path)
    black.write(np.zeros((4, 4, 3)))
    black.check_scale()


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        ((noise(4, 4, 3) / 127.5) - 1, "normalises them"),
        (noise(4, 4, 3).astype(float) * 257, "scale=1/257"),
        (np.full((4, 4, 3), 3000, np.uint16), r"3000 .*scale=255/4095 if white is 4095"),
        (noise(4, 4, 3).astype(float) * 1000, "Pass scale to"),
    ],
)
def test_pixels_out_of_range_are_an_error_of_the_source(tmp_path, picture, why):
    with pytest.raises(DataError, match=why):
        ImageWriter(tmp_path).write(picture)


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (noise(6, 7, 5), r"\(height, width, 3\).* received \(6, 7, 5\)"),
        (noise(4), r"received \(4,\)"),
        (noise(2, 4, 4, 3), r"received \(2, 4, 4, 3\)"),
        (np.array([["a", "b"]]), "array of numbers, received <U1"),
        (None, "received None"),
        ("photo.jpg", "array of numbers"),
    ],
)
def test_what_is_no_image_is_refused_by_itself(tmp_path, picture, why):
    with pytest.raises(Rejection, match=f"not_an_image: .*{why}"):
        ImageWriter(tmp_path).write(picture)


@pytest.mark.parametrize(("value", "code"), [(np.nan, "not_finite"), (np.inf, "not_finite")])
def test_an_image_with_a_value_that_is_no_number_is_refused(tmp_path, value, code):
    picture = noise(4, 4, 3).astype(float)
    picture[1, 2, 0] = value
    with pytest.raises(Rejection) as caught:
        ImageWriter(tmp_path).write(picture)
    assert caught.value.code == code
    with pytest.raises(Rejection, match="bad_dimensions"):
        ImageWriter(tmp_path).write(np.zeros((0, 4, 3)))


def test_a_disk_that_takes_no_more_is_a_fault_of_the_environment_and_leaves_nothing(tmp_path):
    with largest_file(1000), pytest.raises(EnvironmentFault, match="File too large"):
        ImageWriter(tmp_path).write(noise(40, 40, 3))
    assert not list(tmp_path.rglob("*.*"))


# --- opacity


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float32])
@pytest.mark.parametrize("first", [False, True])
def test_arrays_with_opacity_are_laid_on_white_as_files_are(tmp_path, kind, first):
    rgba = noise(6, 7, 4)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    writer = ImageWriter(tmp_path)
    array = np.moveaxis(rgba, 2, 0) if first else rgba
    assert (pixels(writer, writer.write(array.astype(kind))) == decode(buffer.getvalue(), None).pixels).all()


def test_opacity_is_scaled_with_the_pixels(tmp_path):
    rgba = noise(6, 7, 4)
    exact, scaled = ImageWriter(tmp_path), ImageWriter(tmp_path, scale=255)
    assert scaled.write(rgba / 255) == exact.write(rgba)


def test_opacity_in_another_range_than_the_pixels_is_refused(tmp_path):
    rgba = noise(6, 7, 4).astype(float)
    rgba[..., 3] /= 255
    with pytest.raises(Rejection, match=r"opacity in 0\.\.255"):
        ImageWriter(tmp_path).write(rgba)


# --- fewer bits than 16


def describe_darkness(tmp_path, image, scale=1.0):
    writer = ImageWriter(tmp_path, scale=scale)
    writer.write(image)
    return writer.describe_darkness()


def test_pixels_that_a_scale_leaves_nearly_black_are_a_warning_with_the_range(tmp_path):
    twelve = np.full((4, 4), 3900, np.uint16)
    warning = describe_darkness(tmp_path, twelve, 1 / 257)
    assert "15.2 of 255" in warning
    assert "3900: pass scale=255/4095 if white is 4095" in warning
    assert "scale=255/1023" in describe_darkness(tmp_path, np.full((4, 4), 900.0), 1 / 257)
    assert "scale=255/16 " in describe_darkness(tmp_path, np.full((4, 4), 16.0))
    assert not describe_darkness(tmp_path, twelve, 255 / 4095)
    assert not describe_darkness(tmp_path, np.full((4, 4), 60000, np.uint16), 1 / 257)
    assert not describe_darkness(tmp_path, np.full((4, 4, 3), 9, np.uint8))


def test_16_bit_pillow_images_are_scaled_and_warned_of_too(tmp_path):
    grey = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    image = Image.fromarray(grey)
    plain, scaled = ImageWriter(tmp_path), ImageWriter(tmp_path, scale=255 / 4095)
    assert (pixels(plain, plain.write(image))[..., 0] == grey >> 8).all()
    assert "scale=255/4095" in plain.describe_darkness()
    assert (pixels(scaled, scaled.write(image))[..., 0] == np.rint(grey / 4095 * 255)).all()
    assert not scaled.describe_darkness()
    with pytest.raises(DataError, match="scale=255/4095"):
        ImageWriter(tmp_path, scale=255 / 1023).write(image)


def test_who_reads_dark_arrays_is_warned_and_the_report_says_so(tmp_path):
    reporter = Recorder()
    images = np.random.default_rng(0).integers(0, 4096, (4, 8, 8)).astype(np.uint16)
    catalog = Catalog.from_arrays(images, [0, 1, 0, 1], scale=1 / 257, store=tmp_path, reporter=reporter)
    assert any("nearly black" in note for note in catalog.notes)
    assert any("nearly black" in line for line in reporter.warnings)
