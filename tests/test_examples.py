"""The programs in `examples`, run on small made data, each with its promise checked.

Weights are drawn and images are small. Where the number of layers matters, networks are those of the programs
(a ResNet50 has its 174 layers). Elsewhere smaller ones stand in, and theirs run in `make soak`.
"""

from __future__ import annotations

import csv
import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest
from conftest import small_network, write_photos
from helpers.networks import answer, assert_close, branched, tiny
from helpers.savedmodels import Net, reusable
from sklearn.preprocessing import StandardScaler

import regraft
from regraft.backbones.preprocessing import find_contract
from regraft.data.images.decode import decode
from regraft.models.cut import cut
from regraft.models.freeze import freeze
from regraft.models.head import is_head

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_store", "in_this_process")]

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
SMALL = {"weights": "random", "image_size": 32}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photos(tmp_path_factory.mktemp("data") / "photos", each=16)


def example(name: str) -> ModuleType:
    found = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def pixels_of(folder: Path, size: int) -> np.ndarray:
    files = sorted(folder.rglob("*.png"))
    return np.stack([decode(file.read_bytes(), size).pixels for file in files]).astype("float32")


def write_resnet(name: str, folder: Path) -> dict[str, object]:
    """Drawn weights whose features do not explode over a hundred residual blocks: a head learns from them for
    many epochs, and its loss on validation never is zero, so that fine-tuning has something to gain."""
    network = {"resnet50": keras.applications.ResNet50, "resnet152": keras.applications.ResNet152}[name]
    base = network(include_top=False, weights=None, input_shape=(32, 32, 3))
    for layer in base.layers:
        share = 0.01 if layer.name == "conv1_conv" else 0.2 if layer.name.endswith("_3_bn") else 1.0
        if share < 1:
            kernel_or_gamma, *others = layer.get_weights()
            layer.set_weights([share * kernel_or_gamma, *others])
    file = folder / "notop.weights.h5"
    base.save_weights(file)
    return {"backbone": name, "weights": str(file), "image_size": 32}


def in_model(run: regraft.Run, backbone: regraft.Backbone) -> list[keras.layers.Layer]:
    """The layers of a run's model that are the backbone's, in its order."""
    layers = [
        layer
        for layer in run.model.layers
        if not (isinstance(layer, keras.layers.InputLayer) or find_contract(layer) or is_head(layer))
    ]
    assert [type(layer) for layer in layers] == [type(layer) for layer in backbone.layers]
    return layers


def moved(run: regraft.Run, backbone: regraft.Backbone) -> set[int]:
    """Places of layers with a weight or statistic that is not, bit by bit, the untouched backbone's."""
    return {
        place
        for place, (now, before) in enumerate(zip(in_model(run, backbone), backbone.layers, strict=True))
        if any((a != b).any() for a, b in zip(now.get_weights(), before.get_weights(), strict=True))
    }


def trainable_places(backbone: regraft.Backbone) -> set[int]:
    """Places of the layers with weights, batch normalisation left out."""
    return {
        place
        for place, layer in enumerate(backbone.layers)
        if layer.weights and not isinstance(layer, keras.layers.BatchNormalization)
    }


def last(backbone: regraft.Backbone, count: int) -> set[int]:
    """Which of the last layers training moves."""
    return {place for place in trainable_places(backbone) if place >= len(backbone.layers) - count}


def history(run: regraft.Run, phase: str) -> list[dict[str, float]]:
    rows = [row for row in csv.DictReader((run.path / "history.csv").open()) if row.pop("phase") == phase]
    return [{name: float(value) for name, value in row.items()} for row in rows]


def head_of(run: regraft.Run) -> list[tuple[int | None, str]]:
    """Units and activation of the dense layers on top."""
    dense = [layer for layer in run.model.layers if is_head(layer) and isinstance(layer, keras.layers.Dense)]
    return [(layer.units, layer.activation.__name__) for layer in dense]


# --- ResNet152, and in `make test` VGG16, which takes pixels as it does, or ResNet50


PUBLISHED = {
    "vgg16": (keras.applications.VGG16, keras.applications.vgg16.preprocess_input),
    "resnet152": (keras.applications.ResNet152, keras.applications.resnet.preprocess_input),
}


@pytest.fixture(scope="module", params=["vgg16", pytest.param("resnet152", marks=pytest.mark.soak)])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The arguments of a program for a network that Keras has, too."""
    if request.param == "vgg16":
        return {"backbone": "vgg16", **SMALL}
    return write_resnet("resnet152", tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", params=["resnet50", pytest.param("resnet152", marks=pytest.mark.soak)])
def deep(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """The arguments of a program for a network of more than 50 layers."""
    return write_resnet(request.param, tmp_path_factory.mktemp("deep"))


def write_small(folder: Path, blocks: int) -> dict[str, object]:
    small_network(blocks=blocks).save(folder / "small.keras")
    return {"backbone": str(folder / "small.keras"), "image_size": 32}


def load_untouched(backbone: str, **settings: object) -> regraft.Backbone:
    return regraft.load_backbone(backbone, **settings)


@pytest.fixture(scope="module", params=["small", pytest.param("resnet50", marks=pytest.mark.soak)])
def any_network(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, object]:
    """The arguments of a program for which any network will do."""
    folder = tmp_path_factory.mktemp("network")
    return write_small(folder, blocks=4) if request.param == "small" else write_resnet("resnet50", folder)


@pytest.fixture(scope="module")
def untouched(any_network: dict[str, object]) -> regraft.Backbone:
    return load_untouched(**any_network)


def test_stored_features_are_those_of_keras_after_its_own_preprocessing(
    photos: Path, tmp_path: Path, published: dict[str, object]
) -> None:
    untouched = load_untouched(**published)
    run = example("frozen_resnet152").main(photos, tmp_path / "run", **published)
    assert head_of(run) == [(1024, "relu"), (3, "softmax")]
    assert moved(run, untouched) == set()
    network, preprocess = PUBLISHED[untouched.name]
    reference = network(include_top=False, weights=None, pooling="avg", input_shape=(32, 32, 3))
    for layer in untouched.layers:
        reference.get_layer(layer.name).set_weights(layer.get_weights())
    expected = reference.predict(preprocess(pixels_of(photos, 32)), verbose=0)
    embedder = regraft.ImageEmbedder(
        published["backbone"], weights=published["weights"], image_size=32, precision="f32"
    )  # reads what the run has stored
    stored = embedder.transform(sorted(map(str, photos.rglob("*.png"))))
    assert_close(stored, expected, 1e-3)
    by_hand = reference.predict(pixels_of(photos, 32) / 255, verbose=0)
    assert np.abs(by_hand - expected).max() > 0.1 * np.abs(expected).max()  # the mistake is no small one


@pytest.mark.usefixtures("eager")
def test_exactly_the_last_50_layers_move(photos: Path, tmp_path: Path, deep: dict[str, object]) -> None:
    untouched = load_untouched(**deep)
    run = example("finetune_last_50_layers").main(photos, tmp_path / "run", **deep, epochs=1)
    assert moved(run, untouched) == last(untouched, 50)
    count = len(last(untouched, 50))
    assert count == 15
    (phase,) = run.metrics["decision"]["phases"][1:]
    assert (phase["unfreeze"], phase["layers"]) == ("last:50", count)


def test_a_number_is_scored_as_a_number(photos: Path, tmp_path: Path, any_network: dict[str, object]) -> None:
    table = tmp_path / "houses.csv"
    rng = np.random.default_rng(0)
    mean = {"blue": 100_000.0, "green": 200_000.0, "red": 300_000.0}
    rows = [
        f"{file},{mean[file.parent.name] + rng.normal(0, 9000):.2f}" for file in sorted(photos.rglob("*.png"))
    ]
    table.write_text("\n".join(["image,price", *rows]))
    table = relative(table, photos)
    run = example("regression").main(table, tmp_path / "run", **any_network)
    assert head_of(run) == [(128, "relu"), (1, "linear")]
    scores = run.metrics["validation"]
    assert 0 < scores["mae"]["value"] < 82_000  # saying the mean is off by more
    assert not {"top1", "accuracy", "log_loss"} & set(scores)
    assert "top-1" not in (run.path / "report.html").read_text()
    recipe = regraft.Recipe(image=("image",), target=("price",), task="binary")
    with pytest.raises(regraft.UsageError, match="it needs 2 classes, and there are 48"):
        regraft.train(table, recipe, tmp_path / "classes")


def relative(table: Path, root: Path) -> Path:
    """The table beside the images it names, since paths may not leave its folder."""
    moved_to = root.parent / table.name
    moved_to.write_text(table.read_text().replace(f"{root.parent}/", ""))
    return moved_to


# --- ResNet50


@pytest.mark.parametrize("backbone", ["tiny.keras", pytest.param("resnet50", marks=pytest.mark.soak)])
def test_small_images_are_enlarged_and_that_is_said(
    backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny(size=None).save("tiny.keras")
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 10
    arrays = (rng.integers(0, 56, (40, 32, 32, 3)) + 20 * labels[:, None, None, None]).astype(np.uint8)
    settings = {"backbone": backbone, "weights": "random", "image_size": 64}
    run = example("arrays_in_memory").main(arrays, labels, tmp_path / "run", **settings)
    assert head_of(run) == [(128, "relu"), (10, "softmax")]
    assert run.model.input_shape == (None, 64, 64, 3)
    said = " ".join(capfd.readouterr().err.split())
    assert "Most images are small: 32 pixels on the longer side are enlarged to 64." in said


@pytest.mark.usefixtures("eager")
def test_both_phases_run_at_their_rates_and_the_second_moves_the_last_20(
    photos: Path, untouched: regraft.Backbone, tmp_path: Path, any_network: dict[str, object]
) -> None:
    run = example("two_phases").main(photos, tmp_path / "run", **any_network, epochs=2)
    assert head_of(run) == [(512, "relu"), (3, "softmax")]
    assert moved(run, untouched) == last(untouched, 20)
    phases = tomllib.loads((run.path / "recipe.toml").read_text())["phases"]
    assert [(p["unfreeze"], p["learning_rate"]) for p in phases] == [("none", 1e-3), ("last:20", 1e-4)]
    for phase in phases:
        rates = [row["learning_rate"] for row in history(run, phase["unfreeze"])]
        assert 0.4 < max(rates) / phase["learning_rate"] <= 1  # half-way down, at the end of the first epoch


def test_one_unit_no_augmentation_in_the_model_and_no_pixels_in_0_to_1(
    tmp_path: Path, any_network: dict[str, object]
) -> None:
    folder = write_photos(tmp_path / "photos", classes=2, each=8)
    run = example("binary_with_augmentation").main(folder, tmp_path / "run", **any_network)
    assert head_of(run) == [(256, "relu"), (1, "sigmoid")]
    assert run.model.output_shape == (None, 1)
    assert tomllib.loads((run.path / "recipe.toml").read_text())["augment"] == ["flip", "rotation"]
    model = keras.models.load_model(run.path / "model.keras")
    assert not [layer for layer in model.layers if "image_preprocessing" in type(layer).__module__]
    assert "image_preprocessing" in keras.layers.RandomFlip.__module__  # where Keras keeps all of them
    x = pixels_of(folder, 32)
    once, again = model.predict(x, verbose=0), model.predict(x, verbose=0)
    assert (once == again).all()
    with pytest.raises(regraft.DataError, match=r"Expected pixels in 0\.\.255.*pass scale=255"):
        regraft.Catalog.from_arrays(x / 255, [0, 1] * 8)


def test_no_image_runs_through_the_frozen_network_twice(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = example("features_computed_once").main(photos, tmp_path / "a", **SMALL)
    assert first.metrics["features"] == {"computed": 48, "reused": 0}
    assert len(history(first, "none")) > 2  # epochs, none of which computed a feature

    def never(*_: object) -> None:
        raise AssertionError("the frozen network runs again")

    monkeypatch.setattr("regraft.features.engine.make_engine", never)
    second = example("features_computed_once").main(photos, tmp_path / "b", hidden=64, **SMALL)
    assert second.metrics["features"] == {"computed": 0, "reused": 48}
    assert head_of(second) == [(64, "relu"), (3, "softmax")]


@pytest.mark.usefixtures("eager")
def test_only_the_last_convolution_moves(
    photos: Path, untouched: regraft.Backbone, tmp_path: Path, any_network: dict[str, object]
) -> None:
    run = example("finetune_last_5_layers").main(photos, tmp_path / "run", **any_network, epochs=1)
    assert head_of(run) == [(3, "softmax")]
    name = "conv5_block3_3_conv" if untouched.name == "resnet50" else "top_conv"
    assert {untouched.layers[place].name for place in moved(run, untouched)} == {name}
    assert moved(run, untouched) == last(untouched, 5)
    assert run.metrics["decision"]["head"].startswith("logistic regression")


@pytest.mark.parametrize("backbone", ["branched.keras", pytest.param("inception_v3", marks=pytest.mark.soak)])
def test_frozen_and_trained_part_one_after_the_other_give_the_whole(
    backbone: str, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    branched().save("branched.keras")
    settings = {"weights": "random", "image_size": 75}
    untouched = regraft.load_backbone(backbone, **settings)
    run = example("convolution_before_pooling").main(
        photos, tmp_path / "run", backbone=backbone, **settings, epochs=1
    )
    assert [layer.filters for layer in run.model.layers if layer.name.startswith("head_conv")] == [64]
    assert moved(run, untouched) == last(untouched, 10)
    freeze(regraft.load_backbone(run.model), "none")
    ten = {id(layer) for layer in in_model(run, untouched)[-10:]}
    parts = cut(run.model, lambda layer: is_head(layer) or id(layer) in ten)
    assert len(parts.names) > 1  # parallel branches: several tensors cross
    x = pixels_of(photos, 75)
    crossing = parts.prefix(x, training=False)
    given = [crossing[name] for name in parts.names]
    assert_close(answer(parts.suffix, given), answer(run.model, x), 1e-5)


def test_statistics_are_those_of_imagenet_also_when_fit_goes_on(
    photos: Path, untouched: regraft.Backbone, tmp_path: Path, any_network: dict[str, object]
) -> None:
    run = example("inference_mode").main(photos, tmp_path / "run", **any_network)
    assert head_of(run) == [(1024, "relu"), (3, "softmax")]
    assert moved(run, untouched) == set()
    model = keras.models.load_model(run.path / "model.keras")
    before = statistics(model)
    assert len(before) == len(statistics(untouched.model)) == 2 * (53 if untouched.name == "resnet50" else 5)
    model.compile(keras.optimizers.SGD(1e-6), "sparse_categorical_crossentropy")
    model.fit(pixels_of(photos, 32), np.repeat([0, 1, 2], 16), epochs=1, verbose=0)
    assert all((a == b).all() for a, b in zip(before, statistics(model), strict=True))


def statistics(model: keras.Model) -> list[np.ndarray]:
    """The moving means and variances of batch normalisation."""
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    return [np.array(weight) for layer in layers for weight in layer.get_weights()[2:]]


def test_the_old_classifier_is_gone_and_keras_layers_from_140_train(photos: Path, tmp_path: Path) -> None:
    published = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3))
    run = example("cut_off_classifier").main(photos, tmp_path / "run", weights=None, image_size=32, epochs=1)
    assert "predictions" not in [layer.name for layer in run.model.layers]
    assert not [weight for weight in run.model.weights if 1000 in weight.shape]
    pool = run.model.get_layer("head_pool")
    assert pool.input._keras_history.operation.name == "conv5_block3_out"
    trained = {layer.name for layer in run.model.layers if layer.trainable_weights and not is_head(layer)}
    normalisation = keras.layers.BatchNormalization
    expected = {
        layer.name
        for layer in published.layers[140:]
        if layer.weights and not isinstance(layer, normalisation) and layer.name != "predictions"
    }
    assert trained == expected


def test_features_are_pooled_and_the_scaler_sees_the_training_part_only(
    photos: Path, untouched: regraft.Backbone, any_network: dict[str, object]
) -> None:
    pipeline, score = example("svm_on_features").main(photos, **any_network)
    embedder, scaler, machine = (step for _, step in pipeline.steps)
    assert isinstance(scaler, StandardScaler)
    assert scaler.n_features_in_ == machine.n_features_in_ == untouched.model.output_shape[-1]
    assert scaler.n_samples_seen_ == 36  # three quarters of 48
    everything = StandardScaler().fit(embedder.transform(sorted(map(str, photos.rglob("*.png")))))
    assert not np.allclose(scaler.mean_, everything.mean_)
    assert score > 0.5


def test_the_whole_network_trains_from_a_converged_head(
    photos: Path, untouched: regraft.Backbone, tmp_path: Path, any_network: dict[str, object]
) -> None:
    run = example("finetune_everything").main(photos, tmp_path / "run", **any_network, epochs=1)
    head, whole = history(run, "none"), history(run, "all")
    best = min(row["val_loss"] for row in head)
    assert best < 0.5 * head[0]["val_loss"]  # the random head
    assert whole[0]["val_loss"] == pytest.approx(best, rel=1e-2, abs=1e-4)
    places = moved(run, untouched)
    assert places in (set(), trainable_places(untouched))  # kept, or not, as a whole
    assert bool(places) == (run.metrics["decision"]["kept"] == "fine-tuned")


# --- SavedModels


def test_a_savedmodel_trains_in_the_second_phase_only(photos: Path, tmp_path: Path) -> None:
    folder = reusable(tmp_path / "module", side=None)
    run = example("finetune_savedmodel").main(
        photos, tmp_path / "run", backbone=str(folder), image_size=32, epochs=8
    )
    assert head_of(run) == [(1024, "relu"), (3, "softmax")]
    phases = run.metrics["decision"]["phases"]
    assert [(p["unfreeze"], p["layers"]) for p in phases] == [("none", 0), ("all", 1)]
    before = Net()
    (module,) = [layer for layer in run.model.layers if layer.weights and not is_head(layer)]
    now = {weight.name: np.array(weight) for weight in module.weights}
    assert (now["conv_kernel"] != before.kernel.numpy()).any()
    assert (now["bn_moving_mean"] == before.mean.numpy()).all()
    x = pixels_of(photos, 32)
    again = regraft.load(run.path).model
    assert_close(again.predict(x, verbose=0), run.model.predict(x, verbose=0), 1e-5)


def test_a_handle_names_its_version_is_kept_and_gets_pixels_in_0_to_1(
    photos: Path, shared_store: Path, tmp_path: Path
) -> None:
    with pytest.raises(regraft.UsageError, match="names no version"):
        example("tensorflow_hub_handle").main(
            photos, "https://tfhub.dev/google/tiny/feature_vector", tmp_path / "run"
        )
    reusable(shared_store / "savedmodels" / "tfhub" / "google" / "tiny" / "feature_vector" / "3", side=None)
    handle = "https://tfhub.dev/google/tiny/feature_vector/3"
    run = example("tensorflow_hub_handle").main(photos, handle, tmp_path / "run", image_size=32)
    assert head_of(run) == [(1024, "relu"), (3, "softmax")]
    x = pixels_of(photos, 32)
    pool = next(layer for layer in run.model.layers if is_head(layer))
    features = keras.Model(run.model.inputs, pool.input).predict(x, verbose=0)
    assert_close(features, Net()(keras.ops.convert_to_tensor(x / 255)).numpy(), 1e-5)
