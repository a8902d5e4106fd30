"""Labelled images of other classes, tables and folders than those of the run are scored by its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_photos

from regraft.data.catalog import Catalog
from regraft.errors import DataError, UsageError
from regraft.inference.inputs import number_targets, open_labelled

NO_COLUMNS = ((), (), "")


def make_manifest(
    task: str, outputs: Sequence[str], *, image: Sequence[str] = (), target: Sequence[str] = (), **others: Any
) -> dict[str, Any]:
    columns = {"image": list(image), "target": list(target), "separator": others.pop("separator", "")}
    return {"task": task, "outputs": list(outputs), "columns": columns, "photos": 1, **others}


def write_table(root: Path, rows: Sequence[str], header: str = "file,label") -> Path:
    """Write a table of photographs of three classes, which lie beside it."""
    write_photos(root, classes=3, each=4)
    path = root / "table.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def name_targets(data: Any, manifest: dict[str, Any], columns: Any = NO_COLUMNS) -> list[Any]:
    """Return the names of the classes, or the targets, as the model numbers them."""
    catalog = open_labelled(data, manifest, columns)
    targets = number_targets(catalog, manifest["outputs"])
    return [manifest["outputs"][n] for n in targets] if targets.ndim == 1 else targets.tolist()


BINARY = make_manifest("binary", ["red", "green"])


def test_a_folder_of_one_class_is_scored_by_a_model_of_two(tmp_path: Path) -> None:
    write_photos(tmp_path / "all", classes=2, each=3)
    name = sorted(folder.name for folder in (tmp_path / "all").iterdir())[0]
    (tmp_path / "one").mkdir()
    (tmp_path / "all" / name).rename(tmp_path / "one" / name)
    manifest = make_manifest("binary", ["other", name])
    assert name_targets(tmp_path / "one", manifest) == [name] * 3


def test_classes_are_numbered_like_the_outputs_and_not_by_name(tmp_path: Path) -> None:
    rows = ["red/000.png,red", "green/000.png,green", "blue/000.png,blue"]
    table = write_table(tmp_path, rows)
    manifest = make_manifest("multiclass", ["green", "red", "blue"])
    assert name_targets(table, manifest, (("file",), ("label",), "")) == ["red", "green", "blue"]


def test_unknown_classes_are_named(tmp_path: Path) -> None:
    write_photos(tmp_path, classes=3, each=2)
    with pytest.raises(DataError, match=r"knows: red, green\. Received also: blue\. Take out"):
        name_targets(tmp_path, BINARY)
    with pytest.raises(DataError, match="Received none of them, but blue, green, red"):
        name_targets(tmp_path, make_manifest("binary", ["cat", "dog"]))


def test_many_unknown_classes_are_counted(tmp_path: Path) -> None:
    samples = Catalog.from_arrays(
        np.arange(40, dtype=np.uint8)[:, None, None] + np.zeros((40, 4, 4), np.uint8),
        [f"class {n}" for n in range(40)], store=tmp_path,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"and 30 more"):
        name_targets(samples, BINARY)


def test_a_class_without_a_usable_image_does_not_matter(tmp_path: Path) -> None:
    write_photos(tmp_path, classes=2, each=2)
    (tmp_path / "violet").mkdir()
    (tmp_path / "violet" / "1.png").write_bytes(b"")
    assert set(name_targets(tmp_path, make_manifest("binary", ["green", "blue"]))) == {"green", "blue"}


def test_a_run_made_from_folders_is_scored_on_a_table(tmp_path: Path) -> None:
    table = write_table(tmp_path, ["red/000.png,red", "red/001.png,red"])
    assert name_targets(table, BINARY, ("file", "label", "")) == ["red", "red"]
    with pytest.raises(UsageError, match=r"trained without one.*--image .*--target"):
        name_targets(table, BINARY)


def test_paths_of_a_table_may_begin_in_another_folder(tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", classes=3, each=2)
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "table.csv"
    table.write_text("file,label\nred/000.png,red\ngreen/001.png,green\n")
    catalog = open_labelled(table, BINARY, ("file", "label", ""), root=tmp_path / "photos")
    assert [sample.path for sample in catalog.samples] == ["red/000.png", "green/001.png"]
    with pytest.raises(DataError, match="missing_file"):
        open_labelled(table, BINARY, ("file", "label", ""))
    with pytest.raises(UsageError, match="--root: expected a table"):
        open_labelled(tmp_path / "photos", BINARY, NO_COLUMNS, root=tmp_path)


def test_a_run_made_from_a_table_is_scored_on_folders(tmp_path: Path) -> None:
    write_photos(tmp_path, classes=2, each=2)
    manifest = make_manifest("binary", ["green", "blue"], image=["file"], target=["label"], separator="|")
    assert set(name_targets(tmp_path, manifest)) == {"green", "blue"}
    with pytest.raises(UsageError, match="--target: expected a table"):
        name_targets(tmp_path, manifest, ((), ("label",), ""))


def test_columns_that_are_given_replace_those_of_the_run(tmp_path: Path) -> None:
    table = write_table(tmp_path, ["red/000.png,red,4", "green/000.png,green,5"], "path,label,size")
    manifest = make_manifest("binary", ["red", "green"], image=["file"], target=["label"])
    assert name_targets(table, manifest, ("path", (), "")) == ["red", "green"]


@pytest.mark.parametrize("cells", ["cat|in", "in|cat"])
def test_labels_that_no_image_has_are_absent_and_separators_can_be_given(tmp_path: Path, cells: str) -> None:
    table = write_table(tmp_path, [f"red/000.png,{cells}", "red/001.png,cat"])
    manifest = make_manifest("multilabel", ["dog", "in", "cat"])
    assert name_targets(table, manifest, ("file", "label", "|")) == [[0, 1, 1], [0, 0, 1]]


def test_a_missing_column_of_labels_is_no_column_of_zeros(tmp_path: Path) -> None:
    table = write_table(tmp_path, ["red/000.png,1,0", "red/001.png,1,1"], "file,cat,in")
    manifest = make_manifest("multilabel", ["dog", "in", "cat"])
    with pytest.raises(UsageError, match=r"a column of each label\. Missing: dog"):
        name_targets(table, manifest, ("file", ("cat", "in"), ""))


@pytest.mark.parametrize(("columns", "expected"), [(("b", "a"), [2.5, 1.5]), (("a", "b"), [2.5, 1.5])])
def test_targets_of_regression_are_ordered_like_the_outputs(
    tmp_path: Path, columns: tuple[str, ...], expected: list[float]
) -> None:
    table = write_table(tmp_path, ["red/000.png,1.5,2.5", "red/001.png,3,4"], "file,a,b")
    manifest = make_manifest("regression", ["b", "a"])
    assert name_targets(table, manifest, ("file", columns, ""))[0] == expected


def test_a_missing_target_of_regression_is_named_and_not_zero(tmp_path: Path) -> None:
    table = write_table(tmp_path, ["red/000.png,1.5", "red/001.png,3"], "file,a")
    with pytest.raises(DataError, match=r"Missing: b\. Received: a"):
        name_targets(table, make_manifest("regression", ["a", "b"]), ("file", "a", ""))


def test_the_only_number_may_have_another_name(tmp_path: Path) -> None:
    table = write_table(tmp_path, ["red/000.png,1.5", "red/001.png,3"], "file,years")
    assert name_targets(table, make_manifest("regression", ["age"]), ("file", "years", "")) == [[1.5], [3.0]]
    for name, number in (("red", "10"), ("green", "20"), ("blue", "30")):
        (tmp_path / name).rename(tmp_path / number)
    ages = name_targets(tmp_path, make_manifest("regression", ["age"]))
    assert sorted({age for (age,) in ages}) == [10.0, 20.0, 30.0]


def test_another_number_of_images_a_sample_is_refused(tmp_path: Path) -> None:
    table = write_table(
        tmp_path, ["red/000.png,red/001.png,red", "green/000.png,green/001.png,green"], "a,b,label"
    )
    with pytest.raises(UsageError, match=r"2 images per sample, .* Received: 1"):
        name_targets(table, {**BINARY, "photos": 2}, ("a", "label", ""))
    with pytest.raises(UsageError, match=r"one image per sample\. Received: 2"):
        name_targets(table, BINARY, (("a", "b"), "label", ""))
