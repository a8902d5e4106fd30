"""A recipe names the data of a catalog as they can be read again, or says that only Python has them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.data.catalog import Catalog
from regraft.data.sources import name_data
from regraft.recipe import HeadSpec, Recipe


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table in one folder of images in another, whose subfolders are no classes."""
    rng = np.random.default_rng(0)
    lines = ["file,label,patient"]
    for number in range(16):
        name = f"{('front', 'back')[number % 2]}/{number:02}.png"
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
        lines.append(f"{name},{('cat', 'dog', 'owl', 'fox')[number // 4]},p{number // 2}")
    path = tmp_path / "tables" / "rows.csv"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    return path


def read_table(path: Path, **options: Any) -> Catalog:
    return Catalog.from_table(path, image="file", target="label", root=path.parents[1] / "images", **options)


def make_arrays(store: Path) -> Catalog:
    images = np.random.default_rng(0).integers(0, 256, (16, 40, 40, 3), np.uint8)
    return Catalog.from_arrays(images, ["cat", "dog"] * 8, store=store)


def test_a_table_is_named_with_its_columns_and_root(table: Path) -> None:
    recipe = name_data(read_table(table, group="patient"), Recipe(seed=3, image=("other",)))
    expected = {"image": ("file",), "target": ("label",), "group": "patient", "split": "", "separator": ""}
    assert {name: getattr(recipe, name) for name in expected} == expected
    assert (recipe.data, recipe.root, recipe.seed) == (str(table), str(table.parents[1] / "images"), 3)
    again = Catalog.open(recipe.data, recipe)
    assert again.digest == read_table(table).digest
    assert again.outputs == ("cat", "dog", "fox", "owl")


def test_a_name_is_the_same_in_every_folder(
    table: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    relative = Catalog.from_table("tables/rows.csv", image="file", target="label", root="images")
    assert relative.source == read_table(table).source
    assert Catalog.from_folder("photos").source == Catalog.from_folder(photos).source
    assert name_data("photos", Recipe()).data == "photos"  # reports show a path as it was given


def test_a_folder_has_no_columns(photos: Path) -> None:
    recipe = name_data(Catalog.from_folder(photos), Recipe(image=("file",), target=("label",), root="images"))
    assert (recipe.data, recipe.image, recipe.target, recipe.root) == (str(photos), (), (), "")
    assert Catalog.open(recipe.data, recipe).outputs == ("blue", "green", "red")


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda photos, store: make_arrays(store), "python:arrays"),
        (lambda photos, store: Catalog.from_stream(stream(), store=store), "python:stream"),
        (lambda photos, store: read_frame(photos), "python:table"),
        (lambda photos, store: replace(Catalog.from_folder(photos), notes=("changed",)), "python:catalog"),
        (lambda photos, store: Catalog.from_folder(photos).exclude([]), "python:catalog"),
    ],
)
def test_what_only_python_has_is_named_so_and_refused_with_the_cure(
    make: Callable[[Path, Path], Catalog], name: str, photos: Path, tmp_path: Path
) -> None:
    recipe = name_data(make(photos, tmp_path / "store"), Recipe())
    assert recipe.data == name
    cure = rf"\({name.removeprefix('python:')}\)\. Pass them in again: train\(data, recipe, out\)"
    with pytest.raises(regraft.UsageError, match=cure):
        Catalog.open(recipe.data, recipe)


def stream():
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
    yield from zip(images, ["a", "b", "c"] * 2, strict=True)


def read_frame(photos: Path) -> Catalog:
    files = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    frame = {"file": files, "label": [file.split("/")[0] for file in files]}
    return Catalog.from_table(frame, image="file", target="label", root=photos)


def test_another_task_of_the_same_data_has_the_same_source(photos: Path) -> None:
    catalog = Catalog.from_folder(photos)
    assert catalog.as_task("multilabel").source == catalog.source


@pytest.mark.slow
def test_the_recipe_of_a_run_on_a_table_makes_the_run_again(
    table: Path, network_file: Path, tmp_path: Path
) -> None:
    store, recipe = tmp_path / "store", Recipe(backbone=str(network_file), phases=())
    first = regraft.train(read_table(table), recipe, tmp_path / "one", store=store)
    again = Recipe.from_toml(first.path / "recipe.toml")
    second = regraft.train(again.data, again, tmp_path / "two", store=store)
    assert second.bundle.outputs == first.bundle.outputs == ["cat", "dog", "fox", "owl"]
    assert second.bundle.manifest["data"] == first.bundle.manifest["data"]
    assert second.metrics["validation"] == first.metrics["validation"]


@pytest.mark.slow
def test_the_recipe_of_a_run_on_arrays_runs_nothing_else(network_file: Path, tmp_path: Path) -> None:
    store, recipe = tmp_path / "store", Recipe(backbone=str(network_file), phases=())
    run = regraft.train(make_arrays(store), recipe, tmp_path / "one", store=store)
    text = (run.path / "recipe.toml").read_text()
    assert "# Passed in from Python, and to be passed in again: data." in text
    again = Recipe.from_toml(run.path / "recipe.toml")
    with pytest.raises(regraft.UsageError, match="passed in from Python"):
        regraft.train(again.data, again, tmp_path / "two", store=store)
    assert not (tmp_path / "two").exists()
    second = regraft.train(make_arrays(store), again, tmp_path / "two", store=store)
    assert second.metrics["validation"] == run.metrics["validation"]
    assert re.search(r"regraft\.train\(data, recipe, .*one", (run.path / "report.html").read_text())


@pytest.mark.slow
def test_recommend_and_check_name_the_data_as_a_recipe_does(
    table: Path, network_file: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    recipe = Recipe(image_size=32, head=HeadSpec(pooling="max"))
    networks = [str(network_file)]
    arrays = regraft.recommend(make_arrays(store), recipe, backbones=networks, store=store)
    settings = f"backbone={networks[0]!r}, image_size=32, head=regraft.HeadSpec(pooling='max')"
    assert arrays.command == f"regraft.train(data, regraft.Recipe({settings}))"
    words = shlex.split(regraft.recommend(read_table(table), backbones=networks, store=store).command)
    assert words[:3] == ["regraft", "train", str(table)]
    assert words[words.index("--root") + 1] == str(table.parents[1] / "images")
    assert words[words.index("--target") + 1] == "label"
    findings = regraft.check(make_arrays(store), labels=False, store=store).findings
    assert findings.data == "python:arrays"


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        (Recipe(root="images"), "--root"),
        (Recipe(image=("file",), root="images"), "--image, --root"),
        (Recipe(target=("label",)), "--target"),
    ],
)
def test_options_of_tables_are_refused_for_a_folder(recipe: Recipe, options: str, photos: Path) -> None:
    with pytest.raises(regraft.UsageError, match=f"^{options}: expected a table"):
        Catalog.open(photos, recipe)
