"""The file of answers: what a run writes is what is read again, and a damaged file is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import Recorder

from regraft.data.catalog import Catalog, ImageFile, Sample
from regraft.errors import ModelRefused
from regraft.pipeline.predictions import (
    PREDICTIONS,
    read_predictions,
    read_split,
    write_csv,
    write_predictions,
)

OUTPUTS = ("=1+1", "cat, brown", "'s")


def write(folder, task="multiclass", outputs=OUTPUTS, units=3, **options):
    targets = {"multiclass": (0, 1, 2), "binary": (0, 1, 0), "regression": ((0.1,), (1 / 3,), (1e9 + 1,))}[
        task
    ]
    extra = (ImageFile("back.png", "ff"),)
    samples = tuple(
        Sample(f"{'=' if number else ''}{number}.png", target, f"{number:032x}", part, extra_images=extra)
        for number, (target, part) in enumerate(zip(targets, ("test", "validation", "train"), strict=True))
    )
    catalog = Catalog(Path(), outputs, samples, task=task)
    rng = np.random.default_rng(0)
    answers = {part: (rng.random((1, units)).astype(np.float32),) * 2 for part in ("test", "validation")}
    recorder = Recorder()
    write_predictions(catalog, answers, folder, recorder, **options)
    return answers, recorder


def test_answers_and_names_are_read_as_they_were(tmp_path):
    answers, _ = write(tmp_path)
    read = read_predictions(tmp_path, OUTPUTS)
    expected = np.concatenate([answers["test"][0], answers["validation"][0]])
    assert np.array_equal(read.answers.astype(np.float32), expected)
    assert [(row.image, row.part, row.target) for row in read.rows] == [
        ("0.png", "test", "=1+1"), ("=1.png", "validation", "cat, brown"),
    ]  # fmt: skip
    assert read.rows[0].digest == f"{0:032x} ff"
    assert "\n'=1.png," in (tmp_path / PREDICTIONS).read_text()  # no formula for a spreadsheet


def test_two_classes_have_a_column_each(tmp_path):
    answers, _ = write(tmp_path, "binary", ("no", "yes"), 1)
    read = read_predictions(tmp_path, ("no", "yes"))
    assert read.answers[0, 1] == pytest.approx(float(answers["test"][0][0, 0]), abs=1e-9)
    assert read.answers.sum(1) == pytest.approx(1)


def test_numbers_lose_no_digit(tmp_path):
    answers, _ = write(tmp_path, "regression", ("price",), 1)
    read = read_predictions(tmp_path, ("price",))
    assert read.answers[0, 0] == float(answers["test"][0][0, 0])
    assert float(read.rows[1].target) == 1 / 3


def test_millions_of_answers_are_not_written(tmp_path):
    _, recorder = write(tmp_path, most=5)
    assert read_predictions(tmp_path, OUTPUTS) is None
    assert recorder.lines == ["predictions.csv is not written: it would hold 6 numbers."]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("digest", "hash"), "its columns are not those"),
        (lambda text: text[:-12], "other lengths|could not convert"),
        (lambda text: text.rstrip() + "x\r\n", "could not convert"),
        (lambda text: text.rstrip().rpartition(",")[0] + ",nan\r\n", "not finite"),
        (lambda text: "", "not the table"),
        (lambda text: text + '"', "not the table|other lengths"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, change, message):
    write(tmp_path)
    path = tmp_path / PREDICTIONS
    path.write_text(change(path.read_text()), newline="")
    with pytest.raises(ModelRefused, match=message):
        read_predictions(tmp_path, OUTPUTS)


def test_a_run_without_its_split_is_damaged(tmp_path):
    with pytest.raises(ModelRefused, match=r"damaged: no split\.csv"):
        read_split(tmp_path)
    write_csv(tmp_path / "split.csv", ["image", "part"], [["1.png", "test"]])
    with pytest.raises(ModelRefused, match="other columns"):
        read_split(tmp_path)
