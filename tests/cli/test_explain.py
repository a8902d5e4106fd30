"""`regraft explain` writes a self-contained page, and names what it cannot explain."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import write_photos
from typer.testing import CliRunner, Result

import regraft
from regraft.cli import app
from regraft.inference.predictions import PredictionMaker

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """No child processes: they have tests of their own."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, network_file: Path) -> Path:
    photos = write_photos(tmp_path_factory.mktemp("data") / "photos", classes=3, each=6)
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), precision="f32")
    return regraft.train(photos, recipe, photos.parent / "run", store=photos.parent / "store").path


@pytest.fixture
def photos(run: Path) -> Path:
    return run.parent / "photos"


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["explain", *map(str, arguments)])


def test_a_page_shows_each_image_with_its_maps_and_its_answer(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    page = tmp_path / "pages" / "why.html"
    result = call(run, photos / "red", "-o", page)
    assert result.exit_code == 0, result.output
    assert "6 images explained" in result.stdout
    text = page.read_text("utf-8")
    assert text.count('class="explained"') == 6
    assert text.count("<figure>") == 6 * 3  # the image and two maps
    assert text.count("data:image/jpeg;base64,") >= 6 * 3
    assert "rather than" in text
    for file in (photos / "red").iterdir():
        assert file.name in text


def test_the_page_asks_for_nothing_from_elsewhere(run: Path, photos: Path, tmp_path: Path) -> None:
    call(run, photos / "red" / "000.png", "-o", tmp_path / "why.html")
    text = (tmp_path / "why.html").read_text("utf-8")
    assert "default-src 'none'" in text
    assert not re.search(r'(src|href)="(?!data:|#)', text)
    assert "<script" not in text


def test_names_of_files_and_classes_are_escaped(tmp_path: Path, network_file: Path) -> None:
    photos = write_photos(tmp_path / "photos", classes=2, each=6)
    (photos / "blue").rename(photos / "<b>blue")
    recipe = regraft.Recipe(backbone=str(network_file), phases=(), precision="f32")
    finished = regraft.train(photos, recipe, tmp_path / "run", store=tmp_path / "store").path
    assert call(finished, photos / "<b>blue" / "000.png", "-o", tmp_path / "why.html").exit_code == 0
    text = (tmp_path / "why.html").read_text("utf-8")
    assert "<b>" not in text
    assert "&lt;b&gt;blue" in text


def test_files_that_are_no_images_are_named_and_listed_on_the_page(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("some words")
    result = call(run, tmp_path / "notes.txt", photos / "red" / "000.png", "-o", tmp_path / "why.html")
    assert result.exit_code == 0
    assert "notes.txt\trefused: not_an_image" in result.stdout
    assert "1 images explained" in result.stdout
    assert "notes.txt" in (tmp_path / "why.html").read_text("utf-8")


def test_json_holds_the_answers_and_the_page(run: Path, photos: Path, tmp_path: Path) -> None:
    result = call(run, photos / "red" / "000.png", "-o", tmp_path / "why.html", "--json")
    content = json.loads(result.stdout)
    assert content["page"] == str(tmp_path / "why.html")
    assert set(content["images"][0]["values"]) == {"blue", "green", "red"}
    assert content["refused"] == []


def expect_error(result: Result, kind: type[Exception], text: str) -> None:
    assert isinstance(result.exception, kind)
    assert text in str(result.exception)


def test_no_usable_image_makes_no_page(run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("some words")
    result = call(run, tmp_path / "notes.txt", "-o", tmp_path / "why.html")
    expect_error(result, regraft.DataError, "1 that cannot, the first")
    assert not (tmp_path / "why.html").exists()


def test_a_page_that_exists_is_replaced_only_when_asked_for(run: Path, photos: Path, tmp_path: Path) -> None:
    page, image = tmp_path / "why.html", photos / "red" / "000.png"
    page.write_text("mine")
    expect_error(call(run, image, "-o", page), regraft.UsageError, "exists")
    assert page.read_text() == "mine"
    assert call(run, image, "-o", page, "--overwrite").exit_code == 0
    assert "explained" in page.read_text("utf-8")


def test_an_image_is_never_replaced(run: Path, photos: Path) -> None:
    image = photos / "red" / "000.png"
    expect_error(call(run, image, "-o", image, "--overwrite"), regraft.UsageError, "is an image")


def test_a_run_or_image_that_is_not_there_is_named(run: Path, photos: Path, tmp_path: Path) -> None:
    image = photos / "red" / "000.png"
    expect_error(call(tmp_path / "none", image, "-o", tmp_path / "a.html"), regraft.UsageError, "nothing at")
    expect_error(
        call(run, tmp_path / "none.png", "-o", tmp_path / "a.html"), regraft.UsageError, "nothing at"
    )


def test_python_takes_an_open_run(run: Path, photos: Path, tmp_path: Path) -> None:
    bundle = regraft.load(run)
    result = regraft.explain(bundle, photos / "green" / "001.png", tmp_path / "why.html")
    assert result.path == tmp_path / "why.html"
    assert [prediction.task for prediction in result.predictions] == ["multiclass"]
    assert result.refused == ()


class NearestInOrder:
    """Training images that are as near as they come first."""

    def __init__(self, names: list[str]) -> None:
        self.names, self.labels = np.array(names), np.array([name.split("/")[0] for name in names])

    def measure(self, features: np.ndarray, answers: np.ndarray) -> np.ndarray:
        return np.full(len(features), 0.5)

    def find_nearest(self, features: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        assert features.shape == (1, 16)
        rows = np.arange(len(self.names))[None, :count]
        return rows, 1 - rows / 100


def test_the_nearest_training_images_are_shown_where_they_are_as_they_were(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"{colour}/00{number}.png" for colour in ("blue", "red") for number in range(3)]
    known = SimpleNamespace(familiarity=NearestInOrder([*names, "gone/000.png"]), conformal=None)
    monkeypatch.setattr(regraft.Bundle, "uncertainty", property(lambda bundle: known))
    changed = (photos / "blue" / "001.png").read_bytes()
    try:
        (photos / "blue" / "001.png").write_bytes((photos / "green" / "001.png").read_bytes())
        call(run, photos / "red" / "000.png", "-o", tmp_path / "why.html")
    finally:
        (photos / "blue" / "001.png").write_bytes(changed)
    nearest = (tmp_path / "why.html").read_text("utf-8").partition("Nearest training images")[2]
    assert nearest.count("<li>") == 6
    assert nearest.count("data:image/jpeg") == 5
    assert nearest.count("no image") == 1  # its file has another content now
    assert re.findall(r"0\.9\d|1\.00", nearest) == ["1.00", "0.99", "0.98", "0.97", "0.96", "0.95"]


def test_sets_intervals_and_familiarity_are_shown_where_the_run_has_them(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = PredictionMaker.make

    def make_more(maker: PredictionMaker, *arguments: Any) -> regraft.Prediction:
        prediction = make(maker, *arguments)
        return replace(prediction, set=("red", "green"), familiarity=0.004, known=False, undecided=True)

    monkeypatch.setattr(PredictionMaker, "make", make_more)
    call(run, photos / "red" / "000.png", "-o", tmp_path / "why.html", "--coverage", "0.95")
    text = (tmp_path / "why.html").read_text("utf-8")
    assert "The truth with 95&nbsp;% confidence" in text
    assert "<bdi>red</bdi>, <bdi>green</bdi>" in text
    assert "0.4&nbsp;%: not like the training images" in text


def test_too_many_images_for_a_page_are_refused(run: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(201):
        (tmp_path / "many" / f"{number}.png").hardlink_to(photos / "red" / "000.png")
    result = call(run, tmp_path / "many", "-o", tmp_path / "why.html")
    expect_error(result, regraft.UsageError, "at most 200 images to explain. Received: 201.")
