"""Networks of the user's own in complete runs: what the recipe records, and that every form is the same."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import pytest
from conftest import small_network
from helpers.reporters import Recorder

import regraft
from regraft.backbones.load import load_backbone
from regraft.errors import UsageError
from regraft.features.keras_engine import fingerprint
from regraft.models.freeze import resolve_plan
from regraft.pipeline.backbone_ranking import make_network_recipes
from regraft.pipeline.embed import embed
from regraft.pipeline.prepare import open_backbone, report_backbone
from regraft.recipe import Recipe

layers = keras.layers


@pytest.mark.slow
def test_recipe_records_the_digest_of_the_file_and_holds_later_runs_to_it(
    photos: Path, network_file: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.keras"
    shutil.copy(network_file, file)
    run = regraft.train(
        photos, Recipe(backbone=str(file), phases=()), tmp_path / "run", store=tmp_path / "store"
    )
    recipe = Recipe.from_toml(run.path / "recipe.toml")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert recipe.weights == f"file sha256 {digest}"
    manifest = json.loads((run.path / "manifest.json").read_text())
    assert manifest["backbone"]["weights"] == f"file mine.keras sha256 {digest}"
    reporter = Recorder()
    assert open_backbone(recipe, reporter=reporter).weights == manifest["backbone"]["weights"]
    small_network(blocks=1).save(file)
    with pytest.raises(
        UsageError, match=rf"mine\.keras has changed\. Expected: sha256 {digest}.*set weights to file"
    ):
        open_backbone(recipe, reporter=reporter)
    assert open_backbone(replace(recipe, weights="file"), reporter=reporter).name == "small_network"


def test_file_stands_for_no_weights_of_a_named_backbone() -> None:
    with pytest.raises(UsageError, match=r"file stands for those of a \.keras file"):
        load_backbone("vgg16", weights="file")


def test_cautions_are_warned_of() -> None:
    backbone = load_backbone(small_network(), pixels="unit")
    reporter = Recorder()
    report_backbone(reporter, replace(backbone, cautions=("The pixels look wrong.",)))
    assert reporter.warnings == ["The pixels look wrong."]
    assert any("converts to" in line or "convert to" in line for line in reporter.lines)


@pytest.mark.slow
def test_a_classifier_can_stay(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = small_network()
    x = layers.Dense(12, name="logits")(layers.GlobalAveragePooling2D()(body.output))
    keras.Model(body.input, x).save(tmp_path / "mine.keras")
    recipe = Recipe(backbone=str(tmp_path / "mine.keras"), classifier="keep")
    widths = [
        embed(photos, chosen, tmp_path / "features.npz", overwrite=True, store=tmp_path / "store").features
        for chosen in (recipe, replace(recipe, classifier="auto"))
    ]
    assert widths == [12, 16]
    messages = capsys.readouterr().err
    assert "The classifier stays: its 12 answers are the features." in messages
    assert "The classifier was cut off: global_average_pooling2d" in messages


def test_settings_of_own_backbones_are_not_passed_to_named_ones() -> None:
    recipe = Recipe(pixels="unit", classifier="keep", precision="f32")
    own, named = make_network_recipes(recipe, ["./mine.keras", "vgg16"], "imagenet")
    assert (own.pixels, own.classifier, own.precision) == ("unit", "keep", "f32")
    assert (named.pixels, named.classifier, named.precision) == ("", "auto", "f32")


SIZE = 128


def make_forms(weights: Path) -> dict[str, Callable[[], keras.Model]]:
    def body() -> keras.Model:
        shape = (SIZE, SIZE, 3)
        return keras.applications.Xception(include_top=False, weights=weights, input_shape=shape)

    def put_inside(*top: keras.layers.Layer) -> keras.Model:
        image, base = keras.Input((SIZE, SIZE, 3)), body()
        base.trainable = False
        x = base(image, training=False)
        for layer in top:
            x = layer(x)
        return keras.Model(image, x)

    def classify() -> keras.Model:
        base = body()
        x = layers.GlobalAveragePooling2D()(base.output)
        return keras.Model(base.input, layers.Dense(6, activation="softmax")(x))

    return {
        "functional": body,
        "nested": put_inside,
        "softmax": classify,
        "logits": lambda: put_inside(layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(6)),
    }


@pytest.mark.soak
def test_every_form_of_xception_is_xception(
    clothing: Path, shared_file: Callable[[str], Path], tmp_path: Path
) -> None:
    """Its name, and four files: the same features, plans and accuracy; the features are computed once."""
    weights = shared_file("weights/xception_imagenet_notop_f16.weights.h5")
    for part, count in (("train", 12), ("test", 10)):
        for folder in sorted((clothing / part).iterdir()):
            (tmp_path / "photos" / part / folder.name).mkdir(parents=True)
            for file in sorted(folder.iterdir())[:count]:
                (tmp_path / "photos" / part / folder.name / file.name).symlink_to(file)
    recipes = {"name": Recipe(backbone="xception", weights=str(weights), image_size=SIZE, phases=())}
    for form, build in make_forms(weights).items():
        build().save(tmp_path / f"{form}.keras")
        recipes[form] = Recipe(backbone=str(tmp_path / f"{form}.keras"), phases=())
    results = {}
    for form, recipe in recipes.items():
        backbone = open_backbone(recipe, reporter=Recorder())
        plans = {stage: resolve_plan(backbone, f"stage:{stage}").count for stage in backbone.stages}
        run = regraft.train(tmp_path / "photos", recipe, tmp_path / form, store=tmp_path / "store")
        metrics = json.loads((run.path / "metrics.json").read_text())
        assert (metrics["features"]["computed"] == 0) == (form != "name")
        assert backbone.cautions == ()
        results[form] = (fingerprint(backbone.model), plans, metrics["test"]["top1"])
    assert len(results["name"][1]) == 14
    assert results["name"][2]["value"] > 0.4
    assert [form for form, result in results.items() if result != results["name"]] == []
