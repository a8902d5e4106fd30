"""16-bit files of 12 bits in every use: they are what files of 8 bits with the same pixels are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from helpers.deep_images import make_png, scale
from PIL import Image

import regraft
from regraft.recipe import Recipe


class Twins(NamedTuple):
    """A folder of 12-bit images, and one of 8 bits with the same pixels."""

    deep: Path
    flat: Path

    def list_files(self) -> list[list[str]]:
        return [sorted(str(file) for file in folder.rglob("*.png")) for folder in self]


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Twins:
    folder = tmp_path_factory.mktemp("twins")
    for number in range(12):
        samples = np.random.default_rng(number).integers(0, 4096, (32, 32, 3)).astype(np.uint16)
        samples[..., number % 2] //= 3
        name = f"{('red', 'green')[number % 2]}/{number:02}.png"
        for part in ("deep", "flat"):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "deep" / name).write_bytes(make_png(samples))
        Image.fromarray(scale(samples, 12).astype(np.uint8)).save(folder / "flat" / name)
    return Twins(folder / "deep", folder / "flat")


@pytest.fixture(scope="module")
def recipe(network_file: Path) -> Recipe:
    return Recipe(backbone=str(network_file), phases=(), precision="f32", depth=12)


@pytest.mark.slow
def test_a_model_of_12_bit_files_answers_them_as_their_pixels(
    twins: Twins, recipe: Recipe, tmp_path: Path
) -> None:
    run = regraft.train(twins.deep, recipe, tmp_path / "run", store=tmp_path / "store")
    assert json.loads((run.path / "manifest.json").read_text())["pixels"]["depth"] == 12
    assert Recipe.from_toml(run.path / "recipe.toml").depth == 12
    deep, flat = (
        [answer.values for answer in regraft.load(run.path).predict(files)] for files in twins.list_files()
    )
    assert deep == flat
    scores = [regraft.load(run.path).evaluate(folder)[0].scores for folder in twins]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_features_of_12_bit_files_are_those_of_their_pixels(
    twins: Twins, recipe: Recipe, tmp_path: Path
) -> None:
    tables = []
    for number, folder in enumerate(twins):
        regraft.embed(folder, recipe, tmp_path / f"{number}.npz", store=tmp_path / "store")
        with np.load(tmp_path / f"{number}.npz") as table:
            tables.append(table["features"])
    assert (tables[0] == tables[1]).all()
    embedder = regraft.ImageEmbedder(recipe.backbone, depth=12, precision="f32", store=tmp_path / "store")
    assert (embedder.transform(twins.list_files()[0]) == tables[0][:, :]).all()


def test_features_without_the_depth_are_others(twins: Twins, recipe: Recipe, tmp_path: Path) -> None:
    paths = twins.list_files()[0]
    options = {"precision": "f32", "store": tmp_path / "store"}
    deep, plain = (
        regraft.ImageEmbedder(recipe.backbone, depth=depth, **options).transform(paths) for depth in (12, 16)
    )
    assert not np.allclose(deep, plain)


@pytest.mark.slow
def test_pixels_of_phases_are_those_of_the_depth(twins: Twins, recipe: Recipe, tmp_path: Path) -> None:
    from dataclasses import replace

    from regraft.data.catalog import Catalog
    from regraft.features.store import Store, pixel_key

    phases = (regraft.Phase("all", epochs=1, batch_size=4),)
    store = tmp_path / "store"
    run = regraft.train(twins.deep, replace(recipe, phases=phases), tmp_path / "run", store=store)
    digests = Catalog.from_folder(twins.deep).digests
    size = regraft.load(run.path).image_size
    assert not Store(store).entries(pixel_key(size, 12)).find_missing(digests)
    assert Store(store).entries(pixel_key(size)).find_missing(digests)
