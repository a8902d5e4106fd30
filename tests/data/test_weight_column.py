"""Weights of images: read from tables and arrays, refused by row, in the digest only where there are some."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.sources import name_data
from regraft.errors import DataError, UsageError
from regraft.recipe import Recipe


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number in range(8):
        Image.new("RGB", (8, 8), (30 * number, 7, 7)).save(tmp_path / f"{number}.png")
    return tmp_path


def list_table(root: Path, cells: list[Any], **options: Any) -> Catalog:
    files = [f"{number}.png" for number in range(len(cells))]
    labels = [("cat", "dog")[number % 2] for number in range(len(cells))]
    table = {"file": files, "label": labels, "sure": cells}
    return Catalog.from_table(table, image="file", target="label", root=root, weight="sure", **options)


def get_weights(catalog: Catalog) -> list[float]:
    return [sample.weight for sample in catalog.samples]


def test_a_column_holds_the_weights(root: Path) -> None:
    catalog = list_table(root, [1, 0.5, "2", 0, 1e-3, "1.50"])
    assert get_weights(catalog) == [1, 0.5, 2, 0, 0.001, 1.5]
    note = "Weights of images in training: sure, 0 to 2. In scores all images count alike."
    assert note in catalog.notes


def test_decimal_commas_are_read(root: Path) -> None:
    (root / "table.csv").write_text("file;label;sure\n0.png;cat;0,5\n1.png;dog;1,25\n")
    catalog = Catalog.from_table(root / "table.csv", image="file", target="label", weight="sure")
    assert get_weights(catalog) == [0.5, 1.25]


def test_a_bad_weight_is_refused_by_row(root: Path) -> None:
    catalog = list_table(root, [1, -0.5, "heavy", None, 1, float("inf"), 2, 3])
    assert {item.image: (item.code, item.detail) for item in catalog.refused} == {
        "1.png": ("bad_weight", "row 3: Column sure holds '-0.5', which is below 0"),
        "2.png": ("bad_weight", "row 4: Column sure holds 'heavy' where a number is expected"),
        "3.png": ("bad_weight", "row 5: Column sure has no value"),
        "5.png": ("bad_weight", "row 7: Column sure holds 'inf' where a number is expected"),
    }
    assert get_weights(catalog) == [1, 1, 2, 3]


def test_rows_that_contradict_each_other_are_refused(root: Path) -> None:
    table = {"file": ["0.png", "0.png", "1.png", "2.png"], "label": [*"aaba"], "sure": [1, 2, 1, 1]}
    catalog = Catalog.from_table(table, image="file", target="label", root=root, weight="sure")
    assert {(item.image, item.code) for item in catalog.refused} == {("0.png", "conflicting_rows")}
    assert "with different weights" in catalog.refused[0].detail


def test_weights_that_are_all_zero_are_an_error(root: Path) -> None:
    with pytest.raises(DataError, match="the weight zero for all of 4 training images"):
        list_table(root, [0, 0, 0, 0]).require_learnable()
    with pytest.raises(DataError, match=r"Classes without a training image: dog\. .*of a weight above 0"):
        list_table(root, [1, 0, 1, 0]).require_learnable()


def test_the_digest_holds_weights_only_where_there_are_some(root: Path) -> None:
    weighted, alike = list_table(root, [1, 2, 1, 1]), list_table(root, [1, 1, 1, 1])
    plain = replace(alike, samples=tuple(replace(sample, weight=1.0) for sample in weighted.samples))
    lines = sorted(f"{s.digest} {('cat', 'dog')[int(str(s.target))]} " for s in plain.samples)
    expected = hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
    assert alike.digest == plain.digest == expected  # as before there were weights
    assert weighted.digest != alike.digest


def test_a_recipe_names_the_column(root: Path) -> None:
    (root / "table.csv").write_text("file,label,sure\n0.png,cat,2\n1.png,dog,3\n")
    recipe = Recipe(image=("file",), target=("label",), weight="sure")
    catalog = Catalog.open(root / "table.csv", recipe)
    assert get_weights(catalog) == [2, 3]
    assert name_data(catalog, Recipe()).weight == "sure"
    (root / "recipe.toml").write_text(recipe.to_toml())
    assert Recipe.from_toml(root / "recipe.toml") == recipe
    with pytest.raises(UsageError, match="sure"):
        Catalog.open(root / "table.csv", replace(recipe, weight="surely"))


def test_a_weight_column_of_a_folder_is_a_mistake(root: Path) -> None:
    with pytest.raises(UsageError, match="--weight: expected a table"):
        Catalog.open(root, Recipe(weight="sure"))


def test_arrays_have_weights_too(tmp_path: Path) -> None:
    pixels = np.arange(4 * 48, dtype=np.uint8).reshape(4, 4, 4, 3)
    options: dict[str, Any] = {"store": tmp_path, "names": ["a", "b"]}
    catalog = Catalog.from_arrays(pixels, [0, 1, 0, 1], weights=np.array([1, 2, 0.5, 0]), **options)
    assert get_weights(catalog) == [1, 2, 0.5, 0]
    with pytest.raises(UsageError, match=r"as many weights as images\. Received: 3 and 4"):
        Catalog.from_arrays(pixels, [0, 1, 0, 1], weights=[1, 2, 3], **options)
    with pytest.raises(DataError, match="image 2 holds '-1', which is below 0"):
        Catalog.from_arrays(pixels, [0, 1, 0, 1], weights=[1, 2, -1, 3], **options)
