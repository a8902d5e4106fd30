"""Folders of parts are told from class folders by words and contents, never by a guess."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.parts import read_part, read_parts
from regraft.errors import DataError


def fill(root: Path, *folders: str) -> Path:
    """Put three images, no two alike, into each folder."""
    rng = np.random.default_rng(len(folders))
    for folder in folders:
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(3):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(root / folder / f"{number}.png")
    return root


def count(catalog: Catalog) -> dict[str, list[int]]:
    parts = {sample.part for sample in catalog.samples}
    return {part: catalog.count_samples(part) for part in sorted(parts)}


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("Training set", "train"),
        ("trainSet", "train"),
        ("TRAIN2017", "train"),
        ("01_train_images", "train"),
        ("val2017", "validation"),
        ("dev", "validation"),
        ("Evaluation-Data", "validation"),
        ("testset", "test"),
        ("test1", "test"),
        ("holdout", "test"),
    ],
)
def test_a_part_is_named_by_a_word(name: str, part: str) -> None:
    assert read_part(name) == part


@pytest.mark.parametrize(
    "name", ["trained", "invalid", "test_track", "train station", "fold_1", "images", "2017", "", "attest"]
)
def test_a_word_that_only_resembles_a_part_is_none(name: str) -> None:
    assert read_part(name) == ""


def test_a_word_that_all_names_share_says_nothing() -> None:
    assert read_parts(["seg_train", "seg_test"]) == {"seg_train": "train", "seg_test": "test"}
    assert read_parts(["my-flowers-dev", "my-flowers-train"]).keys() == {"my-flowers-dev", "my-flowers-train"}
    assert read_parts(["train_steam", "train_diesel"]) == {}


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        ("training_set", "test_set", "test"),
        ("seg_train", "seg_test", "test"),
        ("train", "dev", "validation"),
        ("train", "eval", "validation"),
        ("Train Images", "Holdout Images", "test"),
    ],
)
def test_folders_that_share_their_classes_are_the_parts_they_say(
    tmp_path: Path, first: str, second: str, part: str
) -> None:
    fill(tmp_path, *(f"{top}/{name}" for top in (first, second) for name in ("cat", "dog")))
    catalog = Catalog.from_folder(tmp_path)
    assert catalog.outputs == ("cat", "dog")
    assert count(catalog) == {"train": [3, 3], part: [3, 3]}
    (note,) = catalog.notes
    assert note.startswith("Parts: ")
    assert f"{first} is train" in note
    assert f"{second} is {part}" in note


def test_wrappers_around_the_classes_of_a_part_are_opened(tmp_path: Path) -> None:
    fill(
        tmp_path, *(f"seg_{part}/seg_{part}/{name}" for part in ("train", "test") for name in ("ice", "sea"))
    )
    assert count(Catalog.from_folder(tmp_path)) == {"train": [3, 3], "test": [3, 3]}


@pytest.mark.parametrize(
    "tops", [("fold_1", "fold_2"), ("site_a", "site_b", "site_c"), ("2019", "2020"), ("train", "unlabelled")]
)
def test_unclear_folders_are_refused_with_both_readings(tmp_path: Path, tops: tuple[str, ...]) -> None:
    fill(tmp_path, *(f"{top}/{name}" for top in tops for name in ("cat", "dog")))
    with pytest.raises(DataError, match="classes or parts") as caught:
        Catalog.from_folder(tmp_path)
    assert f"If the classes are {', '.join(tops)}:" in str(caught.value)
    assert "If the classes are cat, dog: rename" in str(caught.value)


def test_parts_inside_class_folders_are_refused(tmp_path: Path) -> None:
    fill(tmp_path, *(f"{name}/{part}" for name in ("cat", "dog") for part in ("train", "test")))
    with pytest.raises(DataError, match="Put the parts outside"):
        Catalog.from_folder(tmp_path)


def test_flat_parts_are_not_two_classes(tmp_path: Path) -> None:
    fill(tmp_path, "train", "test1")
    with pytest.raises(DataError, match=r"6 images lie outside any class folder \(in test1, train\)"):
        Catalog.from_folder(tmp_path)


@pytest.mark.parametrize("one", ["test1", "val2017", "holdout"])
def test_a_flat_part_beside_train_is_no_class(tmp_path: Path, one: str) -> None:
    fill(tmp_path, "train/cat", "train/dog", one)
    catalog = Catalog.from_folder(tmp_path)
    assert count(catalog) == {"train": [3, 3]}
    assert f"3 images lie outside any class folder (in {one}), and were left out." in catalog.notes


def test_one_more_folder_beside_parts_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog", "seg_pred")
    with pytest.raises(DataError, match="Is 'seg_pred' a class"):
        Catalog.from_folder(tmp_path)


@pytest.mark.parametrize(
    "folders",
    [
        ("n01/images", "n02/images", "n03/images"),  # Tiny ImageNet
        ("valid", "invalid"),
        ("train1", "train2", "train3"),
        ("cat/left", "cat/right", "dog/left", "dog/right", "ape", "bear", "wolf"),  # two of five are divided
        ("cat/a", "cat/b", "dog/c", "dog/d"),
    ],
)
def test_folders_inside_classes_remain_possible_and_are_named(
    tmp_path: Path, folders: tuple[str, ...]
) -> None:
    fill(tmp_path, *folders)
    catalog = Catalog.from_folder(tmp_path)
    assert catalog.outputs == tuple(sorted({folder.split("/")[0] for folder in folders}))
    assert len(catalog) == 3 * len(folders)
    nested = [folder for folder in folders if "/" in folder]
    notes = [f"Images in a folder inside a class folder belong to that class: {', '.join(nested)}."]
    assert list(catalog.notes) == (notes if nested else [])


@pytest.mark.parametrize("wrapper", ["dataset", "archive/images", "x/y/z"])
def test_the_folder_below_a_wrapper_is_named(tmp_path: Path, wrapper: str) -> None:
    fill(tmp_path, f"{wrapper}/cat", f"{wrapper}/dog")
    (tmp_path / "__MACOSX").mkdir()
    with pytest.raises(DataError, match="at least 2 classes") as caught:
        Catalog.from_folder(tmp_path).require_learnable()
    assert f"The class folders may be those of {tmp_path / wrapper}: give that folder." in str(caught.value)
