"""Files of features: four formats, the same content, no pickle."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from regraft.errors import UsageError
from regraft.pipeline.embed import FeatureTable, choose_writer

COLUMNS = {"path": ["a,b.png", 'quo"te.png', "größe\n.png"], "class": ["", "0012", "=1+1"]}


@pytest.fixture
def table() -> FeatureTable:
    numbers = np.random.default_rng(0).normal(size=(3, 5)) * 10.0 ** np.arange(-20, 30, 10)
    return FeatureTable(COLUMNS, numbers.astype(np.float32), 'backbone = "vgg16"')


def write_features(table: FeatureTable, tmp_path: Path, ending: str) -> Path:
    path = tmp_path / f"features{ending}"
    choose_writer(path)(path, table)
    return path


def test_csv_gives_the_same_numbers_and_texts_again(table: FeatureTable, tmp_path: Path) -> None:
    with write_features(table, tmp_path, ".csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == COLUMNS["path"]
    assert [row["class"] for row in rows] == COLUMNS["class"]
    read = np.array([[np.float32(row[name]) for name in table.feature_names] for row in rows])
    np.testing.assert_array_equal(read, table.features)


def test_parquet_gives_the_same_numbers_and_texts_again(table: FeatureTable, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    read = parquet.read_table(write_features(table, tmp_path, ".parquet"))
    assert read.column_names == ["path", "class", *table.feature_names]
    assert {name: read[name].to_pylist() for name in COLUMNS} == COLUMNS
    assert {str(read.schema.field(name).type) for name in table.feature_names} == {"float"}
    np.testing.assert_array_equal(
        np.stack([read[name].to_numpy() for name in table.feature_names], 1), table.features
    )
    assert read.schema.metadata[b"regraft"] == b'backbone = "vgg16"'


@pytest.mark.parametrize("ending", [".npz", ".NPY"])
def test_numpy_files_need_no_pickle(table: FeatureTable, tmp_path: Path, ending: str) -> None:
    read = np.load(write_features(table, tmp_path, ending), allow_pickle=False)
    assert {name: read[name].tolist() for name in COLUMNS} == COLUMNS
    np.testing.assert_array_equal(read["features"], table.features)
    if ending == ".npz":
        assert read["names"].tolist() == table.feature_names


def test_an_unknown_ending_is_refused() -> None:
    with pytest.raises(UsageError, match=r"\.parquet, \.csv, \.npz, \.npy\. Received: features\.h5"):
        choose_writer(Path("features.h5"))
