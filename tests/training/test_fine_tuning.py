"""Runs of every task, head and plan on small synthetic images: what trains, what is kept, what is refused."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier

import regraft
from regraft.backbones.load import load_backbone
from regraft.recipe import HeadSpec, Phase, Recipe
from regraft.solvers.solve import SolvedHead
from regraft.training import planning

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("in_this_process")]


def write_table(root: Path, *, count: int = 48, size: int = 32) -> Path:
    """Write grey images with a bright square and, in half of them, a red stripe: the targets."""
    rng = np.random.default_rng(0)
    rows = []
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        side, red, bright = int(rng.integers(4, 24)), bool(number % 2), bool(number % 3)
        pixels = rng.integers(90, 110, (size, size, 3)).astype(np.uint8)
        pixels[:side, :side] += 120 if bright else 60
        if red:
            pixels[-6:] = (200, 30, 30)
        Image.fromarray(pixels).save(root / f"{number:03}.png")
        labels = "|".join(name for name, is_true in (("red", red), ("bright", bright)) if is_true)
        twin = f"{number // 4 * 4 + (number + 2) % 4:03}.png"
        kind = "stripe" if red else "plain"
        is_rare = number % 6 == 0  # neither red nor bright
        tags = "|".join(name for name, is_true in (("red", red), ("rare", is_rare)) if is_true)
        row = [f"{number:03}.png", twin, side / 10, side * 100, kind, labels, f"g{number // 4}"]
        rows.append([*row, "yes" if is_rare else "no", tags])
    with (root / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "other", "side", "area", "kind", "labels", "group", "rare", "tags"])
        writer.writerows(rows)
    return root / "table.csv"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


def read(run: regraft.Run, name: str) -> dict:
    return json.loads((run.path / name).read_text())


def test_one_text_column_of_two_words_is_binary(table, store, network_file, tmp_path) -> None:
    recipe = Recipe(image=("image",), target=("kind",), backbone=str(network_file), phases=())
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    assert run.metrics["task"] == "binary"
    assert run.model.output_shape == (None, 1)
    assert run.metrics["validation"]["top1"]["value"] == 1.0
    (answer,) = run.bundle.predict([table.parent / "001.png"])
    assert answer.label == "stripe"
    assert sum(answer.values.values()) == pytest.approx(1)
    (scores,) = run.bundle.evaluate(table)
    assert scores.n == 48
    assert scores.scores["auc"].value == 1.0


def test_numbers_are_answered_in_their_own_units(table, store, network_file, tmp_path) -> None:
    recipe = Recipe(image=("image",), target=("side", "area"), backbone=str(network_file), phases=())
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    assert run.metrics["task"] == "regression"
    assert "top1" not in run.metrics["validation"]
    assert run.metrics["validation"]["r2"]["value"] > 0.5
    (answer,) = run.bundle.predict([table.parent / "003.png"])
    assert set(answer.values) == {"side", "area"}
    assert answer.labels == ()
    assert answer.values["area"] == pytest.approx(1000 * answer.values["side"], rel=0.2)
    (scores,) = run.bundle.evaluate(table)
    assert scores.scores["r2"].value > 0.5


def test_labels_with_a_separator_are_multilabel(table, store, network_file, tmp_path) -> None:
    recipe = Recipe(
        image=("image",), target=("labels",), separator="|", backbone=str(network_file), phases=()
    )
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    assert run.metrics["task"] == "multilabel"
    manifest = read(run, "manifest.json")
    assert set(manifest["thresholds"]) == {"red", "bright"}
    (answer,) = run.bundle.predict([table.parent / "001.png"])
    assert "red" in answer.labels
    assert run.bundle.evaluate(table)[0].scores["mAP"].value > 0.9


@pytest.mark.parametrize("solver", ["logistic", "gradient"])
@pytest.mark.parametrize(("target", "label"), [("rare", "yes"), ("tags", "rare")])
@pytest.mark.usefixtures("eager")
def test_balanced_weights_make_a_rare_label_more_probable(  # noqa: PLR0917
    table, store, network_file, tmp_path, target, label, solver
) -> None:
    phase = Phase("none", epochs=10, learning_rate=3e-2, patience=10)
    recipe = Recipe(
        image=("image",), target=(target,), separator="|" if target == "tags" else "",
        backbone=str(network_file), phases=(phase,) if solver == "gradient" else (),
        head=HeadSpec(solver=solver, dropout=0.0), augment=(),
    )  # fmt: skip
    images = sorted(table.parent.glob("*.png"))
    probabilities = []
    for class_weight in ("none", "balanced"):
        run = regraft.train(
            table, replace(recipe, class_weight=class_weight), tmp_path / class_weight, store=store
        )
        answers = run.bundle.predict(images)
        probabilities.append(np.mean([answer.values[label] for answer in answers]))
    assert probabilities[1] > probabilities[0] + 0.02


def test_head_with_hidden_layers_is_trained_on_stored_features(
    table, store, network_file, tmp_path, monkeypatch
) -> None:
    def never(*args: object, **named: object) -> None:
        raise AssertionError("the backbone ran")

    head = HeadSpec(hidden=(16,), dropout=0.0)
    recipe = Recipe(image=("image",), target=("kind",), backbone=str(network_file), phases=(), head=head)
    recipe = replace(recipe, phases=(Phase("none", epochs=60, learning_rate=1e-2, patience=60),))
    regraft.train(table, recipe, tmp_path / "first", store=store)
    monkeypatch.setattr("regraft.models.cut.Frozen.call", never)
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    assert run.metrics["features"]["computed"] == 0
    (phase,) = run.metrics["decision"]["phases"]
    assert phase["unfreeze"] == "none"
    assert phase["parameters"] == 0  # of the backbone
    assert run.metrics["validation"]["top1"]["value"] == 1.0


@pytest.mark.usefixtures("eager")
def test_phases_run_in_order_each_with_its_own_plan(table, store, network_file, tmp_path) -> None:
    phases = (
        Phase("none", epochs=3, learning_rate=1e-2),
        Phase("last:1", epochs=1, learning_rate=1e-3, batch_size=8),
        Phase("match:block2", epochs=1, learning_rate=1e-4, batch_size=8),
    )
    recipe = Recipe(
        image=("image",), target=("kind",), backbone=str(network_file), phases=phases,
        head=HeadSpec(hidden=(8,)), augment=(),
    )  # fmt: skip
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    done = run.metrics["decision"]["phases"]
    assert [phase["unfreeze"] for phase in done] == ["none", "last:1", "match:block2"]
    assert [phase["layers"] for phase in done] == [0, 1, 1]
    rows = list(csv.DictReader((run.path / "history.csv").open()))
    peaks = {row["phase"]: float(row["learning_rate"]) for row in rows if row["epoch"] == "1"}
    assert peaks["none"] > peaks["last:1"] > peaks["match:block2"]
    again = Recipe.from_toml(run.path / "recipe.toml")
    assert [phase.unfreeze for phase in again.phases] == ["none", "last:1", "match:block2"]


@pytest.mark.parametrize("store_limit", [0, 10**9])  # from pixels, or from what is stored
@pytest.mark.usefixtures("eager")
def test_training_continues_from_a_solved_head_and_scores_the_result(  # noqa: PLR0917
    table, store, network_file, tmp_path, monkeypatch, store_limit
) -> None:
    nothing = property(lambda head: np.zeros_like(head.rule.weights, np.float32))
    monkeypatch.setattr(SolvedHead, "weights", nothing)  # so there is something left to learn
    phases, head = (Phase("none", epochs=3, learning_rate=3e-2),), HeadSpec(dropout=0.0)
    recipe = Recipe(image=("image",), target=("kind",), backbone=str(network_file), head=head, phases=phases)
    recipe = replace(recipe, augment=(), store_limit=store_limit)
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    assert run.metrics["decision"]["phases"][0]["best_epoch"] > 0
    with (run.path / "split.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "validation"]
    pixels = np.stack([np.asarray(Image.open(table.parent / row["image"])) for row in rows])
    red = run.model.predict(pixels.astype(np.float32), verbose=0)[:, 0]
    right = np.where([row["target"] == "stripe" for row in rows], red, 1 - red)
    assert run.metrics["validation"]["log_loss"]["value"] == pytest.approx(-np.log(right).mean(), rel=1e-2)


def test_several_images_of_a_sample_are_pooled(table, store, network_file, tmp_path) -> None:
    recipe = Recipe(
        image=("image", "other"), target=("kind",), group="group", backbone=str(network_file), phases=()
    )
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    assert run.model.input_shape == (None, 2, 32, 32, 3)
    pair = (table.parent / "001.png", table.parent / "003.png")
    (answer,) = run.bundle.predict([pair])
    assert answer.label == "stripe"
    (scores,) = run.bundle.evaluate(table)
    assert scores.n == 48
    assert scores.scores["top1"].value == 1.0
    with pytest.raises(regraft.UsageError, match="2 images per sample"):
        list(run.bundle.predict([pair[0]]))


def test_several_images_of_a_sample_cannot_be_fine_tuned_on(table, store, network_file, tmp_path) -> None:
    recipe = Recipe(
        image=("image", "other"), target=("kind",), backbone=str(network_file), phases=(Phase("all"),)
    )
    with pytest.raises(regraft.UsageError, match="several images"):
        regraft.train(table, recipe, tmp_path / "run", store=store)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("solver", ["svm", "svm-rbf", "ridge", "lda", "neighbours"])
def test_classical_heads_stay_in_one_plain_model(table, store, network_file, tmp_path, solver) -> None:
    recipe = Recipe(
        image=("image",),
        target=("kind",),
        backbone=str(network_file),
        phases=(),
        head=HeadSpec(solver=solver),
    )
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    assert run.metrics["validation"]["top1"]["value"] >= 0.9
    assert not (run.path / "head.skops").exists()
    plain = keras.models.load_model(run.path / "model.keras", safe_mode=True)
    pixels = np.random.default_rng(0).uniform(0, 255, (3, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(
        plain.predict(pixels, verbose=0), run.model.predict(pixels, verbose=0), atol=1e-5
    )


def test_estimators_from_python_are_saved_with_skops(table, store, network_file, tmp_path) -> None:
    recipe = Recipe(image=("image",), target=("kind",), backbone=str(network_file), phases=())
    forest = RandomForestClassifier(20, random_state=0)
    run = regraft.train(table, recipe, tmp_path / "run", head=forest, store=store)
    assert (run.path / "head.skops").exists()
    answers = list(run.bundle.predict([table.parent / "001.png", table.parent / "002.png"]))
    assert [answer.label for answer in answers] == ["stripe", "plain"]
    assert run.bundle.evaluate(table)[0].scores["top1"].value >= 0.95
    damaged = bytearray((run.path / "head.skops").read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (run.path / "head.skops").write_bytes(damaged)
    with pytest.raises(regraft.ModelRefused, match="manifest"):
        list(run.bundle.predict([table.parent / "001.png"]))


def test_a_solver_for_a_head_with_layers_of_its_own_is_refused(table, store, network_file, tmp_path) -> None:
    with pytest.raises(regraft.UsageError, match="auto or gradient"):
        HeadSpec(hidden=(4,), solver="svm")
    recipe = Recipe(image=("image",), target=("kind",), backbone=str(network_file), phases=())
    recipe = replace(recipe, head=HeadSpec(hidden=(4,)))
    with pytest.raises(regraft.UsageError, match="RandomForestClassifier solves a head without"):
        regraft.train(table, recipe, tmp_path / "run", head=RandomForestClassifier(5), store=store)


def test_views_of_an_image_are_computed_once_and_seen_in_training_only(
    table, store, network_file, tmp_path
) -> None:
    recipe = Recipe(
        image=("image",), target=("kind",), backbone=str(network_file), phases=(), augment=("flip",), views=3
    )
    first = regraft.train(table, recipe, tmp_path / "a", store=store)
    again = regraft.train(table, recipe, tmp_path / "b", store=store)
    assert again.metrics["features"]["computed"] == 0
    assert again.metrics["validation"] == first.metrics["validation"]
    assert not [layer for layer in first.model.layers if "random" in layer.name]


def test_a_backbone_of_ones_own_and_a_head_of_ones_own(table, store, network_file, tmp_path) -> None:
    backbone = load_backbone(network_file)
    head = keras.Sequential([keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(1, "sigmoid")])
    recipe = Recipe(image=("image",), target=("kind",), phases=())
    run = regraft.train(table, recipe, tmp_path / "run", backbone=backbone, head=head, store=store)
    assert run.metrics["decision"]["phases"][0]["epochs"] > 0
    assert "passed in again: backbone, head" in (run.path / "recipe.toml").read_text()
    written = Recipe.from_toml(run.path / "recipe.toml")
    assert written.head.source == "python:Sequential"
    for objects, words in (({"head": head}, "backbone: "), ({"backbone": backbone}, "head: Sequential was")):
        with pytest.raises(regraft.UsageError, match=f"{words}.*passed in from Python"):
            regraft.train(table, written, tmp_path / "again", store=store, **objects)
    assert not (tmp_path / "again").exists()
    assert run.model.layers[-1] is head or head in run.model._flatten_layers()


def test_a_model_no_better_than_the_mean_gets_a_warning(table, store, network_file, tmp_path, capsys) -> None:
    lines = table.read_text().splitlines()
    rng = np.random.default_rng(3)
    noise = [f"{line.split(',')[0]},{rng.normal():.4f}" for line in lines[1:]]
    path = table.parent / "noise.csv"
    path.write_text("\n".join(["image,noise", *noise]) + "\n")
    recipe = Recipe(image=("image",), target=("noise",), backbone=str(network_file), phases=(), refit="never")
    run = regraft.train(path, recipe, tmp_path / "run", store=store)
    (warning,) = run.metrics["warnings"]
    assert "o better than predicting the mean" in warning
    assert warning in capsys.readouterr().err
    assert "better than predicting the mean" in (run.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"phases": (Phase("stage:nowhere"),)}, "no stage nowhere"),
        ({"phases": (Phase("last:9999"),)}, "has 15 layers"),
        ({"phases": (Phase("match:nothing_like_it"),)}, "match"),
        ({"target": ("knid",)}, 'Did you mean "kind"'),
        ({"target": ()}, "say --target COLUMN"),
        ({"task": "binary", "target": ("group",)}, "binary"),
        ({"task": "regression"}, "regression"),
    ],
)
def test_impossible_settings_are_refused_in_one_message(  # noqa: PLR0917
    table, store, network_file, tmp_path, change, words
) -> None:
    settings = {"image": ("image",), "target": ("kind",), "backbone": str(network_file), "phases": ()}
    with pytest.raises(regraft.RegraftError, match=words):
        regraft.train(table, Recipe(**{**settings, **change}), tmp_path / "run", store=store)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("eager")
def test_a_function_as_plan_is_recorded_by_the_names_it_chose(table, store, network_file, tmp_path) -> None:
    plan = Phase(lambda layer: layer.name.endswith("_conv") and "block" in layer.name, epochs=1, batch_size=8)
    recipe = Recipe(
        image=("image",), target=("kind",), backbone=str(network_file), phases=(plan,), augment=()
    )
    run = regraft.train(table, recipe, tmp_path / "run", store=store)
    again = Recipe.from_toml(run.path / "recipe.toml")
    assert again.phases[0].unfreeze == "match:^(block1_conv|block2_conv)$"
    assert run.metrics["decision"]["phases"][0]["layers"] == 2


@pytest.fixture
def bytes_are_free(monkeypatch) -> None:
    """Make storing free: small networks run faster than anything is read, so nothing would be stored."""
    for name in ("WRITE_COST", "READ_COST"):
        monkeypatch.setattr(planning, name, 0)


def make_recipe(network_file, **changes) -> Recipe:
    recipe = Recipe(
        image=("image",), target=("kind",), backbone=str(network_file), augment=("flip",),
        phases=(Phase("last:1", epochs=2, batch_size=8),),
    )  # fmt: skip
    return replace(recipe, **changes)


@pytest.mark.usefixtures("eager")
def test_a_phase_stores_its_boundary_once_and_says_how_much(  # noqa: PLR0917
    table, store, network_file, tmp_path, capsys, bytes_are_free
) -> None:
    recipe = replace(make_recipe(network_file), refit="never")  # whether there is time depends on the machine
    first = regraft.train(table, recipe, tmp_path / "a", store=store)
    output = capsys.readouterr().err
    assert "Plan: store 4 KB an image in 2 views, " in output
    assert output.index("Plan: store 4 KB") < output.index("Plan of view 1")
    assert re.search(r"Plan: fine-tune last:1, .*; a step takes about \d+ KB of memory\.", output)
    shutil.rmtree(store / "phases-1")  # else nothing would read what is stored
    again = regraft.train(table, recipe, tmp_path / "b", store=store)
    output = capsys.readouterr().err
    assert output.count("nothing to compute") == 3  # pooled, and the boundary in two views
    assert read(again, "metrics.json")["validation"] == read(first, "metrics.json")["validation"]
    (phase,) = again.metrics["decision"]["phases"]
    assert phase["layers"] == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"store_limit": 1000.0}, "would exceed the 1 KB that may still be stored"),
        ({"augment": ("flip", "mixup")}, "because images are mixed (mixup)"),
    ],
)
@pytest.mark.usefixtures("eager")
def test_frozen_layers_that_cannot_be_stored_run_in_every_epoch_and_a_message_says_why(  # noqa: PLR0917
    table, store, network_file, tmp_path, capsys, bytes_are_free, changes, words
) -> None:
    regraft.train(table, make_recipe(network_file, **changes), tmp_path / "run", store=store)
    output = capsys.readouterr().err
    assert "run the frozen layers in every epoch" in output
    assert words in output
    assert "Plan: store" not in output


@pytest.mark.usefixtures("eager")
def test_plans_are_compared_by_a_few_epochs_and_the_best_goes_on(
    table, network_file, tmp_path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(planning, "SMALL", 0.99)
    backbone = replace(load_backbone(network_file), stages={"early": 0, "late": 9})
    recipe = make_recipe("", backbone="mobilenet_v2", phases=(Phase("auto", epochs=1),), refit="never")
    run = regraft.train(table, recipe, tmp_path / "run", backbone=backbone, store=tmp_path / "store")
    assert "Plan: compare stage:late, all by 2 epochs each" in capsys.readouterr().err
    (phase,) = run.metrics["decision"]["phases"]
    reason = run.metrics["decision"]["reason"]
    losses = re.search(r"validation loss of (\S+) with stage:late, (\S+) with all", reason)
    assert losses
    assert phase["unfreeze"] == ("all" if float(losses[2]) < float(losses[1]) else "stage:late")
    again = Recipe.from_toml(run.path / "recipe.toml")
    assert [phase.unfreeze for phase in again.phases] == [phase["unfreeze"]]
