"""What counts as one image, as several, and as none, when users pass images in from Python."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.image_inputs import has_fractions, inspect_image, inspect_path, is_image, list_items
from regraft.data.image_writer import ImageWriter
from regraft.data.images.rejections import Rejection
from regraft.errors import UsageError

PIXELS = np.zeros((6, 8, 3), np.uint8)


def make_png() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "one",
    [
        "photo.jpg",
        Path("photo.jpg"),
        np.str_("photo.jpg"),
        make_png(),
        bytearray(make_png()),
        memoryview(make_png()),
        Image.fromarray(PIXELS),
        PIXELS,
        PIXELS[:, :, 0],
        PIXELS[:, :, :1],
        PIXELS.astype(np.float32),
        np.zeros((6, 8, 4), np.uint8),
    ],
)
def test_one_path_or_image_is_a_list_of_one(one: object) -> None:
    assert len(list_items(one)) == 1


@pytest.mark.parametrize(
    ("many", "count"),
    [
        (["a.png", Path("b.png")], 2),
        ((path for path in ("a.png", "b.png", "c.png")), 3),
        (np.array(["a.png", "b.png"]), 2),
        ({"a.png": 0, "b.png": 1}.keys(), 2),
        (np.zeros((5, 6, 8, 3), np.uint8), 5),
        (np.zeros((1, 6, 8), np.uint8)[[0] * 5], 5),
        ([PIXELS, "a.png", make_png(), Image.fromarray(PIXELS)], 4),
        ([], 0),
    ],
)
def test_lists_and_batches_are_their_items(many: object, count: int) -> None:
    assert len(list_items(many)) == count


def test_a_column_of_a_data_frame_is_a_list_of_paths() -> None:
    pandas = pytest.importorskip("pandas")
    assert list_items(pandas.Series(["a.png", "b.png"])) == ["a.png", "b.png"]


@pytest.mark.parametrize(
    "nothing",
    [7, None, {"image": "a.png"}, 1.5, object(), np.zeros(3), np.zeros((1, 2, 3, 4, 5, 6)), io.BytesIO()],
)
def test_anything_else_is_a_usage_error_that_says_what_was_expected(nothing: object) -> None:
    with pytest.raises(UsageError, match=r"Expected the path of an image .* Received: "):
        list_items(nothing)


@pytest.mark.parametrize("shape", [(3, 6, 8), (1, 6, 8)])
def test_an_array_that_may_be_one_image_or_several_is_refused_with_the_cure(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"list\(images\).*\[image\]"):
        list_items(np.zeros(shape))
    assert len(list_items([np.zeros(shape)])) == 1


def test_a_tensor_that_is_no_array_is_a_usage_error() -> None:
    class OnAnotherDevice:
        def __array__(self, *options: object) -> None:
            raise TypeError("can't convert device type tensor to numpy")

    with pytest.raises(UsageError, match="OnAnotherDevice, which becomes no array"):
        list_items([OnAnotherDevice()]) and is_image(OnAnotherDevice())


def test_images_in_memory_become_files_with_the_same_pixels(tmp_path: Path) -> None:
    writer = ImageWriter(tmp_path)
    for image in (PIXELS, Image.fromarray(PIXELS), make_png(), bytearray(make_png()), memoryview(make_png())):
        file = inspect_image(image, writer)
        assert not isinstance(file, Rejection)
        assert Path(file.path).is_absolute()
        np.testing.assert_array_equal(np.asarray(Image.open(file.path)), PIXELS)
    refused = inspect_image(b"<html>not found</html>", writer)
    assert isinstance(refused, Rejection)
    assert refused.code == "not_an_image"


def test_a_path_no_longer_depends_on_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(make_png())
    monkeypatch.chdir(tmp_path)
    file = inspect_path("a.png")
    assert not isinstance(file, Rejection)
    assert file.path == str(tmp_path / "a.png")


def test_fractions_are_those_of_arrays_only() -> None:
    assert has_fractions(PIXELS.astype(np.float16))
    assert not any(map(has_fractions, (PIXELS, "a.png", make_png(), Image.fromarray(PIXELS))))
