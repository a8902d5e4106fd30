"""Slices of a part: how images are divided, and which slices are named."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from regraft.data.catalog import Catalog, Sample
from regraft.data.images.decode import THUMBNAIL, ImageFacts
from regraft.evaluation.slices import describe_worse_slices, make_slices, score_slices

N = 120


def make_facts(widths=(64,) * N, greys=(128,) * N):
    return [
        ImageFacts(width, 50, "PNG", thumbnail=bytes([grey] * 3 * THUMBNAIL**2))
        for width, grey in zip(widths, greys, strict=True)
    ]


def make_catalog(task="multiclass", folders=("",) * N, cells=((),) * N):
    """Samples of two classes, labels or numbers, alternately."""
    targets = {
        "multiclass": (0, 1),
        "binary": (0, 1),
        "multilabel": ((0,), (0, 1)),
        "regression": ((1.0,), (5.0,)),
    }
    samples = tuple(
        Sample(f"test/{'cat' if number % 2 == 0 else 'dog'}/{folder}{number}.png", targets[task][number % 2],
               f"{number:032x}", "test", cells=row)
        for number, (folder, row) in enumerate(zip(folders, cells, strict=True))
    )  # fmt: skip
    outputs = ("price",) if task == "regression" else ("cat", "dog")
    return Catalog(Path(), outputs, samples, task=task)


def slice_samples(catalog, facts=None, columns=()):
    return make_slices(catalog, catalog.samples, facts or make_facts(), columns)


def test_numbers_are_divided_into_quarters_and_few_values_are_not():
    cells = [(str(number), str(number % 5), f"{number / 7:.2f}") for number in range(N)]
    slices = slice_samples(make_catalog(cells=cells), columns=["age", "grade", "dose"])
    assert Counter(slices["age"]) == {
        "under 30": 30, "30 to under 60": 30, "60 to under 90": 30, "90 or more": 30,
    }  # fmt: skip
    assert set(slices["grade"]) == {"0", "1", "2", "3", "4"}
    assert len(set(slices["dose"])) == 4


def test_a_text_makes_a_column_one_of_values_and_an_empty_cell_belongs_to_no_slice():
    cells = [("" if number < 30 else str(number) if number < 119 else "n. a.",) for number in range(N)]
    values = slice_samples(make_catalog(cells=cells), columns=["age"])["age"]
    assert values[:30] == [""] * 30
    assert values[-1] == "" or values[-1] == "n. a."  # only the 30 most frequent values count
    assert len(set(values) - {""}) == 30
    gaps = [("" if number < 30 else str(number),) for number in range(N)]
    quarters = slice_samples(make_catalog(cells=gaps), columns=["age"])["age"]
    assert quarters[:30] == [""] * 30
    assert len(set(quarters[30:])) == 4


def test_images_are_divided_by_the_longer_side_brightness_and_folder():
    folders = ["monday/" if number < 40 else "" for number in range(N)]
    greys, widths = list(range(N)), [100 + number // 30 * 100 for number in range(N)]
    slices = slice_samples(make_catalog(folders=folders), make_facts(widths, greys))
    assert slices["folder"] == ["monday"] * 40 + [""] * 80  # without the names of part and class
    assert Counter(slices["image size"]) == {
        "under 200 px": 30, "200 to under 300 px": 30, "300 to under 400 px": 30, "400 px or more": 30,
    }  # fmt: skip
    assert slices["brightness"][0] == "under 30"
    assert len(set(slices["brightness"])) == 4


def test_images_that_are_alike_are_not_divided():
    slices = slice_samples(make_catalog())
    assert {value for cells in slices.values() for value in cells} == {""}
    mostly = make_facts(widths=[64] * 110 + [99] * 10)
    assert set(slice_samples(make_catalog(), mostly)["image size"]) == {""}


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel", "regression"])
def test_a_planted_slice_is_named_for_every_task(task):
    rng = np.random.default_rng(0)
    bad = np.arange(N) < 30
    catalog = make_catalog(task, cells=[("north" if flag else "south",) for flag in bad])
    truth = catalog.targets(catalog.samples)
    if task == "regression":
        answers = truth + rng.normal(size=(N, 1)) * np.where(bad, 4, 1)[:, None]
        expected = abs(answers - truth)[bad].mean()
    else:
        flags = np.eye(2)[truth] if task == "multiclass" else truth.reshape(N, -1)
        sure = rng.uniform(0.6, 0.9, (N, 1)) * flags + rng.uniform(0.1, 0.4, (N, 1)) * (1 - flags)
        answers = np.where((bad & (rng.random(N) < 0.6))[:, None], 1 - sure, sure)
        expected = 1 - (abs(answers - flags)[bad] > 0.5).mean() if task != "multilabel" else None
    rows = score_slices(catalog, "test", answers, facts=make_facts(), columns=["site"])
    assert [(row.column, row.value, row.n) for row in rows if row.worse] == [("site", "north", 30)]
    if expected is not None:
        assert rows[0].score.value == pytest.approx(expected)
    sentences = describe_worse_slices(rows, task=task, part="test")
    assert len(sentences) == 1
    assert sentences[0].startswith("Worse on the 30 test images whose site is north: a ")


def test_brightness_counts_as_the_eye_sees_it():
    green, blue = ((0, 255, 0), (0, 0, 255))
    facts = [
        ImageFacts(64, 64, "PNG", thumbnail=bytes((green if number < 60 else blue) * THUMBNAIL**2))
        for number in range(N)
    ]
    slices = slice_samples(make_catalog(), facts)["brightness"]
    assert set(slices[:60]) == {"150 or more"}
    assert set(slices[60:]) == {"under 150"}
