"""Samples with the same bytes: contradictions are refused, and a link is not a second image."""

import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from helpers.images import write_noise

from regraft.data.catalog import Catalog


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of three images each, no two alike."""
    return write_noise(tmp_path, ("cat", "wolf"), 3)


def refused(catalog):
    return {item.image: (item.code, item.detail) for item in catalog.refused}


def test_one_image_in_two_class_folders_is_learnt_in_neither(root):
    shutil.copy(root / "cat" / "1.png", root / "wolf" / "again.png")
    catalog = Catalog.from_folder(root)
    assert refused(catalog) == {
        "cat/1.png": ("conflicting_copies", "the same bytes as wolf/again.png, which is wolf"),
        "wolf/again.png": ("conflicting_copies", "the same bytes as cat/1.png, which is cat"),
    }
    assert len(catalog) == 5


def test_a_copy_in_its_own_class_is_kept(root):
    shutil.copy(root / "cat" / "1.png", root / "cat" / "again.png")
    catalog = Catalog.from_folder(root)
    assert (len(catalog), refused(catalog)) == (7, {})


def test_rows_of_one_image_under_two_names_contradict_each_other(root):
    shutil.copy(root / "cat" / "1.png", root / "copy.png")
    table = {"file": ["cat/0.png", "cat/1.png", "wolf/0.png", "copy.png"], "kind": ["a", "a", "b", "b"]}
    catalog = Catalog.from_table(table, image="file", target="kind", root=root)
    said = refused(catalog)
    assert {image: code for image, (code, _) in said.items()} == dict.fromkeys(
        ("cat/1.png", "copy.png"), "conflicting_copies"
    )
    assert said["copy.png"][1].startswith("row 5: the same bytes as cat/1.png")


def test_two_measurements_of_one_image_are_no_contradiction(root):
    shutil.copy(root / "cat" / "1.png", root / "copy.png")
    table = {"file": ["cat/1.png", "wolf/0.png", "copy.png"], "weight": [1.5, 2.25, 1.75]}
    catalog = Catalog.from_table(table, image="file", target="weight", root=root)
    assert (catalog.task, len(catalog)) == ("regression", 3)


def test_links_to_one_file_count_once(root):
    (root / "cat" / "symbolic.png").symlink_to(root / "cat" / "0.png")
    os.link(root / "cat" / "0.png", root / "cat" / "hard.png")
    catalog = Catalog.from_folder(root)
    assert len(catalog) == 6
    assert "2 files are links to images that are listed already; each image counts once." in catalog.notes
    table = {"file": ["cat/0.png", "cat/hard.png", "wolf/1.png"], "kind": ["a", "a", "b"]}
    listed = Catalog.from_table(table, image="file", target="kind", root=root)
    assert [sample.path for sample in listed.samples] == ["cat/0.png", "wolf/1.png"]
    assert "1 row names a link to a file that an earlier row names; each image counts once." in listed.notes


def test_a_link_into_another_class_is_a_contradiction(root):
    (root / "wolf" / "link.png").symlink_to(root / "cat" / "0.png")
    assert set(refused(Catalog.from_folder(root))) == {"cat/0.png", "wolf/link.png"}


def test_class_folders_whose_names_differ_in_capitals_only_are_noted(root):
    copy_class(root, "cat", "CAT")
    notes = Catalog.from_folder(root).notes
    assert [note for note in notes if "look alike" in note] == [
        "The class folders 'CAT' and 'cat' have names that look alike, and count as different classes."
    ]


@pytest.mark.parametrize("name", ["café", "Ångström", "가나"])
def test_composed_and_decomposed_names_are_one_class(root, name):
    composed, other = unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)
    copy_class(root, "cat", composed)
    copy_class(root, "wolf", other)
    catalog = Catalog.from_folder(root)
    assert catalog.outputs == tuple(sorted(("cat", "wolf", composed)))
    assert [s.target for s in catalog.samples].count(catalog.outputs.index(composed)) == 6
    assert all((root / sample.path).is_file() for sample in catalog.samples)


def test_parts_may_write_a_class_composed_or_decomposed(root):
    for part, form in (("train", "NFC"), ("test", "NFD")):
        for source, name in (("cat", "café"), ("wolf", "wolf")):
            copy_class(root, source, f"{part}/{unicodedata.normalize(form, name)}")
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "wolf")
    catalog = Catalog.from_folder(root).require_learnable()
    assert catalog.outputs == ("café", "wolf")
    assert {part: catalog.count_samples(part) for part in ("train", "test")} == {
        "train": [3, 3],
        "test": [3, 3],
    }


def copy_class(root, source, name):
    """Copy a class folder, and make each image one of its own."""
    shutil.copytree(root / source, root / name)
    for number, file in enumerate(sorted((root / name).iterdir())):
        file.write_bytes(file.read_bytes() + f"{name} {number}".encode())
