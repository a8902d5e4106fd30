"""Where a table names files that do not exist, it is said where they are."""

import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.errors import DataError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "images").mkdir(parents=True)
    for number in range(6):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "data" / "images" / f"Img{number}.jpg")
    return tmp_path / "data"


def refuse(root: Path, paths: list[str]) -> str:
    table = {"file": paths, "kind": ["a", "b"] * (len(paths) // 2)}
    with pytest.raises(DataError, match="more than half") as caught:
        Catalog.from_table(table, image="file", target="kind", root=root)
    return str(caught.value).splitlines()[-1]


@pytest.mark.parametrize(
    ("pattern", "way"),
    [
        ("images/Img{}", "with .jpg added to the name"),
        ("images/Img{}.png", "with .jpg instead of .png"),
        ("images/Img{}.JPG", "with .jpg instead of .JPG"),
        ("images/img{}.jpg", "in other capitals"),
        ("IMAGES/Img{}.jpg", "in other capitals"),
        ("Img{}.jpg", "in the folder 'images'"),
        ("pictures/Img{}.jpg", "in the folder 'images'"),
    ],
)
def test_an_extension_the_case_or_a_folder_that_finds_the_files_is_named(
    root: Path, pattern: str, way: str
) -> None:
    hint = refuse(root, [pattern.format(number) for number in range(6)])
    assert hint == f"Missing files were found {way}: 6 of 6 looked for."


def test_a_folder_beside_that_of_the_table_is_named(root: Path) -> None:
    (root / "tables").mkdir()
    hint = refuse(root / "tables", [f"images/Img{number}.jpg" for number in range(6)])
    assert hint == "Missing files were found in the folder '..': 6 of 6 looked for."
    hint = refuse(root / "tables", [f"Img{number}.jpg" for number in range(6)])
    assert hint == "Missing files were found in the folder '../images': 6 of 6 looked for."


def test_where_a_few_are_missing_a_note_tells_it(root: Path) -> None:
    table = {"file": [*(f"images/Img{n}.jpg" for n in range(5)), "images/Img5"], "kind": list("ababab")}
    catalog = Catalog.from_table(table, image="file", target="kind", root=root)
    assert catalog.notes == ("Missing files were found with .jpg added to the name: 1 of 1 looked for.",)


def test_names_of_which_several_files_could_be_meant_give_no_hint(root: Path) -> None:
    shutil.copytree(root / "images", root / "copies")
    assert "found" not in refuse(root, [f"Img{number}.jpg" for number in range(6)])


def test_files_that_are_nowhere_give_no_hint(root: Path) -> None:
    assert "found" not in refuse(root, [f"else{number}.bmp" for number in range(4)])


@pytest.mark.parametrize("name", ["café", "Ångström", "가나"])
def test_paths_and_labels_are_one_name_composed_or_decomposed(root: Path, name: str) -> None:
    composed, other = unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)
    for number, form in enumerate((composed, other)):
        (root / "images" / f"Img{number}.jpg").rename(root / "images" / f"{number}{form}.jpg")
    table = {
        "file": [f"images/0{other}.jpg", f"images/1{composed}.jpg", "images/Img2.jpg"],
        "kind": [composed, other, "b"],
    }
    catalog = Catalog.from_table(table, image="file", target="kind", root=root)
    assert len(catalog) == 3
    assert catalog.outputs == tuple(sorted((composed, "b")))
    assert all((root / sample.path).is_file() for sample in catalog.samples)
