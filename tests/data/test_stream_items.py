"""Items of a source: batches or samples, decided once; a bad one costs only itself."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.errors import DataError, UsageError

GREY = np.random.default_rng(0).integers(0, 256, (12, 8, 6), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (12, 3, 8, 6), dtype=np.uint8)  # channels first
LABELS = np.arange(12) % 2


def batches(size: int, images: Any = GREY, labels: Any = LABELS) -> Iterator[tuple[Any, Any]]:
    return ((images[at : at + size], labels[at : at + size]) for at in range(0, len(images), size))


def require_grey(catalog: Catalog, count: int = 12) -> None:
    assert [sample.target for sample in catalog.samples] == LABELS[:count].tolist()
    assert not catalog.refused
    for sample, image in zip(catalog.samples, GREY, strict=False):
        assert (np.asarray(Image.open(catalog.root / sample.path).convert("L")) == image).all()


class Loader:
    """A loader of PyTorch: it states the size of its batches and has no items by number."""

    batch_size = 3

    def __init__(self, images: Any = GREY, labels: Any = LABELS) -> None:
        self._pairs = images, labels

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return batches(self.batch_size, *self._pairs)


class KerasBatches(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 4

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return GREY[3 * number : 3 * number + 3], LABELS[3 * number : 3 * number + 3]


class TorchDataset:
    """A data set of PyTorch: samples by number."""

    def __init__(self, images: Any, targets: Any) -> None:
        self._images, self._targets = images, targets

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        if self._images[number] is None:
            raise OSError("image file is truncated")
        return self._images[number], self._targets[number]


class Table(TorchDataset):
    """A data set that can also be iterated, until the first row that cannot be read."""

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        return (self[number] for number in range(len(self)))


# --- batches of three grey images


@pytest.mark.parametrize("size", [3, 1, 5, 7, 9, 11, 12])
def test_a_loader_of_grey_images_gives_grey_images_whatever_its_last_batch(size: int) -> None:
    loader = Loader()
    loader.batch_size = size
    require_grey(Catalog.from_stream(loader))


@pytest.mark.parametrize("size", [5, 7, 9, 11])
def test_an_iterator_whose_first_or_last_batch_is_clear_decides_for_all(size: int) -> None:
    require_grey(Catalog.from_stream(batches(size)))
    require_grey(Catalog.from_stream(iter(list(batches(size)))))


def test_a_later_batch_decides_where_the_first_is_unclear() -> None:
    require_grey(Catalog.from_stream(batches(3, GREY[:11], LABELS[:11])), 11)


def test_keras_data_sets_give_batches() -> None:
    require_grey(Catalog.from_stream(KerasBatches()))


def test_tf_data_says_that_its_batches_have_no_fixed_size() -> None:
    import tensorflow

    source = tensorflow.data.Dataset.from_tensor_slices((GREY, LABELS))
    require_grey(Catalog.from_stream(source.batch(3)))
    require_grey(Catalog.from_stream(source.batch(3, drop_remainder=False).prefetch(1)))
    rows = source.map(lambda image, label: {"image": image, "label": label})
    require_grey(Catalog.from_stream(rows.batch(3)))


def test_unclear_batches_are_an_error_that_says_how_to_mend_it() -> None:
    with pytest.raises(UsageError, match=r"\(3, 8, 6\) with 3 targets .* \(3, 8, 6, 1\).* \(8, 6, 3\)"):
        Catalog.from_stream(batches(3))
    require_grey(Catalog.from_stream(batches(3, GREY[..., None])))


def test_samples_with_channels_first_and_three_targets_stay_samples() -> None:
    one_hot = np.eye(3)[np.arange(12) % 3]
    for source in (TorchDataset(COLOUR, one_hot), zip(COLOUR, one_hot, strict=True)):
        catalog = Catalog.from_stream(source)
        assert (len(catalog), catalog.task, len(catalog.outputs)) == (12, "multiclass", 3)
        image = Image.open(catalog.root / catalog.samples[0].path)
        assert (np.asarray(image) == np.moveaxis(COLOUR[0], 0, 2)).all()
    numbers = np.random.default_rng(2).normal(size=(12, 3))
    assert Catalog.from_stream(TorchDataset(COLOUR, numbers)).task == "regression"
    channels_last = zip(np.moveaxis(COLOUR, 1, 3), numbers, strict=True)
    assert len(Catalog.from_stream(channels_last).outputs) == 3


def test_channels_of_a_narrow_image_are_where_those_of_the_others_are() -> None:
    narrow = np.random.default_rng(3).integers(0, 256, (3, 9, 3), dtype=np.uint8)
    first = Catalog.from_arrays([COLOUR[0], narrow], ["a", "b"])
    last = Catalog.from_arrays([np.moveaxis(COLOUR[0], 0, 2), narrow], ["a", "b"])
    assert Image.open(first.root / first.samples[1].path).size == (3, 9)
    assert Image.open(last.root / last.samples[1].path).size == (9, 3)


# --- one bad item


def test_an_item_that_is_no_image_is_refused_and_the_stream_goes_on() -> None:
    images: list[Any] = list(GREY)
    images[2], images[5], images[7] = None, "photo.jpg", np.zeros((8, 6, 5))
    catalog = Catalog.from_stream(zip(images, LABELS, strict=True))
    assert [(item.image, item.code) for item in catalog.refused] == [
        ("image 2", "not_an_image"),
        ("image 5", "not_an_image"),
        ("image 7", "not_an_image"),
    ]
    assert (len(catalog), catalog.task) == (9, "binary")


def test_an_item_that_is_no_pair_is_refused_and_has_no_say_in_the_task() -> None:
    numbers = np.random.default_rng(4).normal(size=(12, 2))
    items: list[Any] = list(zip(GREY, numbers, strict=True))
    items[3] = None
    items[4] = (GREY[4], numbers[4], 1.0)
    catalog = Catalog.from_stream(iter(items))
    assert [(item.image, item.code) for item in catalog.refused] == [
        ("image 3", "malformed_row"),
        ("image 4", "malformed_row"),
    ]
    assert (catalog.task, len(catalog.outputs), len(catalog)) == ("regression", 2, 10)


@pytest.mark.parametrize("kind", [TorchDataset, Table])
@pytest.mark.parametrize("bad", [0, 6, 11])
def test_a_row_that_the_data_set_cannot_read_is_refused(kind: type[TorchDataset], bad: int) -> None:
    images: list[Any] = list(GREY)
    images[bad] = None
    catalog = Catalog.from_stream(kind(images, LABELS))
    assert [(item.image, item.code) for item in catalog.refused] == [(f"image {bad}", "unreadable")]
    assert "truncated" in catalog.refused[0].detail
    assert len(catalog) == 11


def test_a_file_that_a_row_names_and_that_is_gone_is_refused(tmp_path: Path) -> None:
    rows = [{"image": image, "label": int(label)} for image, label in zip(GREY, LABELS, strict=True)]
    rows[0]["image"] = {"bytes": None, "path": str(tmp_path / "gone.png")}
    catalog = Catalog.from_stream(rows)
    assert [(item.image, item.code) for item in catalog.refused] == [("image 0", "unreadable")]


def test_a_batch_with_too_few_targets_is_refused() -> None:
    items = list(batches(4))
    items[1] = (items[1][0], items[1][1][:3])
    catalog = Catalog.from_stream(items)
    assert [(item.code, item.detail) for item in catalog.refused] == [
        ("malformed_row", "expected as many targets as images in a batch, received 4 and 3")
    ]
    assert len(catalog) == 8


def test_errors_of_an_iterator_that_cannot_go_on_are_not_hidden() -> None:
    def broken() -> Iterator[tuple[Any, Any]]:
        yield from zip(GREY[:4], LABELS, strict=False)
        raise ConnectionError("the server is gone")

    with pytest.raises(ConnectionError):
        Catalog.from_stream(broken())


def test_a_stream_of_nothing_but_bad_items_is_an_error_that_shows_them() -> None:
    with pytest.raises(DataError, match=r"4 of 4 images cannot be used(.|\n)*image 0: not_an_image"):
        Catalog.from_stream(zip([None] * 4, itertools.count(), strict=False))
