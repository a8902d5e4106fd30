"""Several networks at once: each is computed once, under its own keys, and one plain model has them all."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.stripe_images import SIDE, network, trained, write_stripes
from PIL import Image
from typer.testing import CliRunner

import regraft
from regraft import HeadSpec, Phase, Recipe, UsageError
from regraft.cli import app
from regraft.pipeline.backbone_ranking import RankedBackbone, choose_best

pytestmark = pytest.mark.slow

EACH = 24


@pytest.fixture(autouse=True)
def quick_decoding(in_this_process: None) -> None:
    """Decode without child processes, which have tests of their own."""


@pytest.fixture(scope="module")
def striped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stripes(tmp_path_factory.mktemp("data") / "striped", each=EACH)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Return two networks with layers of the same names; the second takes larger images."""
    folder = tmp_path_factory.mktemp("networks")
    trained(network(1), images=120, epochs=6).save(folder / "small.keras")
    pixels = keras.Input((SIDE + 8, SIDE + 8, 3))
    x = keras.layers.Conv2D(6, 5, activation="relu", name="first")(pixels)
    x = keras.layers.Conv2D(9, 3, activation="relu", name="second")(x)
    keras.Model(pixels, x, name="large").save(folder / "large.keras")
    return str(folder / "small.keras"), str(folder / "large.keras")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs") / "store"


@pytest.fixture(scope="module")
def run(
    striped: Path, networks: tuple[str, str], store: Path, tmp_path_factory: pytest.TempPathFactory
) -> regraft.Run:
    both = Recipe(backbone=",".join(networks), head=HeadSpec(taps="last"), refit="never")
    return regraft.train(striped, both, tmp_path_factory.mktemp("runs") / "both", store=store)


def read_predictions(run: Path) -> tuple[list[str], np.ndarray]:
    with (run / "predictions.csv").open(newline="") as file:
        _header, *rows = csv.reader(file)
    return [row[0] for row in rows], np.array([row[4:] for row in rows], float)


def test_the_model_on_disk_answers_as_the_stored_features_did(run: regraft.Run, striped: Path) -> None:
    names, expected = read_predictions(run.path)
    pixels = np.stack([np.asarray(Image.open(striped / name), np.float32) for name in names])
    model = keras.models.load_model(run.path / "model.keras", compile=False)
    assert model.input_shape == (None, SIDE, SIDE, 3)
    np.testing.assert_allclose(model.predict(pixels, verbose=0), expected, atol=1e-3)
    answers = [list(answer.values.values()) for answer in run.bundle.predict([striped / names[0]])]
    np.testing.assert_allclose(answers, expected[:1], atol=1e-3)
    assert (run.path / "openvino.xml").is_file()
    assert json.loads((run.path / "manifest.json").read_text())["backbone"]["name"] == "net1 + large"


def test_its_head_sees_both_networks(run: regraft.Run) -> None:
    model = keras.models.load_model(run.path / "model.keras", compile=False)
    kernel = model.layers[-1].get_weights()[0]
    assert kernel.shape == (6 + 9, 3)
    assert np.abs(kernel[:6]).max() > 0
    assert np.abs(kernel[6:]).max() > 0


@pytest.mark.usefixtures("run")
def test_a_second_network_leaves_the_features_of_the_first_as_they_are(
    striped: Path,
    networks: tuple[str, str],
    store: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = Recipe(backbone=networks[0], head=HeadSpec(taps="last"), phases=())
    regraft.train(striped, recipe, tmp_path / "run", store=store)
    assert f"all {3 * EACH} images are in the store, nothing to compute" in capsys.readouterr().err


def test_its_recipe_makes_the_same_model_again(
    run: regraft.Run, striped: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe.from_toml(run.path / "recipe.toml")
    assert recipe.phases == ()
    assert len(recipe.networks) == 2
    assert recipe.weights.count("sha256") == 2
    again = regraft.train(striped, recipe, tmp_path / "again", store=store)
    assert capsys.readouterr().err.count("nothing to compute") == 2
    np.testing.assert_array_equal(read_predictions(again.path)[1], read_predictions(run.path)[1])


def test_layers_near_the_end_of_each_network_are_chosen_by_cross_validation(
    striped: Path, networks: tuple[str, str], store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone = ",".join(reversed(networks))  # the trained one is the last, whose output is always used
    run = regraft.train(striped, Recipe(backbone=backbone), tmp_path / "run", store=store)
    messages = capsys.readouterr().err
    assert "Taps: " in messages
    assert "sees the images of 32 pixels a side at its own 24" in messages
    assert "for several networks are used frozen" in messages
    assert run.metrics["validation"]["top1"]["value"] > 0.5


def test_answers_can_be_explained(run: regraft.Run, striped: Path) -> None:
    from regraft.explanation.explainer import Explainer

    explainer = Explainer(run.bundle)
    (explanation,) = explainer.explain([next(striped.rglob("*.png"))])
    assert explainer.method == "map"
    assert np.isfinite(explanation.heat).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"backbone": "vgg16,"}, "on each side of a comma"),
        ({"backbone": "auto,vgg16"}, "expected auto alone"),
        ({"backbone": "vgg16,vgg19", "weights": "a,b,c"}, "one for each of 2 networks"),
        ({"backbone": "vgg16,vgg19", "phases": (Phase("all"),)}, "unfreeze: expected none or auto"),
        ({"backbone": "vgg16,vgg19", "head": HeadSpec(hidden=(8,))}, "for several networks"),
        ({"backbone": "vgg16", "max_latency": 5.0}, "max_latency: expected none unless"),
        ({"backbone": "auto", "max_latency": -1.0}, "max_latency: expected milliseconds above 0"),
        ({"backbone": "auto", "weights": "random"}, "weights: expected imagenet for"),
    ],
)
def test_what_several_networks_cannot_do_is_refused_before_any_work(settings: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Recipe(**settings)


def test_wrong_lists_and_heads_get_one_message(
    striped: Path, networks: tuple[str, str], store: Path, tmp_path: Path
) -> None:
    twice, both = ",".join([networks[0]] * 2), ",".join(networks)
    with pytest.raises(UsageError, match="different networks"):
        regraft.train(striped, Recipe(backbone=twice), tmp_path / "run", store=store)
    with pytest.raises(UsageError, match="vgg166"):
        regraft.train(striped, Recipe(backbone=f"{networks[0]},vgg166"), tmp_path / "run", store=store)
    head = keras.layers.Dense(3, "softmax")
    with pytest.raises(UsageError, match="none of your own for several networks"):
        regraft.train(striped, Recipe(backbone=both), tmp_path / "run", head=head, store=store)
    with pytest.raises(UsageError, match="one network for a search"):
        regraft.search(striped, Recipe(backbone=both), tmp_path / "run", store=store)
    with pytest.raises(UsageError, match="only train takes several"):
        regraft.embed(striped, Recipe(backbone=both), tmp_path / "features.npz", store=store)
    assert not (tmp_path / "run").exists()


def test_pairs_are_ranked_behind_networks_alone(
    striped: Path, networks: tuple[str, str], store: Path
) -> None:
    recommendation = regraft.recommend(striped, backbones=networks, store=store)
    (pair,) = recommendation.pairs
    one, other = recommendation.ranked
    assert set(pair.backbone.split(",")) == set(networks)
    assert pair.features == one.features + other.features
    assert pair.milliseconds == pytest.approx(one.milliseconds + other.milliseconds)
    assert recommendation.best in (one, pair)


def test_a_pair_has_to_be_better_by_a_point_and_more_than_chance() -> None:
    def make(name: str, score: float) -> RankedBackbone:
        return RankedBackbone(name, "imagenet", score, 0.0, 0.0, 10.0, 1, 1.0, 24, 8)

    alone = [make("a", 0.9), make("b", 0.8)]
    assert choose_best(alone, [], 1000).backbone == "a"
    assert choose_best(alone, [make("a,b", 0.905)], 10_000).backbone == "a"
    assert choose_best(alone, [make("a,b", 0.915)], 10_000).backbone == "a,b"
    assert choose_best(alone, [make("a,b", 0.915)], 100).backbone == "a"  # an error of three points


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the weights of two small published networks be on this machine."""
    cache = tmp_path / "keras" / "models"
    cache.mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    from regraft.backbones.zoo import find_entry

    for name, constructor in (("mobilenet", "MobileNet"), ("mobilenet_v2", "MobileNetV2")):
        keras.utils.set_random_seed(0)
        model = getattr(keras.applications, constructor)(
            include_top=False, weights=None, input_shape=(128, 128, 3)
        )
        model.save(cache / find_entry(name).weights_file_at(128))


def test_auto_takes_what_is_on_this_machine_and_fast_enough(
    striped: Path, published: None, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = Recipe(backbone="auto", max_latency=1e-3, image_size=128)
    with pytest.raises(UsageError, match=r"at most 0.001 ms .* The fastest is mobilenet\w* with"):
        regraft.train(striped, recipe, tmp_path / "run", store=store)
    recipe = Recipe(backbone="auto", max_latency=1e6, image_size=128, phases=())
    run = regraft.train(striped, recipe, tmp_path / "run", store=store)
    chosen = Recipe.from_toml(run.path / "recipe.toml")
    assert chosen.max_latency is None
    assert set(chosen.networks) <= {"mobilenet", "mobilenet_v2"}
    assert "2 backbones on" in capsys.readouterr().err


def test_max_latency_alone_is_refused_by_the_command(striped: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(striped), "--max-latency", "5"])
    assert result.exit_code != 0
    assert "unless backbone is auto" in str(result.exception or result.output)
