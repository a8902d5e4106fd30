"""`regraft recommend`: the backbone that knows the task is first, and each network sees the sample once."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from helpers.stripe_images import SIDE, network, trained, write_stripes
from sklearn.linear_model import RidgeClassifierCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from typer.testing import CliRunner

import regraft
from regraft import DataError, EnvironmentFault, Recipe, UsageError, recommend, train
from regraft.cli import app

pytestmark = pytest.mark.slow

EACH = 30


@pytest.fixture(scope="module")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("data") / "striped", each=EACH)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return two networks with random weights and one, the last, that was trained on other stripes."""
    folder = tmp_path_factory.mktemp("networks")
    for model in (network(1), network(2), trained(network(3), images=240, epochs=12)):
        model.save(folder / f"{model.name}.keras")
    return [str(folder / f"net{number}.keras") for number in (1, 2, 3)]


def write_table(table: Path, header: list[str], rows: list[list[object]]) -> Path:
    with table.open("w", newline="") as out:
        csv.writer(out).writerows([header, *rows])
    return table


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """Decode without child processes, which have tests of their own."""


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_HOME", str(tmp_path / "store"))


def test_the_trained_network_is_first_by_every_score(striped: Path, networks: list[str]) -> None:
    recommendation = recommend(striped, backbones=networks)
    assert recommendation.best.backbone == networks[-1]
    assert recommendation.best.score > 0.9
    assert (recommendation.score_name, recommendation.images, recommendation.left_out) == (
        "top-1",
        3 * EACH,
        (),
    )
    for name in ("score", "logme", "h_score"):
        values = [getattr(ranked, name) for ranked in recommendation.ranked]
        assert values[0] == max(values), name
    scores = [ranked.score for ranked in recommendation.ranked]
    assert scores == sorted(scores, reverse=True)
    model = regraft.load_backbone(recommendation.best.backbone).model
    assert (recommendation.best.parameters, recommendation.best.image_size, recommendation.best.features) == (
        model.count_params(),
        SIDE,
        6,
    )
    assert recommendation.best.megabytes == pytest.approx(4e-6 * model.count_params())


def test_the_score_is_that_of_scikit_learns_ridge_on_the_same_features(
    striped: Path, networks: list[str], tmp_path: Path
) -> None:
    recommendation = recommend(striped, backbones=networks[:1])
    regraft.embed(striped, Recipe(backbone=networks[0]), tmp_path / "f.npz")
    table = np.load(tmp_path / "f.npz")
    pipeline = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-2, 4, 20)))
    scores = cross_val_score(pipeline, table["features"], table["class"])
    assert recommendation.best.score == pytest.approx(scores.mean(), abs=0.08)  # other folds


def test_a_network_costs_one_pass_of_the_sample_and_training_uses_it(
    striped: Path, networks: list[str], seen: list[int], tmp_path: Path
) -> None:
    recommendation = recommend(striped, backbones=networks[1:], sample=60)
    assert recommendation.images == 60
    assert sum(seen) == 2 * 60
    again = recommend(striped, backbones=networks[1:], sample=75)  # holds the smaller sample
    assert sum(seen) == 2 * 75
    run = train(striped, Recipe(backbone=again.best.backbone, phases=()), tmp_path / "run")
    assert run.metrics["features"] == {"computed": 3 * EACH - 75, "reused": 75}


def test_every_class_has_its_share_and_test_images_are_not_used(
    striped: Path, networks: list[str], seen: list[int]
) -> None:
    files = sorted(striped.rglob("*.png"))
    parts = ["test" if number % 3 == 0 else "train" for number in range(len(files))]
    rows = [[file, file.parent.name, part] for file, part in zip(files, parts, strict=True)]
    table = write_table(striped.parent / "parts.csv", ["file", "label", "part"], rows)
    recipe = Recipe(image=("file",), target=("label",), split="part")
    recommendation = recommend(table, recipe, backbones=networks[:1])
    assert recommendation.images == sum(seen) == 2 * EACH
    assert recommend(table, recipe, backbones=networks[:1], sample=30).images == 30
    words = shlex.split(recommendation.command)
    assert words[:3] == ["regraft", "train", str(table)]
    assert dict(zip(words[3::2], words[4::2], strict=True)) == {
        "--image": "file", "--target": "label", "--split": "part", "--backbone": networks[0],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("task", "score"), [("multilabel", "mAP"), ("regression", "R2"), ("binary", "top-1")]
)
def test_other_tasks(task: str, score: str, striped: Path, networks: list[str]) -> None:
    rng = np.random.default_rng(0)
    words = {
        "multilabel": {"diagonal": "any|slant", "level": "any", "upright": "straight"},
        "regression": {"diagonal": "0", "level": "1", "upright": "3"},
        "binary": {"diagonal": "no", "level": "yes", "upright": "no"},
    }[task]
    rows = [[file, words[file.parent.name]] for file in sorted(striped.rglob("*.png"))]
    if task == "regression":
        rows = [[file, f"{float(word) + rng.normal(0, 0.1):.3f}"] for file, word in rows]
    table = write_table(striped.parent / f"{task}.csv", ["file", "target"], rows)
    separator = "|" if task == "multilabel" else ""
    recipe = Recipe(image=("file",), target=("target",), task=task, separator=separator)
    recommendation = recommend(table, recipe, backbones=[networks[0], networks[2]])
    assert recommendation.score_name == score
    assert recommendation.best.backbone == networks[-1]
    assert recommendation.best.score > recommendation.ranked[-1].score


def test_backbones_that_cannot_be_loaded_are_named_and_skipped(
    striped: Path, networks: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    broken = tmp_path / "broken.keras"
    broken.write_text("no model")
    recommendation = recommend(striped, backbones=["vgg16", str(broken), networks[0]], sample=30)
    assert [ranked.backbone for ranked in recommendation.ranked] == [networks[0]]
    assert [skipped.backbone for skipped in recommendation.left_out] == ["vgg16", str(broken)]
    assert "cannot be downloaded: " in recommendation.left_out[0].reason
    with pytest.raises(EnvironmentFault, match="vgg16 are not on this machine"):
        recommend(striped, backbones=["vgg16", str(broken)], sample=30)


def test_mistakes_are_reported_before_anything_runs(
    striped: Path, networks: list[str], seen: list[int]
) -> None:
    with pytest.raises(UsageError, match='Did you mean "resnet50"'):
        recommend(striped, backbones=[networks[0], "resnet5O"])
    with pytest.raises(UsageError, match="one for each of 3 backbones"):
        recommend(striped, backbones=networks, weights=["random", "imagenet"])
    with pytest.raises(UsageError, match="expected at least one"):
        recommend(striped, backbones=[])
    with pytest.raises(UsageError, match="Received: gem"):
        recommend(striped, Recipe(head=regraft.HeadSpec(pooling="gem")), backbones=networks)
    with pytest.raises(DataError, match="at least 2 classes"):
        recommend(striped.parent, backbones=networks)
    assert not seen


def test_the_command_prints_a_table_and_the_next_command(striped: Path, networks: list[str]) -> None:
    names = ["--backbones", f"{networks[0]},{networks[2]}", "--weights", "random,imagenet"]
    options = ["recommend", str(striped), *names, "--sample", "30"]
    shown = CliRunner().invoke(app, options, catch_exceptions=False).stdout
    lines = [line.split() for line in shown.splitlines() if line.strip()]
    assert lines[0][:4] == ["backbone", "top-1", "LogME", "H-score"]
    assert [line[0] for line in lines[2:4]] == [networks[2], networks[0]]
    assert f"Next: regraft train {striped} --backbone {networks[2]}" in shown
    ranked = json.loads(CliRunner().invoke(app, [*options, "--json"], catch_exceptions=False).stdout)[
        "ranked"
    ]
    assert [entry["backbone"] for entry in ranked] == [networks[2], networks[0]]
    assert ranked[1]["weights"] == "random"
