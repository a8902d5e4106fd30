"""What cannot be learnt is an error: a class an image, a number that never differs."""

import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.learnable import check_numbers, check_repetition
from regraft.errors import DataError


@pytest.fixture
def root(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    return tmp_path


def open_table(root, cells, delimiter=","):
    rows = [f"{number}.png{delimiter}{cell}\n" for number, cell in enumerate(cells)]
    (root / "t.csv").write_text(f"file{delimiter}label\n" + "".join(rows))
    return Catalog.from_table(root / "t.csv", image="file", target="label")


@pytest.mark.parametrize(
    "cells",
    [
        [f'"${1200 + n:,}"' for n in range(24)],
        [f'"{1200 + n:,}"' for n in range(24)],
        [f"{n}.png" for n in range(24)],
        [f"2021-03-{n + 1:02}" for n in range(24)],
        [f"{n} mm" for n in range(24)],
        [f"{n}°" for n in range(24)],
        [f"{n} mm" for n in (0, 0, *range(2, 24))],
    ],
)
def test_a_class_an_image_is_an_error_that_shows_three(root, cells):
    catalog = open_table(root, cells)
    with pytest.raises(DataError, match="Expected several images of each class") as caught:
        catalog.require_learnable()
    assert sum(repr(name) in str(caught.value) for name in catalog.outputs) == 3
    assert "1200 or 0.5" in str(caught.value)


@pytest.mark.parametrize(
    ("form", "delimiter"), [('"{},5"', ","), ("{},5", "\t"), ("{},5", ";"), ('"0,{:03}"', ",")]
)
def test_decimal_commas_are_numbers_behind_any_delimiter(root, form, delimiter):
    catalog = open_table(root, [form.format(n) for n in range(24)], delimiter).require_learnable()
    assert catalog.task == "regression"
    expected = [float(form.format(n).strip('"').replace(",", ".")) for n in range(24)]
    assert catalog.targets(catalog.samples)[:, 0].tolist() == expected


def test_few_images_and_classes_that_repeat_are_learnable(root):
    assert len(open_table(root, [f"{n // 2} mm" for n in range(24)]).require_learnable()) == 24
    assert len(open_table(root, ["cat", "dog", "ape"]).require_learnable()) == 3
    check_repetition([*range(18), 18, 18, 19, 19], [str(n) for n in range(20)])


def test_numbers_that_differ_in_their_last_digits_are_learnt(root):
    times = [1_700_000_000 + n for n in range(24)]
    catalog = open_table(root, times).require_learnable()
    assert catalog.targets(catalog.samples)[:, 0].tolist() == times
    assert "answers in steps of 128" in catalog.notes[0]
    exact = [0.1 + n * 2**-50 for n in range(24)]
    catalog = open_table(root, [repr(value) for value in exact]).require_learnable()
    assert catalog.targets(catalog.samples)[:, 0].tolist() == exact


def test_different_numbers_have_different_digests_and_texts(root):
    texts, digests = set(), set()
    for number in (1234567, 1234568, 1234567.125):
        catalog = open_table(root, [number, 0.5, 0.25])
        texts.add(catalog.describe_target(catalog.samples[0]))
        digests.add(catalog.digest)
    assert texts == {"1234567", "1234568", "1234567.125"}
    assert len(digests) == 3


def test_a_constant_is_an_error_with_all_its_digits():
    with pytest.raises(DataError, match=r"1234567\.125 in every training sample"):
        check_numbers(np.full((3, 1), 1234567.125), ["size"])
    assert check_numbers(np.array([[0.0, 1e9], [1.0, 2e9]]), ["a", "b"]) == ()
