"""A repeated run reads its solved head and its learning curve from the store, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.reporters import Recorder

from regraft.features.store import Store
from regraft.pipeline.train import train
from regraft.recipe import Recipe
from regraft.training.stored_results import HEADS, StoredResults

pytestmark = [pytest.mark.usefixtures("in_this_process"), pytest.mark.slow]


def run(photos, network_file, folder: Path, *, seed=0, name="run"):
    reporter = Recorder()
    recipe = Recipe(backbone=str(network_file), phases=(), seed=seed, precision="f32")
    result = train(photos, recipe, folder / name, store=folder / "store", reporter=reporter)
    return result, "\n".join(reporter.lines)


def test_a_repeated_run_reads_its_head_and_its_learning_curve_from_the_store(
    make_photos, network_file, tmp_path
):
    photos = make_photos(each=30)
    first, _ = run(photos, network_file, tmp_path)
    files = sorted((tmp_path / "store" / HEADS).iterdir())
    again, _ = run(photos, network_file, tmp_path, name="again")
    assert sorted((tmp_path / "store" / HEADS).iterdir()) == files
    for name in ("predictions.csv", "uncertainty.npz"):
        assert (again.path / name).read_bytes() == (first.path / name).read_bytes()
    assert again.metrics["learning_curve"] == first.metrics["learning_curve"] is not None

    results = StoredResults(Store(tmp_path / "store"), HEADS)
    for file in files:  # what is stored is what is used
        state, arrays = results.read(file.stem)
        results.write(file.stem, ({**state, "description": "as stored"}, arrays))
    assert "90 images: as stored." in run(photos, network_file, tmp_path, name="third")[1]
    assert "as stored" not in run(photos, network_file, tmp_path, name="fourth", seed=1)[1]
