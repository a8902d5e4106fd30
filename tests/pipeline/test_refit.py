"""The refit: the final solved head learns from the validation images, and other heads answer them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_photos

from regraft.pipeline.train import train
from regraft.recipe import HeadSpec, Phase, Recipe

pytestmark = pytest.mark.slow

PHASE = Phase("match:block2.*", epochs=1, learning_rate=1e-9)  # too little to be kept


@pytest.fixture(scope="module")
def runs(network_file: Path, tmp_path_factory: Any) -> dict[str, Any]:
    """Return runs on the same images: with the refit, without, after a phase, and with all in training."""
    folder = tmp_path_factory.mktemp("refit")
    base = Recipe(backbone=str(network_file), phases=(), head=HeadSpec(solver="ridge"))
    recipes = {
        "auto": base,
        "never": replace(base, refit="never"),
        "phase": replace(base, phases=(PHASE,)),
        "all": replace(base, validation=0.0),
    }
    photos = write_photos(folder / "photos")
    return {
        name: train(photos, recipe, folder / name, store=folder / "store") for name, recipe in recipes.items()
    }


def read_kernel(run: Any) -> np.ndarray:
    return np.asarray(run.model.get_layer("head_output").kernel)


def read_validation(run: Any) -> tuple[list[str], np.ndarray]:
    with (run.path / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "validation"]
    outputs = sorted(run.bundle.outputs)
    table = [
        [float(row[f"p({name})"] if f"p({name})" in row else row[name]) for name in outputs] for row in rows
    ]
    return [row["image"] for row in rows], np.array(table)


@pytest.mark.parametrize("name", ["auto", "phase"])
def test_the_head_is_the_one_of_all_images(runs: dict[str, Any], name: str) -> None:
    np.testing.assert_array_equal(read_kernel(runs[name]), read_kernel(runs["all"]))
    assert runs[name].metrics["validation"]["source"] == "cross-validation"
    page = (runs[name].path / "report.html").read_text()
    assert "each was answered by a head that had not seen it" in page


def test_without_a_refit_the_head_knows_no_validation_image(runs: dict[str, Any]) -> None:
    assert not np.array_equal(read_kernel(runs["never"]), read_kernel(runs["all"]))
    assert "source" not in runs["never"].metrics["validation"]


def test_validation_answers_are_not_those_of_the_final_model(runs: dict[str, Any]) -> None:
    for name, same in (("auto", False), ("never", True)):
        run = runs[name]
        images, answers = read_validation(run)
        root = run.path.parent / "photos"
        predictions = list(run.bundle.predict([root / image for image in images]))
        final = np.array(
            [[item.values[output] for output in sorted(run.bundle.outputs)] for item in predictions]
        )
        assert np.allclose(answers, final, atol=1e-3) == same
