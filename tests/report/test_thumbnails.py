"""The worst mistakes, with thumbnails of the files themselves."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import Catalog, ImageFile, Sample
from regraft.report.mistakes import list_wrong_images, list_wrong_labels, list_wrong_numbers

RED, BLUE = (200, 40, 30), (30, 60, 200)


def catalog(root: Path, task: str, targets: list, outputs: tuple[str, ...]) -> Catalog:
    """Return samples of two wide images each, the first red and the second blue."""
    samples = []
    for number, target in enumerate(targets):
        for name, colour in ((f"{number}.jpg", RED), (f"{number}-back.jpg", BLUE)):
            Image.new("RGB", (600, 300), colour).save(root / name)
        extra_images = (ImageFile(f"{number}-back.jpg", f"back {number}"),)
        samples.append(Sample(f"{number}.jpg", target, f"front {number}", "test", extra_images=extra_images))
    return Catalog(root, outputs, tuple(samples), task=task)


def test_mistakes_are_named_with_their_probabilities(tmp_path: Path) -> None:
    pets = catalog(tmp_path, "multiclass", [0, 1, 1], ("cat", "dog"))
    wrong = list_wrong_images(pets, "test", np.array([[0.9, 0.1], [0.7, 0.3], [0.8, 0.2]]))
    assert [(item.image, item.truth, item.predicted) for item in wrong] == [
        ("2.jpg", "dog", "cat"),
        ("1.jpg", "dog", "cat"),
    ]
    assert (wrong[0].probability, wrong[0].truth_probability) == (0.8, 0.2)


def test_thumbnails_are_small_and_show_the_first_image(tmp_path: Path) -> None:
    pets = catalog(tmp_path, "multiclass", [0], ("cat", "dog"))
    (wrong,) = list_wrong_images(pets, "test", np.array([[0.1, 0.9]]))
    thumbnail = Image.open(io.BytesIO(wrong.thumbnail))
    assert (thumbnail.format, thumbnail.size) == ("JPEG", (220, 110))
    assert thumbnail.getpixel((100, 50)) == pytest.approx(RED, abs=6)


def test_a_file_that_is_gone_has_no_thumbnail(tmp_path: Path) -> None:
    pets = catalog(tmp_path, "multiclass", [0], ("cat", "dog"))
    (tmp_path / "0.jpg").unlink()
    assert list_wrong_images(pets, "test", np.array([[0.1, 0.9]]))[0].thumbnail == b""


def test_missed_added_and_right_labels_are_listed_apart(tmp_path: Path) -> None:
    pets = catalog(tmp_path, "multilabel", [(0, 1), (2,), ()], ("sky", "sea", "gull"))
    answers = np.array([[0.9, 0.2, 0.8], [0.1, 0.1, 0.9], [0.1, 0.1, 0.1]])
    (wrong,) = list_wrong_labels(pets, "test", answers, np.array([0.5, 0.5, 0.5]))
    assert (wrong.image, wrong.missed, wrong.added, wrong.right) == (
        "0.jpg",
        [("sea", 0.2)],
        [("gull", 0.8)],
        ["sky"],
    )


def test_errors_come_with_truth_and_answer_of_every_target(tmp_path: Path) -> None:
    pets = catalog(tmp_path, "regression", [(1.0, 10.0), (2.0, 20.0)], ("height", "weight"))
    first, second = list_wrong_numbers(pets, "test", np.array([[1.5, 10.0], [4.0, 21.0]]))
    assert (first.image, first.values) == ("1.jpg", [("height", 2.0, 4.0), ("weight", 20.0, 21.0)])
    assert second.image == "0.jpg"
