"""One rule says which files are images, for every command; what is left out is shown."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.images import write_noise
from helpers.reporters import Recorder
from PIL import Image

from regraft.data.catalog import Catalog
from regraft.data.folders import list_all_images, list_folder, list_images
from regraft.errors import DataError
from regraft.system.console import SILENT


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images each, no two alike."""
    return write_noise(tmp_path, ("cat", "dog"), 2)


def add_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(len(str(path)) + sum(map(ord, path.name))).integers(
        0, 256, (8, 8, 3), np.uint8
    )
    Image.fromarray(pixels).save(path, "PNG")


def names(root: Path) -> list[str]:
    return [file.relative_to(root).as_posix() for file in list_images(root, reporter=SILENT)]


@pytest.mark.parametrize(
    "name", ["1f3a9c", "photo.jpg?size=large", "a.jpg_large", "b.dat", "c.png.bak", "d.PNG"]
)
def test_whatever_trains_is_predicted_and_embedded(root: Path, name: str) -> None:
    add_image(root / "cat" / name)
    (root / "cat" / "notes.txt").write_text("a tabby")
    trained = [sample.path for sample in list_folder(root, reporter=SILENT).samples]
    assert f"cat/{name}" in trained
    assert names(root) == trained
    assert [sample.path for sample in list_all_images(root, reporter=SILENT).samples] == trained


@pytest.mark.parametrize("name", ["broken.jpg", "README", "empty.png"])
def test_what_trains_refuses_is_refused_and_not_passed_over(root: Path, name: str) -> None:
    (root / "cat" / name).write_text("" if "empty" in name else "no image")
    assert f"cat/{name}" in [item.image for item in list_folder(root, reporter=SILENT).refused]
    assert f"cat/{name}" in [item.image for item in list_all_images(root, reporter=SILENT).refused]
    assert f"cat/{name}" in names(root)


def test_what_a_folder_for_prediction_holds_besides_is_reported(root: Path) -> None:
    for name in ("a.txt", "b.txt", "c.csv", ".DS_Store"):
        (root / name).write_text("x")
    reporter = Recorder()
    assert len(list_images(root, reporter=reporter)) == 4
    assert reporter.lines == [
        f"{root}: 1 hidden or system file or folder, such as .DS_Store, was left out.",
        f"{root}: Ignored files, not images that regraft reads: 1 .csv, 2 .txt.",
    ]
    assert reporter.warnings == []


def test_a_folder_without_images_is_reported(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    reporter = Recorder()
    assert list_images(tmp_path, reporter=reporter) == []
    assert reporter.warnings == [f"No images in {tmp_path}."]


def list_targets(root: Path) -> dict[str, tuple[str, str]]:
    listing = list_all_images(root, reporter=SILENT)
    return {s.path: (listing.outputs[s.target], s.part) for s in listing.samples}  # type: ignore[index]


def test_images_outside_class_folders_are_listed_without_a_class(root: Path) -> None:
    add_image(root / "stray.png")
    add_image(root / "hash")
    targets = list_targets(root)
    assert targets["stray.png"] == targets["hash"] == ("", "")
    assert targets["cat/0.png"] == ("cat", "")
    assert list_all_images(root, reporter=SILENT).notes == (
        "2 images without a class: outside any class folder.",
    )


def test_images_of_a_part_without_classes_keep_their_part(root: Path) -> None:
    for name in ("cat", "dog"):
        shutil.move(root / name, root / "train" / name)
    add_image(root / "test" / "7.png")
    add_image(root / "cover.png")
    assert list_targets(root) == {
        "cover.png": ("", ""),
        "test/7.png": ("", "test"),
        **{f"train/{name}/{n}.png": (name, "train") for name in ("cat", "dog") for n in (0, 1)},
    }


def test_images_in_unclear_folders_are_listed_without_a_class(root: Path) -> None:
    for fold in ("fold_1", "fold_2"):
        for name in ("cat", "dog"):
            shutil.copytree(root / name, root / fold / name)
    for name in ("cat", "dog"):
        shutil.rmtree(root / name)
    listing = list_all_images(root, reporter=SILENT)
    assert (listing.outputs, len(listing.samples)) == (("",), 8)
    assert "neither for classes nor for parts" in listing.notes[0]


def test_copies_and_links_have_a_row_each_where_nothing_is_learnt(root: Path) -> None:
    shutil.copy(root / "cat" / "0.png", root / "dog" / "again.png")
    (root / "cat" / "link.png").symlink_to(root / "cat" / "1.png")
    assert len(list_targets(root)) == 6
    assert len(list_folder(root, reporter=SILENT).samples) == 3


def test_notes_are_shown_when_a_folder_is_listed(root: Path) -> None:
    (root / "bear").mkdir()
    (root / "cat" / "notes.txt").write_text("x")
    add_image(root / "cat" / "kittens" / "1.png")
    add_image(root / "stray.png")
    reporter = Recorder()
    catalog = Catalog.from_folder(root, reporter=reporter)
    assert reporter.lines == list(catalog.notes)
    assert len(reporter.lines) == 4


def test_many_notes_are_counted_after_the_first(root: Path) -> None:
    for number in range(20):
        (root / f"link{number}").symlink_to(root / "cat")
    reporter = Recorder()
    Catalog.from_folder(root, reporter=reporter)
    assert len(reporter.lines) == 13
    assert reporter.lines[-1] == "... and 8 more notes on the data."


def test_notes_on_rows_are_shown_when_a_table_is_listed(root: Path) -> None:
    table = {"file": ["cat/0.png", "cat/0.png", "dog/1.png"], "kind": ["a", "a", "b"]}
    reporter = Recorder()
    Catalog.from_table(table, image="file", target="kind", root=root, reporter=reporter)
    assert reporter.lines == ["1 row repeats an earlier one; left out."]


FORMATS = {
    "pgm": (b"P5\n4 4\n255\n" + bytes(16), "PGM"),
    "ppm": (b"P6 # by hand\n4 4 255\n" + bytes(48), "PPM"),
    "pbm": (b"P1\n2 2\n0 1\n1 0\n", "PBM"),
    "dcm": (bytes(128) + b"DICM" + bytes(100), "DICOM"),
    "nii": (b"\x5c\x01" + bytes(342) + b"n+1\0" + bytes(100), "NIfTI"),
    "fits": (b"SIMPLE  =                    T", "FITS"),
    "qoi": (b"qoif" + bytes(30), "QOI"),
}


@pytest.mark.parametrize("extension", FORMATS)
def test_classes_of_a_format_that_is_not_read_are_refused_by_the_format_s_name(
    root: Path, extension: str
) -> None:
    content, format_name = FORMATS[extension]
    (root / "scan").mkdir()
    (root / "scan" / f"1.{extension}").write_bytes(content)
    catalog = Catalog.from_folder(root)
    (refused,) = catalog.refused
    assert (refused.image, refused.code) == (f"scan/1.{extension}", "unsupported_format")
    assert format_name in refused.detail
    assert catalog.require_learnable().notes == ("The class scan has no usable image and was left out.",)
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")
    with pytest.raises(DataError, match=f"No images.*{format_name}"):
        Catalog.from_folder(root)


def test_classes_of_unknown_files_are_named_where_no_image_is_left(tmp_path: Path) -> None:
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "1.tga").write_bytes(bytes(range(200)))
    with pytest.raises(DataError, match=r"No images.*not images that regraft reads: 1 \.tga"):
        Catalog.from_folder(tmp_path)


def test_a_sentence_about_texts_such_as_p5_is_no_image(root: Path) -> None:
    for number, text in enumerate(("P5 is a road", "P1", "SIMPLE is better")):
        (root / "cat" / f"{number}.txt").write_text(text)
    assert Catalog.from_folder(root).refused == ()
