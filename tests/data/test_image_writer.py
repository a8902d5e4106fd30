"""Pictures from memory as files: lossless, by content, and only where their values can be pixels."""

import errno
import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.image_writer import SURE, Spool
from regraft.data.images.decode import decode
from regraft.data.images.decode import digest as digest_of
from regraft.data.images.rejections import Refusal
from regraft.errors import DataError, EnvironmentFault


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def pixels(spool, photo):
    data = (spool.root / photo.path).read_bytes()
    assert digest_of(data) == photo.digest
    return decode(data, None).pixels


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.uint16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(7, 5, 3), (7, 5, 1), (7, 5)])
def test_the_decoder_reads_the_very_pixels(tmp_path, kind, shape):
    spool = Spool(tmp_path)
    picture = noise(*shape)
    found = pixels(spool, spool.put(picture.astype(kind)))
    assert (found == picture.reshape(7, 5, -1)).all()
    assert not spool.rounded


def test_channels_may_come_first(tmp_path):
    spool = Spool(tmp_path)
    picture = noise(7, 5, 3)
    assert spool.put(np.moveaxis(picture, 2, 0)) == spool.put(picture)
    assert spool.put(picture[None, :, :, 0]) == spool.put(picture[:, :, 0])


def test_a_picture_has_one_file_and_one_digest_everywhere(tmp_path):
    spool = Spool(tmp_path)
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    photo = spool.put(picture)
    assert photo == spool.put(picture.astype(float))
    header = struct.pack("<2sIHHI IiiHHIIiiII", b"BM", 78, 0, 0, 54, 40, 4, 2, 1, 24, 0, 24, 3780, 3780, 0, 0)
    bitmap = header + picture[::-1, :, ::-1].tobytes()  # rows from the bottom, blue first
    assert photo.digest == digest_of(bitmap)  # splits depend on it: the same for any version of Pillow
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")] == [photo.path]


def test_a_file_that_was_damaged_is_written_again(tmp_path):
    spool = Spool(tmp_path)
    photo = spool.put(noise(4, 4, 3))
    whole = (tmp_path / photo.path).read_bytes()
    for damaged in (whole[:20], whole[:-1] + b"\0"):
        (tmp_path / photo.path).write_bytes(damaged)
        assert spool.put(noise(4, 4, 3)) == photo
        assert (tmp_path / photo.path).read_bytes() == whole


def test_files_in_memory_are_kept_as_they_are(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(noise(9, 9, 3)).save(buffer, "JPEG")
    spool = Spool(tmp_path)
    assert (tmp_path / spool.put(buffer.getvalue()).path).read_bytes() == buffer.getvalue()
    with pytest.raises(Refusal, match="looks like HTML"):
        spool.put(b"<html>404")


def test_pillow_images_are_decoded_as_files_are(tmp_path):
    rgba = np.concatenate([noise(6, 6, 3), noise(6, 6, 1, seed=1)], axis=2)
    spool = Spool(tmp_path)
    buffer = io.BytesIO()
    Image.fromarray(rgba).save(buffer, "PNG")
    photo = spool.put(Image.open(buffer))
    assert (pixels(spool, photo) == decode(buffer.getvalue(), None).pixels).all()
    with pytest.raises(Refusal) as caught:
        spool.put(Image.open(io.BytesIO(buffer.getvalue()[:90])))
    assert caught.value.code == "corrupt"


def test_a_scale_brings_pixels_into_range(tmp_path):
    spool = Spool(tmp_path, scale=255)
    picture = noise(6, 6, 3)
    assert (pixels(spool, spool.put(picture.astype(np.float32) / 255)) == picture).all()
    assert not spool.rounded
    spool.put(np.full((4, 4, 3), 0.5))
    assert spool.rounded
    deep = Spool(tmp_path, scale=1 / 257)
    assert (pixels(deep, deep.put(picture.astype(np.uint16) * 257)) == picture).all()


def test_pixels_between_0_and_1_are_an_error_that_says_what_to_pass(tmp_path):
    spool = Spool(tmp_path)
    for number in range(SURE - 1):
        spool.put(noise(4, 4, 3, seed=number) / 255)
    with pytest.raises(DataError, match="pass scale=255"):
        spool.put(noise(4, 4, 3) / 255)
    few = Spool(tmp_path)
    few.put(noise(4, 4, 3) / 255)
    with pytest.raises(DataError, match="pass scale=255"):
        few.check()


def test_dark_pictures_among_others_are_none(tmp_path):
    spool = Spool(tmp_path)
    spool.put(np.zeros((4, 4, 3)))
    spool.put(np.ones((4, 4, 3), np.uint8))
    spool.put(noise(4, 4, 3))
    spool.check()
    black = Spool(tmp_path)
    black.put(np.zeros((4, 4, 3)))
    black.check()


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        ((noise(4, 4, 3) / 127.5) - 1, "normalises them"),
        (noise(4, 4, 3).astype(float) * 257, "scale=1/257"),
        (noise(4, 4, 4), "shape .*4, 4, 4"),
        (noise(4), r"shape .*\(4,\)"),
        (np.array([["a", "b"]]), "arrays of numbers"),
    ],
)
def test_what_cannot_be_pixels_is_an_error(tmp_path, picture, why):
    with pytest.raises(DataError, match=why):
        Spool(tmp_path).put(picture)


@pytest.mark.parametrize(("value", "code"), [(np.nan, "not_finite"), (np.inf, "not_finite")])
def test_a_picture_with_a_value_that_is_no_number_is_refused(tmp_path, value, code):
    picture = noise(4, 4, 3).astype(float)
    picture[1, 2, 0] = value
    with pytest.raises(Refusal) as caught:
        Spool(tmp_path).put(picture)
    assert caught.value.code == code
    with pytest.raises(Refusal, match="bad_dimensions"):
        Spool(tmp_path).put(np.zeros((0, 4, 3)))


def test_a_full_disk_is_a_fault_of_the_environment_and_leaves_nothing(tmp_path, monkeypatch):
    def full(path, data):
        path.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(EnvironmentFault, match="No space left on device"):
        Spool(tmp_path).put(noise(4, 4, 3))
    assert not list(tmp_path.rglob("*.*"))
