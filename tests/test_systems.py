"""The programs of rows S1 to S10 of the gallery, which all systems share, do what they promise on small
generated data. Rows R1 to R15 are in `test_examples.py`.
"""

from __future__ import annotations

import csv
import tomllib
import weakref
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import COLOURS, write_photos
from helpers.networks import tiny
from helpers.savedmodels import reusable
from helpers.stripe_images import network, trained, write_stripes
from test_examples import example, head_of, history, moved, trainable_places

import regraft
from regraft.data.augmentation import augment_batch

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store", "in_this_process")]

STAGED = {"backbone": "vgg16", "weights": "random", "image_size": 32}  # small, and divided into stages


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", each=8)


@pytest.fixture
def own(network_file: Path) -> dict[str, str]:
    """A small backbone of the user's own, with its own weights."""
    return {"backbone": str(network_file)}


# --- S1: sources


def test_names_give_the_networks_of_keras() -> None:
    names = ["vgg16", "ResNet50V2", "mobilenet_v2"]
    table = example("load_any_backbone").main(names, weights="random", image_size=96)
    assert table == {
        "vgg16": (96, 18, 512, "caffe"),
        "resnet50_v2": (96, 189, 2048, "tf"),
        "mobilenet_v2": (96, 153, 1280, "tf"),
    }


def test_savedmodels_files_and_models_are_backbones_too(tmp_path: Path) -> None:
    tiny(name="my_file").save(tmp_path / "my_file.keras")
    sources = [reusable(tmp_path / "module"), tmp_path / "my_file.keras", tiny(name="my_model")]
    table = example("load_any_backbone").main(sources, trust=True)
    assert table == {
        "module": (16, 1, 4, "unit"),
        "my_file": (16, 3, 4, "raw"),
        "my_model": (16, 3, 4, "raw"),
    }


def test_presets_of_kerashub_are_backbones_too(tmp_path: Path) -> None:
    hub = pytest.importorskip("keras_hub", reason='KerasHub is not installed: pip install "regraft[hub]"')
    backbone = hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 8],
        stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2],
        block_type="basic_block",
    )
    backbone.save_to_preset(str(tmp_path / "preset"))
    hub.layers.ResNetImageConverter(image_size=(32, 32), scale=1 / 255).save_to_preset(
        str(tmp_path / "preset")
    )
    ((size, layers, features, contract),) = example("load_any_backbone").main([tmp_path / "preset"]).values()
    assert (size, features, contract) == (32, 8, "preset")
    assert layers > 10  # one flat graph, so that a plan reaches every layer


# --- S2, S3: what trains


@pytest.mark.soak
def test_each_strategy_does_what_its_name_says(photos: Path, tmp_path: Path) -> None:
    runs = example("four_strategies").main(
        photos, tmp_path / "runs", weights="random", image_size=32, epochs=1
    )
    plans = {
        name: [phase["unfreeze"] for phase in run.metrics["decision"]["phases"]] for name, run in runs.items()
    }
    assert plans["feature extraction"] == []
    assert plans["fine-tuning"] == ["all"]
    assert plans["hybrid"] == ["none", "last:10"]
    untouched = regraft.load_backbone("resnet50", weights="random", image_size=32)
    assert moved(runs["feature extraction"], untouched) == set()
    assert moved(runs["fine-tuning"], untouched) in (set(), trainable_places(untouched))
    assert moved(runs["hybrid"], untouched) <= set(range(164, 174))
    changed = {layer.name: layer for layer in runs["architectural modification"].model.layers}
    assert not [name for name in changed if name.startswith("conv5")]
    assert changed["conv4_block6_2_conv"].kernel_size == (1, 1)
    assert [name for name in changed if name.startswith("cbam")]


@pytest.mark.usefixtures("eager")
def test_stages_unfreeze_one_after_the_other_each_at_its_rate(photos: Path, tmp_path: Path) -> None:
    rates = {"none": 1e-3, "stage:block5": 1e-4, "stage:block4": 1e-5}
    run = example("gradual_unfreezing").main(photos, tmp_path / "run", rates=rates, **STAGED)
    phases = run.metrics["decision"]["phases"]
    assert [(phase["unfreeze"], phase["layers"]) for phase in phases] == [
        ("none", 0), ("stage:block5", 3), ("stage:block4", 6),
    ]  # fmt: skip
    for plan, rate in rates.items():
        assert 0.3 < max(row["learning_rate"] for row in history(run, plan)) / rate <= 1
    before = [history(run, plan) for plan in rates]
    for earlier, later in pairwise(before):  # each from the best of the one before
        best = min(row["val_loss"] for row in earlier)
        assert later[0]["val_loss"] == pytest.approx(best, rel=1e-2, abs=1e-5)


# --- S4: search


def test_the_network_that_knows_is_chosen_and_the_best_of_what_is_tried_is_the_run(
    tmp_path: Path,
) -> None:
    striped = write_stripes(tmp_path / "striped", each=20)
    network(1).save(tmp_path / "ignorant.keras")
    trained(network(3), images=240, epochs=3).save(tmp_path / "trained.keras")
    names = [str(tmp_path / f"{name}.keras") for name in ("ignorant", "trained")]
    space = regraft.Space(plans=("last:1",), learning_rates=(1e-3, 1e-9), backbone_rates=(1.0,), epochs=2)
    run = example("recommend_and_search").main(
        striped, tmp_path / "run", backbones=names, budget=600, space=space
    )
    recipe = regraft.Recipe.from_toml(run.path / "recipe.toml")
    assert recipe.backbone == names[1]
    (best,) = (attempt for attempt in run.metrics["search"] if attempt["kept"])
    assert best["val_loss"] <= min(attempt["val_loss"] for attempt in run.metrics["search"]) + 1e-4
    assert recipe.head.solver == best["head"]
    plans = [(phase.unfreeze, phase.learning_rate) for phase in recipe.phases]
    assert plans == ([] if best["unfreeze"] == "none" else [(best["unfreeze"], best["learning_rate"])])


# --- S5: tasks


@pytest.fixture(scope="module")
def fruit(photos: Path) -> Path:
    """A table of the photos with a target of each kind, all of them told from the colour and the number."""
    rows = []
    for file in sorted(photos.rglob("*.png")):
        colour, number = file.parent.name, int(file.stem)
        defects = {"blue": "", "green": "spot", "red": "spot|dent"}[colour]
        grams = 100 + 50 * list(COLOURS).index(colour) + 0.5 * number
        name = file.relative_to(photos.parent).as_posix()
        rows.append([name, colour, "no" if colour == "green" else "yes", defects, grams])
    table = photos.parent / "fruit.csv"
    with table.open("w", newline="") as out:
        csv.writer(out).writerows([["image", "kind", "ripe", "defects", "grams"], *rows])
    return table


def test_each_task_has_its_output_and_its_scores(fruit: Path, own: dict[str, str], tmp_path: Path) -> None:
    runs = example("four_tasks").main(fruit, tmp_path / "runs", image_size=32, **own)
    outputs = {task: head_of(run)[-1] for task, run in runs.items()}
    assert outputs == {
        "multiclass": (3, "softmax"),
        "binary": (1, "sigmoid"),
        "multilabel": (2, "sigmoid"),
        "regression": (1, "linear"),
    }
    scores = {task: set(run.metrics["validation"]) for task, run in runs.items()}
    assert "top1" in scores["multiclass"]
    assert "auc" in scores["binary"]
    assert "macro_f1" in scores["multilabel"]
    assert "mae" in scores["regression"]
    assert not scores["regression"] & (scores["multiclass"] - {"n", "coverage", "unfamiliar", "source"})
    for task, run in runs.items():
        assert run.metrics["task"] == task
        assert (run.path / "report.html").stat().st_size > 10_000


# --- S6, S7: pixels


def test_sizes_the_backbone_allows_and_an_error_below(photos: Path, tmp_path: Path) -> None:
    tiny(size=None).save(tmp_path / "tiny.keras")
    runs = example("any_image_size").main(
        photos, tmp_path / "runs", sizes=(32, 45), backbone=str(tmp_path / "tiny.keras")
    )
    assert {size: run.model.input_shape for size, run in runs.items()} == {
        32: (None, 32, 32, 3), 45: (None, 45, 45, 3),
    }  # fmt: skip
    message = "mobilenet_v2 takes images of at least 32 pixels a side. Received: 31."
    with pytest.raises(regraft.UsageError, match=message):
        example("any_image_size").main(photos, tmp_path / "small", sizes=(31,))
    assert not (tmp_path / "small" / "31").exists()


@pytest.mark.usefixtures("eager")
def test_only_training_images_are_changed(
    photos: Path, own: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = []

    def watched(batch, names, key):
        changed.append((len(batch.targets), tuple(names)))
        return augment_batch(batch, names, key)

    monkeypatch.setattr("regraft.training.training_data.augment_batch", watched)
    run = example("augmentation").main(photos, tmp_path / "run", image_size=32, epochs=2, **own)
    parts = [row["part"] for row in csv.DictReader((run.path / "split.csv").open())]
    train, both = parts.count("train"), parts.count("train") + parts.count("validation")
    assert sum(count for count, _ in changed) == 2 * (train + both)  # two epochs, and two of the refit
    assert {names for _, names in changed} == {("flip", "crop", "rotation", "zoom", "colour", "cutmix")}
    model = keras.models.load_model(run.path / "model.keras")
    assert not [layer.name for layer in model.layers if "random" in layer.name or "mix" in layer.name]


# --- S8: data


def test_every_kind_of_source_gives_the_same_data(photos: Path) -> None:
    catalogs = example("data_sources").main(photos, image_size=32)
    assert {kind: (len(c), c.task, c.outputs) for kind, c in catalogs.items()} == dict.fromkeys(
        ("folder", "table", "stream", "memory"), (24, "multiclass", ("blue", "green", "red"))
    )
    digests = {kind: {s.digest for s in c.samples} for kind, c in catalogs.items()}
    assert digests["folder"] == digests["table"]
    assert digests["stream"] == digests["memory"]
    said = {kind: [c.describe_target(s) for s in c.samples] for kind, c in catalogs.items()}
    assert said["stream"] == said["memory"] == said["folder"]


def test_a_stream_is_never_in_memory_whole() -> None:
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0

    def stream() -> Iterator[tuple[np.ndarray, int]]:
        nonlocal most
        for number in range(40):
            picture = np.full((8, 8, 3), number, np.uint8)
            alive.append(weakref.ref(picture))
            most = max(most, sum(reference() is not None for reference in alive))
            yield picture, number % 2

    assert len(regraft.Catalog.from_stream(stream())) == 40
    assert most <= 3


# --- S9, S10


def test_features_go_to_a_file_and_into_scikit_learn(
    photos: Path, own: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "features.npz"
    scores = example("features_to_file").main(photos, file, image_size=32, **own)
    assert len(scores) == 5
    assert scores.mean() > 0.9
    table = np.load(file)
    assert table["features"].shape == (24, 16)
    assert sorted(set(table["class"])) == ["blue", "green", "red"]


def test_small_data_are_trained_with_care(photos: Path, tmp_path: Path) -> None:
    run = example("small_data").main(photos, tmp_path / "run", epochs=30, **STAGED)
    (phase,) = tomllib.loads((run.path / "recipe.toml").read_text())["phases"]
    assert (phase["backbone_rate"], phase["depth_decay"], phase["patience"]) == (0.1, 0.5, 3)
    (fitted,) = run.metrics["decision"]["phases"]
    rows = history(run, "all")
    assert fitted["stopped"] in ("no progress", "done")
    assert fitted["epochs"] - fitted["best_epoch"] <= 3  # early stopping
    best = [row["val_loss"] for row in rows][fitted["best_epoch"]]
    assert best == min(row["val_loss"] for row in rows)  # and the best weights are those that stay
    assert run.model.get_layer("head_dropout").rate == 0.5
    untouched = regraft.load_backbone(STAGED["backbone"], weights="random", image_size=32)
    changes = [
        np.abs(now.get_weights()[0] - before.get_weights()[0]).max()
        for now, before in zip(_convolutions(run.model), _convolutions(untouched.model), strict=True)
    ]
    if fitted["best_epoch"]:
        assert changes[0] < changes[-1]  # the nearer the pixels, the less


def _convolutions(model: keras.Model) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
