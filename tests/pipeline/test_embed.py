"""`regraft embed`: features of images in a file, in four formats with the same content."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from regraft import DataError, EnvironmentFault, ImageEmbedder, Recipe, UsageError, embed, train

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """Decode without child processes, which have tests of their own and are slow to start."""


@pytest.fixture
def recipe(network_file: Path) -> Recipe:
    return Recipe(backbone=str(network_file))


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_has_a_row_with_its_class(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    result = embed(photos, recipe, tmp_path / "f.npz")
    assert (result.path, result.images, result.features, result.refused) == (tmp_path / "f.npz", 30, 16, ())
    with np.load(result.path, allow_pickle=False) as file:
        assert sorted(file.files) == ["class", "features", "names", "path"]
        assert file["class"].tolist() == [path.split("/")[0] for path in file["path"].tolist()]
        assert file["names"].tolist() == [f"f{number:04}" for number in range(16)]
        expected = ImageEmbedder(recipe.backbone).transform([photos / path for path in file["path"]])
        np.testing.assert_array_equal(file["features"], expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npz", "photos"]


def test_every_format_holds_the_same(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for ending in (".parquet", ".csv", ".npz", ".npy"):
        embed(photos, recipe, tmp_path / f"f{ending}")
    array = np.load(tmp_path / "f.npy", allow_pickle=False)
    table = parquet.read_table(tmp_path / "f.parquet")
    read = rows(tmp_path / "f.csv")
    names = [f"f{number:04}" for number in range(16)]
    assert table.column_names == list(read[0]) == ["path", "class", *names]
    assert {str(table.schema.field(name).type) for name in names} == {"float"}
    np.testing.assert_array_equal(np.stack([table[name].to_numpy() for name in names], 1), array["features"])
    texts = np.array([[np.float32(row[name]) for name in names] for row in read])
    np.testing.assert_array_equal(texts, array["features"])
    assert table["path"].to_pylist() == [row["path"] for row in read] == array["path"].tolist()
    with np.load(tmp_path / "f.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["features"], array["features"])
        assert file["class"].tolist() == array["class"].tolist() == table["class"].to_pylist()
    assert recipe.backbone in table.schema.metadata[b"regraft"].decode()


def test_parts_of_the_folder_are_a_column(make_photos, recipe: Recipe, tmp_path: Path) -> None:
    for part in ("train", "test"):
        make_photos(f"cut/{part}", each=2)
    embed(tmp_path / "cut", recipe, tmp_path / "f.csv")
    assert {(row["path"].split("/")[0], row["part"]) for row in rows(tmp_path / "f.csv")} == {
        ("train", "train"),
        ("test", "test"),
    }


def test_a_folder_needs_no_class_folders(
    photos: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "red" / "text.jpg").write_text("no image")
    result = embed(photos / "red", recipe, tmp_path / "f.csv")
    assert (result.images, [item.code for item in result.refused]) == (10, ["not_an_image"])
    read = rows(tmp_path / "f.csv")
    assert list(read[0])[:2] == ["path", "f0000"]
    assert read[0]["path"] == "000.png"
    printed = capsys.readouterr().err
    assert "10 images without a class" in printed
    assert "Refused text.jpg: not_an_image" in printed


def test_images_beside_class_folders_have_a_row(
    photos: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move(photos / "red" / "000.png", photos / "1f3a9c")
    assert embed(photos, recipe, tmp_path / "f.csv").images == 30
    classes = {row["path"]: row["class"] for row in rows(tmp_path / "f.csv")}
    assert (classes["1f3a9c"], classes["red/001.png"]) == ("", "red")
    assert "1 image without a class: outside any class folder." in capsys.readouterr().err


def test_images_of_a_part_without_classes_have_a_row(make_photos, recipe: Recipe, tmp_path: Path) -> None:
    make_photos("cut/train", each=2)
    shutil.copytree(make_photos("more", each=2) / "red", tmp_path / "cut" / "test")
    assert embed(tmp_path / "cut", recipe, tmp_path / "f.csv").images == 8
    places = [(row["class"], row["part"]) for row in rows(tmp_path / "f.csv")]
    assert places.count(("", "test")) == 2
    assert places.count(("red", "train")) == 2


def test_folders_that_may_be_classes_or_parts_have_rows_without_a_class(
    make_photos, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in ("fold_1", "fold_2"):
        make_photos(f"folds/{fold}", each=1)
    assert embed(tmp_path / "folds", recipe, tmp_path / "f.csv").images == 6
    assert "class" not in rows(tmp_path / "f.csv")[0]
    assert "neither for classes nor for parts" in capsys.readouterr().err


def test_a_table_needs_no_target(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    lines = ["file,colour", "red/000.png,warm", "blue/000.png,cold", "nowhere.png,cold", "red/001.png,warm"]
    (photos / "table.csv").write_text("\n".join(lines))
    plain = Recipe(backbone=recipe.backbone, image=("file",))
    assert [item.code for item in embed(photos / "table.csv", plain, tmp_path / "a.csv").refused] == [
        "missing_file"
    ]
    read = rows(tmp_path / "a.csv")
    assert [row["path"] for row in read] == ["red/000.png", "blue/000.png", "red/001.png"]
    assert "class" not in read[0]
    named = Recipe(backbone=recipe.backbone, image=("file",), target=("colour",))
    embed(photos / "table.csv", named, tmp_path / "b.csv")
    assert [row["class"] for row in rows(tmp_path / "b.csv")] == ["warm", "cold", "warm"]


def test_files_are_replaced_only_on_request_and_atomically(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "f.npy"
    out.write_text("precious")
    with pytest.raises(UsageError, match="--overwrite"):
        embed(photos, recipe, out)
    with monkeypatch.context() as patch:
        patch.setattr(np, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "disk full")))
        with pytest.raises(EnvironmentFault, match="disk full"):
            embed(photos, recipe, out, overwrite=True)
    assert out.read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.npy", "photos"]
    embed(photos, recipe, out, overwrite=True)
    assert len(np.load(out)) == 30


def test_impossible_outputs_are_refused_before_any_work(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.npz, \.npy"):
        embed(photos, recipe, tmp_path / "f.xlsx")
    (tmp_path / "f.csv").mkdir()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="a folder"):
        embed(photos, recipe, tmp_path / "f.csv", overwrite=True)
    with pytest.raises(EnvironmentFault, match="no folder"):
        embed(photos, recipe, tmp_path / "nowhere" / "f.csv")
    with pytest.raises(DataError, match="No images"):
        embed(tmp_path / "empty", recipe, tmp_path / "g.csv")


def test_parquet_without_its_package_names_the_install(
    photos: Path, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EnvironmentFault, match=r'pip install "regraft\[parquet\]"'):
        embed(photos, recipe, tmp_path / "f.parquet")


def test_a_second_time_nothing_is_computed(
    photos: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    embed(photos, recipe, tmp_path / "a.npz", store=tmp_path / "store")
    capsys.readouterr()
    shutil.copytree(photos, tmp_path / "elsewhere")
    embed(tmp_path / "elsewhere", recipe, tmp_path / "b.npz", store=tmp_path / "store")
    assert "nothing to compute" in capsys.readouterr().err


def test_features_computed_by_training_are_reused(
    photos: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(photos, replace(recipe, phases=()), tmp_path / "run", store=tmp_path / "store")
    capsys.readouterr()
    embed(photos, recipe, tmp_path / "f.npz", store=tmp_path / "store")
    assert "all 30 images are in the store" in capsys.readouterr().err


def test_command_line(photos: Path, network_file: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "regraft", "embed", str(photos), "-o", "f.csv", "--pooling", "both"]
    options = ["--backbone", str(network_file)]
    done = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "f.csv: 30 images, 32 features each\n"
    assert len(rows(tmp_path / "f.csv")) == 30
    again = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (2, "")
    assert "--overwrite" in again.stderr
