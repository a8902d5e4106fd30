"""The report shows heat maps beside mistakes and of right answers, of every task."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import write_photos
from PIL import Image

import regraft
from regraft.recipe import HeadSpec

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Photos of which a third has the label of another class, so that there are mistakes."""
    return write_photos(tmp_path / "photos", classes=3, each=10)


def mix_up(photos: Path) -> None:
    rng = np.random.default_rng(3)
    for path in sorted(photos.rglob("*.png")):
        pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)  # nothing to learn
        Image.fromarray(pixels).save(path)


def read_report(photos: Path, network_file: Path, data: Path | None = None, **settings: object) -> str:
    fixed = {"backbone": str(network_file), "phases": (), "precision": "f32"}
    recipe = regraft.Recipe(**{**fixed, **settings})  # type: ignore[arg-type]
    run = regraft.train(data or photos, recipe, photos.parent / "run", store=photos.parent / "store")
    return (run.path / "report.html").read_text("utf-8")


def count_pairs(page: str) -> int:
    return page.count('<div class="pair">')


@pytest.mark.parametrize("classes", [2, 3])
def test_mistakes_and_right_answers_of_classes_have_heat_maps(
    tmp_path: Path, network_file: Path, classes: int
) -> None:
    photos = write_photos(tmp_path / "photos", classes=classes, each=10)
    mix_up(photos)
    page = read_report(photos, network_file)
    assert "Warm parts of an image speak for the class it was called" in page
    wrong, _, right = page.partition('<section id="right"')
    assert wrong.count('<div class="pair">') == wrong.count("<dt>called</dt>") > 0
    assert 0 < right.count('<div class="pair">') <= 2 * classes


def test_without_mistakes_right_answers_are_shown_all_the_same(photos: Path, network_file: Path) -> None:
    page = read_report(photos, network_file)
    assert "Every image was classified correctly." in page
    assert 3 <= count_pairs(page) <= 6  # a class may have one image in the part


def test_mistakes_of_labels_have_heat_maps(photos: Path, network_file: Path) -> None:
    mix_up(photos)
    lines = [f"{path.relative_to(photos.parent)},{'a|b' if number % 2 else 'b'}"
             for number, path in enumerate(sorted(photos.rglob("*.png")))]  # fmt: skip
    table = photos.parent / "labels.csv"
    table.write_text("\n".join(["image,labels", *lines, ""]))
    settings = {"image": ("image",), "target": ("labels",), "separator": "|", "task": "multilabel"}
    page = read_report(photos, network_file, table, **settings)
    assert count_pairs(page) == page.count("heat map of") > 0


def test_mistakes_of_numbers_have_heat_maps(photos: Path, network_file: Path) -> None:
    lines = [
        f"{path.relative_to(photos.parent)},{number}"
        for number, path in enumerate(sorted(photos.rglob("*.png")))
    ]
    table = photos.parent / "numbers.csv"
    table.write_text("\n".join(["image,size", *lines, ""]))
    page = read_report(photos, network_file, table, image=("image",), target=("size",), task="regression")
    assert count_pairs(page) > 0
    assert "raise the answer" in page
    assert "heat map of" not in page  # there is one target


def test_a_report_of_a_head_with_taps_has_heat_maps_of_all_its_layers(
    photos: Path, network_file: Path
) -> None:
    page = read_report(photos, network_file, head=HeadSpec(taps="late"))
    assert count_pairs(page) > 0
    assert 'id="right"' in page


def test_heat_maps_are_pictures_of_the_thumbnails_size(photos: Path, network_file: Path) -> None:
    import base64
    import re

    page = read_report(photos, network_file)
    pairs = re.findall(
        r'<div class="pair"><img src="data:image/jpeg;base64,([^"]+)".*?base64,([^"]+)"', page, re.DOTALL
    )
    assert pairs
    for pair in pairs:
        one, other = (Image.open(io.BytesIO(base64.b64decode(text))) for text in pair)
        assert one.size == other.size
        assert np.abs(np.asarray(one, int) - np.asarray(other, int)).max() > 30
