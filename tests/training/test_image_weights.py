"""Weights of images act in every kind of training, together with those of classes, and not in scores."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import small_network, write_photos
from PIL import Image

import regraft
from regraft.backbones.load import load_backbone
from regraft.data.catalog import Catalog, Sample
from regraft.features.store import Store
from regraft.recipe import ClassWeight, HeadSpec, Phase, Recipe
from regraft.tasks import TASKS
from regraft.training.fit import _make_loss
from regraft.training.training_data import PhaseData, TrainingData

COUNTS = [0, 1, 2, 3, 1, 2, 0, 3]


def make_data(task: str, weights: list[float], class_weight: ClassWeight = "none") -> TrainingData:
    targets: list[Any] = {
        "binary": [0, 0, 0, 0, 0, 1, 1, 1],
        "multiclass": [0, 0, 0, 0, 1, 1, 2, 2],
        "multilabel": [(0,), (0, 1), (), (1,), (0,), (0, 2), (2,), (1, 2)],
        "regression": [(float(n), n * n / 3) for n in range(8)],
    }[task]
    samples = tuple(
        Sample(f"{n}.png", target, f"{n:032x}", "train", weight=weight)
        for n, (target, weight) in enumerate(zip(targets, weights, strict=True))
    )
    outputs = tuple("abc"[: 2 if task in ("binary", "regression") else 3])
    catalog = Catalog(Path(), outputs, samples, task=task)
    recipe, backbone = Recipe(class_weight=class_weight), load_backbone(small_network())
    return TrainingData(recipe, catalog, backbone, Store(Path()), (), ())


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_weighted_images_is_that_of_as_many_images(task: str) -> None:
    data = make_data(task, [float(count) for count in COUNTS])
    targets, weights = data.encode_targets("train").astype(np.float32), data.weights
    answers = np.random.default_rng(0).dirichlet(np.ones(targets.shape[1] + 1), 8)[:, :-1].astype(np.float32)
    loss = _make_loss(PhaseData(TASKS[task], None, None))
    again = np.repeat(np.arange(8), COUNTS)
    assert weights is not None
    received, expected = (
        keras.ops.convert_to_numpy(loss(np.stack(np.broadcast_arrays(truth, weight), -1), answer)).mean()
        for truth, weight, answer in (
            (targets, weights, answers),
            (targets[again], np.ones((len(again), 1), np.float32), answers[again]),
        )
    )
    assert received == pytest.approx(expected, rel=1e-6)


def test_weights_have_the_mean_one_and_none_are_there_where_all_are_alike() -> None:
    weights = make_data("multiclass", [0.0, 0.5, 1.0, 2.5, 0.0, 0.5, 1.0, 2.5]).weights
    np.testing.assert_allclose(weights, [[0.0], [0.5], [1.0], [2.5]] * 2)
    assert make_data("multiclass", [3.0] * 8).weights is None
    with pytest.raises(regraft.DataError, match="zero for all of 8 training images"):
        _ = make_data("multiclass", [0.0] * 8).weights


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_balanced_classes_count_alike_by_their_weight(task: str) -> None:
    counts = [1, 3, 2, 1, 1, 2, 4, 1]
    data = make_data(task, [float(count) for count in counts], "balanced")
    targets, weights = data.encode_targets("train"), data.weights
    assert weights is not None
    np.testing.assert_allclose(weights.mean(0), 1, rtol=1e-6)
    per_class = (targets * weights).sum(0)
    if task == "multiclass":
        np.testing.assert_allclose(per_class, per_class[0], rtol=1e-6)
    else:
        np.testing.assert_allclose(per_class, ((1 - targets) * weights).sum(0), rtol=1e-6)
    again = replace(
        data.catalog,
        samples=tuple(
            replace(sample, weight=1.0)
            for sample, count in zip(data.catalog.samples, counts, strict=True)
            for _ in range(count)
        ),
    )
    repeated = replace(data, catalog=again).weights
    assert repeated is not None
    first = np.cumsum([0, *counts[:-1]])
    ratio = weights / repeated[first] / np.array(counts)[:, None]
    np.testing.assert_allclose(ratio, ratio.flat[0], rtol=1e-5)


@pytest.fixture
def weighted_table(tmp_path: Path) -> Path:
    """A table of coloured images, of which every third has a wrong label and the weight 0."""
    write_photos(tmp_path / "photos", classes=2, each=24, size=20)
    with (tmp_path / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "colour", "sure"])
        for number, path in enumerate(sorted((tmp_path / "photos").rglob("*.png"))):
            colour, wrong = path.parent.name, number % 3 == 0
            label = {"blue": "green", "green": "blue"}[colour] if wrong else colour
            writer.writerow([path.relative_to(tmp_path), label, 0 if wrong else 2])
    return tmp_path / "table.csv"


HEADS = {
    "solved": ((), HeadSpec(solver="ridge")),
    "trained": (
        (Phase("none", epochs=60, learning_rate=1e-2, patience=60),),
        HeadSpec(solver="gradient", dropout=0.0),
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("head", HEADS)
def test_a_run_learns_from_images_of_a_weight_and_scores_all(
    weighted_table: Path, network_file: Path, tmp_path: Path, head: str
) -> None:
    phases, spec = HEADS[head]
    recipe = Recipe(
        image=("image",), target=("colour",), weight="sure", backbone=str(network_file), image_size=32,
        phases=phases, head=spec, augment=(), seed=3,
    )  # fmt: skip
    run = regraft.train(weighted_table, recipe, tmp_path / "run", store=tmp_path / "store")
    assert Recipe.from_toml(run.path / "recipe.toml").weight == "sure"
    note = "Weights of images in training: sure, 0 to 2. In scores all images count alike."
    assert note in (run.path / "report.html").read_text("utf-8")
    files = sorted((tmp_path / "photos").rglob("*.png"))
    answers = [str(answer.label) for answer in run.bundle.predict(files)]
    assert answers == [path.parent.name for path in files]  # the colour, whatever the wrong labels say
    with weighted_table.open() as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    with (run.path / "split.csv").open() as file:
        held = [row["image"] for row in csv.DictReader(file) if row["part"] == "validation"]
    right = np.mean([rows[name]["colour"] == Path(name).parent.name for name in held])
    assert 0 < right < 1
    assert run.metrics["validation"]["top1"]["value"] == pytest.approx(right)


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_without_weights_a_run_is_the_same_as_with_equal_ones(
    weighted_table: Path, network_file: Path, tmp_path: Path
) -> None:
    text = weighted_table.read_text().replace(",0\n", ",2\n")
    weighted_table.write_text(text)
    recipe = Recipe(
        image=("image",), target=("colour",), backbone=str(network_file), phases=(), image_size=32
    )
    runs = [
        regraft.train(
            weighted_table, replace(recipe, weight=weight), tmp_path / f"run{weight}", store=tmp_path
        )
        for weight in ("", "sure")
    ]
    one, other = (keras.models.load_model(run.path / "model.keras").get_weights() for run in runs)
    assert all((first == second).all() for first, second in zip(one, other, strict=True))


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_estimators_take_sample_weights(tmp_path: Path, network_file: Path) -> None:
    files = sorted(write_photos(tmp_path / "photos", classes=2, each=15, size=20).rglob("*.png"))
    colours = [path.parent.name for path in files]
    wrong = np.arange(30) % 3 == 0
    labels = np.where(wrong, np.roll(colours, 15), colours)
    model = regraft.ImageClassifier(str(network_file), image_size=32, store=tmp_path, head="ridge")
    names = [str(path) for path in files]
    weights = np.where(wrong, 0, 3)
    assert model.fit(names, labels, sample_weight=weights).predict(names).tolist() == colours
    numbers = np.array([np.asarray(Image.open(path)).mean() for path in files])
    regressor = regraft.ImageRegressor(str(network_file), image_size=32, store=tmp_path, head="ridge")
    spoilt = np.where(wrong, 900.0, numbers)
    assert regressor.fit(names, spoilt, weights).score(names, numbers) > 0.9
    for bad, words in (([1.0] * 29, "expected 30 numbers"), ([-1.0] * 30, "Negative"), ([0.0] * 30, "zero")):
        with pytest.raises(ValueError, match=words):
            model.fit(names, labels, sample_weight=bad)
