"""A review of labels is applied to a copy: the originals stay, and what does not fit is named by its row."""

import csv
import os
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from regraft.cli import main
from regraft.data.catalog import Catalog
from regraft.errors import DataError, UsageError
from regraft.pipeline.apply_review import apply_review
from regraft.recipe import Recipe
from regraft.system.console import SILENT


def write_image(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def photos(tmp_path):
    """Write train and test folders of two classes, with two files of one name in both classes."""
    names = ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png", "train/dog/old/3.png", "test/cat/1.png",
             "test/dog/9.png"]  # fmt: skip
    for number, name in enumerate(names):
        write_image(tmp_path / "photos" / name, number)
    return tmp_path / "photos"


def write_review(folder, *rows):
    path = folder / "review.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "decision", "label"), *rows])
    return path


def apply(data, review, out, **recipe):
    return apply_review(data, review, out, Recipe(**recipe), reporter=SILENT)


def list_files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def snapshot(folder):
    return {name: (folder / name).read_bytes() for name in list_files(folder)}


def test_a_folder_gets_links_in_the_same_parts(photos, tmp_path):
    before = snapshot(photos)
    review = write_review(
        tmp_path,
        ("train/cat/1.png", "relabel", "dog"),
        ("train/cat/2.png", "drop", ""),
        ("train/dog/old/3.png", "relabel", "cat"),
        ("test/cat/1.png", "keep", ""),
    )
    result = apply(photos, review, tmp_path / "out")
    assert (result.kept, result.relabelled, result.dropped, result.images) == (1, 2, 1, 5)
    assert list_files(tmp_path / "out") == [
        "test/cat/1.png",
        "test/dog/9.png",
        "train/cat/old/3.png",
        "train/dog/1-from-cat.png",
        "train/dog/1.png",
    ]
    assert snapshot(photos) == before
    moved = tmp_path / "out" / "train" / "dog" / "1-from-cat.png"
    assert moved.read_bytes() == before["train/cat/1.png"]
    assert moved.is_symlink()
    catalog = Catalog.from_folder(tmp_path / "out", reporter=SILENT)
    assert [catalog.count_samples(part) for part in ("train", "test")] == [[1, 2], [1, 1]]


@pytest.mark.parametrize("missing", [("symlink",), ("symlink", "link")])
def test_without_symbolic_links_there_are_hard_links_or_copies(photos, tmp_path, monkeypatch, missing):
    def refuse(*_, **__):
        raise OSError(1, "not permitted")

    for name in missing:
        monkeypatch.setattr(os, name, refuse)
    apply(photos, write_review(tmp_path, ("train/cat/1.png", "drop", "")), tmp_path / "out")
    copied = tmp_path / "out" / "train" / "cat" / "2.png"
    assert copied.read_bytes() == (photos / "train/cat/2.png").read_bytes()
    assert copied.samefile(photos / "train/cat/2.png") == (len(missing) == 1)
    assert not copied.is_symlink()


def test_links_to_files_that_cannot_be_written_are_made(photos, tmp_path):
    for path in photos.rglob("*.png"):
        path.chmod(0o444)
    review = write_review(tmp_path, ("train/cat/1.png", "keep", ""))
    assert apply(photos, review, tmp_path / "out").images == 6


def test_refused_files_can_be_reviewed_too(photos, tmp_path):
    """The same bytes in two classes are refused by training; the review says which class is right."""
    shutil.copy(photos / "train/cat/2.png", photos / "train/dog/copy.png")
    assert len(Catalog.from_folder(photos, reporter=SILENT).refused) == 2
    apply(photos, write_review(tmp_path, ("train/dog/copy.png", "drop", "")), tmp_path / "out")
    catalog = Catalog.from_folder(tmp_path / "out", reporter=SILENT)
    assert (len(catalog), catalog.refused) == (6, ())


def test_faults_are_named_with_their_rows_and_nothing_is_written(photos, tmp_path):
    review = write_review(
        tmp_path,
        ("train/cat/3.png", "keep", ""),
        ("train/cat/1.png", "relable", "dog"),
        ("train/cat/1.png", "relabel", "dgo"),
        ("train/cat/2.png", "drop", ""),
        ("train/cat/2.png", "keep", ""),
    )
    with pytest.raises(DataError) as raised:
        apply(photos, review, tmp_path / "out")
    text = str(raised.value)
    for part in (
        "row 2: no image 'train/cat/3.png'",
        "row 3: expected keep, relabel, drop",
        'mean "relabel"?',
        "row 4: no class or label 'dgo'",
        'mean "dog"?',
        "another decision in row 5",
    ):
        assert part in text
    assert not (tmp_path / "out").exists()
    assert list_files(tmp_path) == sorted(["review.csv", *(f"photos/{name}" for name in list_files(photos))])


def test_the_output_must_be_new_and_outside_the_data(photos, tmp_path):
    review = write_review(tmp_path)
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        apply(photos, review, tmp_path / "there")
    with pytest.raises(UsageError, match="outside the data"):
        apply(photos, review, photos / "corrected")
    (tmp_path / "wrong.csv").write_text("image,verdict\na,b\n")
    with pytest.raises(UsageError, match="no column decision"):
        apply(photos, tmp_path / "wrong.csv", tmp_path / "out")


def test_names_as_the_page_and_spreadsheets_write_them(tmp_path):
    names = ["=cat/1\u202e.png", "=cat/2.png", "dog/1.png"]
    for number, name in enumerate(names):
        write_image(tmp_path / "photos" / name, number)
    review = write_review(
        tmp_path, ("'=cat/1\\u202e.png", "relabel", "dog"), ("dog/1.png", "relabel", "'=cat")
    )
    assert apply(tmp_path / "photos", review, tmp_path / "out").relabelled == 2
    assert list_files(tmp_path / "out") == ["=cat/1.png", "=cat/2.png", "dog/1\u202e.png"]


@pytest.fixture
def table(tmp_path):
    """Write a table as spreadsheets do: BOM, semicolons, a line break in a cell, a blank row."""
    for number in range(5):
        write_image(tmp_path / "data" / f"{number}.png", number)
    text = (
        "\ufefffile;kind;note\r\n"
        '0.png;cat;"two\r\nlines"\r\n'
        "1.png;cat;\r\n"
        "\r\n"
        "./2.png;dog;x\r\n"
        "3.png;dog;'quoted'\r\n"
        '"4.png";cat;"1;2"\r\n'
    )
    (tmp_path / "data" / "table.csv").write_bytes(text.encode())
    return tmp_path / "data" / "table.csv", text


COLUMNS = {"image": ("file",), "target": ("kind",)}


def test_a_table_is_copied_with_other_cells_as_they_were(table, tmp_path):
    path, text = table
    review = write_review(tmp_path, ("1.png", "relabel", "dog"), ("3.png", "drop", ""), ("4.png", "keep", ""))
    out = tmp_path / "data" / "corrected.csv"
    result = apply(path, review, out, **COLUMNS)
    assert (result.images, result.relabelled) == (4, 1)
    expected = text.replace("1.png;cat;\r\n", "1.png;dog;\r\n").replace("3.png;dog;'quoted'\r\n", "")
    assert out.read_bytes().decode() == expected
    assert path.read_bytes().decode() == text
    catalog = Catalog.open(out, Recipe(**COLUMNS))
    assert [catalog.describe_target(sample) for sample in catalog.samples] == ["cat", "dog", "dog", "cat"]


def test_a_table_of_another_format_is_refused(table, tmp_path):
    with pytest.raises(UsageError, match=r"Expected a table like .*out.csv"):
        apply(table[0], write_review(tmp_path), tmp_path / "out", **COLUMNS)


def test_an_image_with_two_doubtful_labels_is_dropped_for_one_of_them(tmp_path):
    for number in range(4):
        write_image(tmp_path / "data" / f"{number}.png", number)
    path = tmp_path / "data" / "table.csv"
    path.write_text("file,tags\n0.png,a|b\n1.png,a\n2.png,b\n3.png,a|b\n")
    review = write_review(
        tmp_path,
        ("0.png", "keep", ""),
        ("0.png", "drop", ""),
        ("3.png", "relabel", "a"),
        ("3.png", "keep", ""),
        ("3.png", "relabel", "b"),
    )
    settings = {"image": ("file",), "target": ("tags",), "separator": "|"}
    apply(path, review, tmp_path / "data" / "out.csv", **settings)
    assert (tmp_path / "data" / "out.csv").read_text() == "file,tags\n1.png,a\n2.png,b\n3.png,\n"


@pytest.mark.parametrize(
    ("header", "rows", "recipe", "expected"),
    [
        ("file,tags", ["0.png,cat|indoors", "1.png,indoors"], {"separator": "|"}, ["indoors", "indoors|cat"]),
        (
            "file,tags",
            ["0.png,\"['cat', 'indoors']\"", "1.png,\"['indoors']\""],
            {},
            ["['indoors']", "\"['indoors', 'cat']\""],
        ),
        ("file,cat,indoors", ["0.png,1,1", "1.png,0,1"], {"target": ("cat", "indoors")}, ["0,1", "1,1"]),
        (
            "file,cat,indoors",
            ["0.png,True,True", "1.png,False,True"],
            {"target": ("cat", "indoors")},
            ["False,True", "True,True"],
        ),
    ],
)
def test_labels_are_added_and_taken_away_as_the_table_writes_them(tmp_path, header, rows, recipe, expected):
    for number in range(4):
        write_image(tmp_path / "data" / f"{number}.png", number)
    last = {"tags": ["2.png,", "3.png,"], "cat": ["2.png,0,0", "3.png,1,0"]}[header.split(",")[1]]
    if rows[0].endswith('"'):
        last = ["2.png,[]", "3.png,\"['cat']\""]
    path = tmp_path / "data" / "table.csv"
    path.write_text("\n".join([header, *rows, *last]) + "\n")
    review = write_review(tmp_path, ("0.png", "relabel", "cat"), ("1.png", "relabel", "cat"))
    settings = {"image": ("file",), "target": ("tags",), "task": "multilabel", **recipe}
    apply(path, review, tmp_path / "data" / "out.csv", **settings)
    lines = (tmp_path / "data" / "out.csv").read_text().splitlines()
    assert [line.split(",", 1)[1] for line in lines[1:3]] == expected
    assert lines[3:] == last


def test_a_parquet_table_keeps_its_types(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for number in range(4):
        write_image(tmp_path / f"{number}.png", number)
    columns = {
        "file": [f"{number}.png" for number in range(4)],
        "kind": [3, 3, 7, 7],
        "more": [[1], [], [2], None],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "table.parquet")
    review = write_review(tmp_path, ("0.png", "relabel", "7"), ("1.png", "drop", ""))
    apply(tmp_path / "table.parquet", review, tmp_path / "out.parquet", task="multiclass", **COLUMNS)
    written = parquet.read_table(tmp_path / "out.parquet")
    assert written.to_pydict() == {
        "file": ["0.png", "2.png", "3.png"], "kind": [7, 7, 7], "more": [[1], [2], None],
    }  # fmt: skip
    assert written.schema.field("kind").type == pyarrow.int64()


def test_the_command(photos, tmp_path, monkeypatch, capsys):
    review = write_review(tmp_path, ("train/cat/1.png", "relabel", "dog"))
    monkeypatch.setenv("REGRAFT_NATIVE_LOGS", "1")

    def run(*arguments):
        monkeypatch.setattr(
            sys, "argv", ["regraft", "check", str(photos), "--apply", str(review), *arguments]
        )
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, capsys.readouterr().err

    code, error = run("-o", str(tmp_path / "out"))
    assert code in (0, None)
    assert "1 relabelled, 0 dropped, 0 kept: 6 images" in error
    code, error = run("-o", str(tmp_path / "out"))
    assert code == 2
    assert "exists already" in error
    code, error = run()
    assert code == 2
    assert "-o OUT" in error
