"""Backbones from names, files and models: the same numbers as Keras, or an error that says what to do."""

import dataclasses
import hashlib
import http.server
import random
import socket
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest

from regraft.backbone import load
from regraft.backbone.load import load_backbone
from regraft.backbone.zoo import ZOO, keras_cache
from regraft.errors import EnvironmentFault, ModelRefused, UsageError

REAL_WEIGHTS = Path(__file__).parents[1] / "../shared/weights/mobilenet_v2_imagenet_224_notop.weights.h5"

# One of each family at its smallest size: side of the feature map, first stages, last stages.
FAMILIES = {
    "mobilenet": (1, ["stem", "block_1"], ["block_12", "block_13"]),
    "mobilenet_v2": (1, ["stem", "block_1"], ["block_16", "top"]),
    "mobilenet_v3_small": (1, ["stem", "block_1"], ["block_10", "top"]),
    "nasnet_mobile": (1, ["stem_1", "stem_2", "normal_0"], ["normal_11", "normal_12"]),
    "resnet50": (1, ["conv1", "conv2"], ["conv4", "conv5"]),
    "resnet50_v2": (1, ["conv1", "conv2"], ["conv4", "conv5"]),
    "vgg16": (1, ["block1", "block2"], ["block4", "block5"]),
    "vgg19": (1, ["block1", "block2"], ["block4", "block5"]),
    "xception": (3, ["block1", "block2"], ["block13", "block14"]),
    "inception_v3": (1, ["mixed0", "mixed1"], ["mixed9", "mixed10"]),
    "inception_resnet_v2": (1, ["mixed_5b", "block35_1"], ["block8_10", "top"]),
    "densenet121": (1, ["conv1", "conv2"], ["conv4", "conv5"]),
    "efficientnet_b0": (1, ["stem", "block1"], ["block7", "top"]),
    "efficientnet_v2_b0": (1, ["stem", "block1"], ["block6", "top"]),
    "efficientnet_v2_s": (1, ["stem", "block1"], ["block6", "top"]),
    "convnext_tiny": (1, ["stem", "stage_0"], ["stage_2", "stage_3"]),
}
FAST = {"mobilenet_v2", "vgg16"}


def pixels(size, count=2):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, size, size, 3)).astype("float32")


def answer(model, x):
    return keras.ops.convert_to_numpy(model(x, training=False))


def assert_close(received, expected, relative=1e-4):
    assert received.shape == expected.shape
    assert np.abs(received - expected).max() <= relative * np.abs(expected).max()


def tiny(size=16, output="map", name="tiny"):
    image = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Normalization(name="norm")(x)
    x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(x)
    if output == "vector":
        x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, x, name=name)


def with_statistics(model):
    model.get_layer("norm").set_weights([np.full(3, 0.4), np.full(3, 0.09), np.array(0)])
    model.get_layer("norm").finalize_state()
    return model


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty Keras cache, read by regraft and by Keras alike."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    keras_cache().mkdir(parents=True)
    return keras_cache()


@pytest.fixture
def published_at(monkeypatch):
    """Moves the address of MobileNetV2's weights to `base`."""

    def move(base):
        entry = ZOO["mobilenet_v2"]
        moved = dataclasses.replace(entry, weights_url=f"{base}/{entry.weights_file}")
        monkeypatch.setitem(ZOO, "mobilenet_v2", moved)
        return moved

    return move


@pytest.fixture(scope="module")
def mobilenet():
    return load_backbone("mobilenet_v2", weights="random", image_size=32, seed=7)


@pytest.fixture(scope="module")
def old_file(tmp_path_factory, mobilenet):
    """Weights of `mobilenet` in the format of Keras 2, as the published files are."""
    path = tmp_path_factory.mktemp("old") / ZOO["mobilenet_v2"].weights_file
    mobilenet.model.save(path)
    return path


@pytest.fixture(scope="module")
def new_file(tmp_path_factory, mobilenet):
    path = tmp_path_factory.mktemp("new") / "mine.weights.h5"
    mobilenet.model.save_weights(path)
    return path


# --- names


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]
)
def test_family(name):
    """Pixels in, Keras' own answer out; width and stages as the table says."""
    entry = ZOO[name]
    backbone = load_backbone(name, weights="random", image_size=entry.min_size)
    side, first, last = FAMILIES[name]
    assert backbone.model.output_shape == (None, side, side, entry.features)
    assert (backbone.contract, backbone.image_size) == (entry.pixels, entry.min_size)

    starts = list(backbone.stages.values())
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] < len(backbone.layers)
    assert list(backbone.stages)[: len(first)] == first
    assert list(backbone.stages)[-len(last) :] == last

    bare = getattr(keras.applications, entry.constructor)(
        include_top=False, weights=None, input_shape=(entry.min_size, entry.min_size, 3)
    )
    # The bare model's layers less its input are exactly the backbone's.
    assert [type(layer) for layer in bare.layers[1:]] == [type(layer) for layer in backbone.layers]
    bare.set_weights(backbone.model.get_weights())
    x = pixels(entry.min_size)
    preprocess = getattr(keras.applications, entry.module).preprocess_input
    assert_close(answer(backbone.model, x), answer(bare, preprocess(x.copy())))


def test_every_family_is_tested():
    assert {ZOO[name].module for name in FAMILIES} == {entry.module for entry in ZOO.values()}


def test_default_size_is_the_published_one():
    backbone = load_backbone("VGG16", weights="random")
    assert backbone.model.input_shape == (None, 224, 224, 3)
    assert backbone.model.output_shape == (None, 7, 7, 512)


def test_plain_arrays_are_taken_without_a_warning(mobilenet, recwarn):
    mobilenet.model(pixels(32))
    assert not recwarn.list


@pytest.mark.slow
def test_nested_layers_that_a_file_lacks_are_noticed(tmp_path):
    """Keras only warns of those and leaves them as they were."""
    model = load_backbone("convnext_tiny", weights="random", image_size=32).model
    model.save_weights(tmp_path / "a.weights.h5")
    load_backbone("convnext_tiny", weights=tmp_path / "a.weights.h5", image_size=32)
    with h5py.File(tmp_path / "a.weights.h5", "a") as file:
        del file["layers/sequential/layers"]
    with pytest.raises(UsageError, match="another architecture"):
        load_backbone("convnext_tiny", weights=tmp_path / "a.weights.h5", image_size=32)


def test_layers_leave_out_input_and_contract(mobilenet):
    assert mobilenet.layers == tuple(mobilenet.model.layers[2:])
    assert mobilenet.layers[0].name == "Conv1"
    assert mobilenet.layers[mobilenet.stages["top"]].name == "Conv_1"


def test_too_small_a_size_names_the_minimum():
    with pytest.raises(UsageError, match=r"xception takes .* at least 71 pixels.*Received: 70"):
        load_backbone("xception", weights="random", image_size=70)


def test_unknown_name():
    with pytest.raises(UsageError, match='Did you mean "resnet50"'):
        load_backbone("resnet5", weights="random")


def test_channels_first_is_refused(monkeypatch):
    monkeypatch.setattr(keras.config, "image_data_format", lambda: "channels_first")
    with pytest.raises(EnvironmentFault, match="channels_last"):
        load_backbone("vgg16", weights="random")


# --- random weights


def test_seed_decides_random_weights_and_leaves_the_global_state_alone():
    before = random.getstate(), np.random.get_state()[1].copy()
    one, same, other = (load_backbone("vgg16", weights="random", image_size=32, seed=s) for s in (1, 1, 2))
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])
    np.testing.assert_array_equal(one.model.get_weights()[0], same.model.get_weights()[0])
    assert not np.array_equal(one.model.get_weights()[0], other.model.get_weights()[0])
    assert one.weights == "random (seed 1)"


@pytest.mark.parametrize("word", ["imagnet", "none", None])
def test_any_other_word_lists_the_choices(word):
    with pytest.raises(UsageError, match=r'"imagenet", "random" or the path of a file'):
        load_backbone("vgg16", weights=word)


# --- weights from a path


@pytest.mark.parametrize("file", ["old_file", "new_file"])
def test_weights_from_a_file(request, file, mobilenet):
    path = request.getfixturevalue(file)
    backbone = load_backbone("mobilenet_v2", weights=str(path), image_size=32)
    for received, expected in zip(backbone.model.get_weights(), mobilenet.model.get_weights(), strict=True):
        np.testing.assert_array_equal(received, expected)
    assert backbone.weights == f"file {path.name} sha256 {hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_missing_file():
    with pytest.raises(UsageError, match=r"no such file: nowhere\.h5"):
        load_backbone("vgg16", weights="nowhere.h5")


def test_file_that_is_no_hdf5(tmp_path):
    (tmp_path / "page.h5").write_text("<html>")
    with pytest.raises(UsageError, match="expected an HDF5 file"):
        load_backbone("vgg16", weights=tmp_path / "page.h5")


def test_truncated_file(tmp_path, new_file):
    (tmp_path / "half.weights.h5").write_bytes(new_file.read_bytes()[:100_000])
    with pytest.raises(UsageError, match="damaged"):
        load_backbone("mobilenet_v2", weights=tmp_path / "half.weights.h5")


def test_name_that_makes_keras_take_the_wrong_reader(tmp_path, old_file, new_file):
    (tmp_path / "a.weights.h5").symlink_to(old_file)
    (tmp_path / "b.h5").symlink_to(new_file)
    with pytest.raises(UsageError, match=r"must end in \.h5, .* Keras 2"):
        load_backbone("mobilenet_v2", weights=tmp_path / "a.weights.h5")
    with pytest.raises(UsageError, match=r"must end in \.weights\.h5, .* Keras 3"):
        load_backbone("mobilenet_v2", weights=tmp_path / "b.h5")


@pytest.mark.parametrize("file", ["old_file", "new_file"])
def test_weights_of_another_architecture(request, file):
    with pytest.raises(
        UsageError, match=r"another architecture\. Expected: vgg16 .*26 arrays.*Keras says: \S"
    ):
        load_backbone("vgg16", weights=request.getfixturevalue(file), image_size=32)


def test_weights_with_a_classifier_are_another_architecture(tmp_path):
    """Keras would load what fits and leave the rest without a word."""
    body = load_backbone("vgg16", weights="random", image_size=32).model
    top = keras.layers.Dense(3)(keras.layers.Flatten()(body.output))
    keras.Model(body.input, top).save_weights(tmp_path / "whole.weights.h5")
    with pytest.raises(UsageError, match=r"another architecture.*26 arrays, the file 28"):
        load_backbone("vgg16", weights=tmp_path / "whole.weights.h5", image_size=32)


@pytest.mark.slow
def test_real_weights():
    if not REAL_WEIGHTS.exists():
        pytest.skip(f"{REAL_WEIGHTS.name} is not beside this project")
    backbone = load_backbone("mobilenet_v2", weights=REAL_WEIGHTS, image_size=96)
    bare = keras.applications.MobileNetV2(
        include_top=False, weights=str(REAL_WEIGHTS), input_shape=(96, 96, 3)
    )
    x = pixels(96)
    expected = answer(bare, keras.applications.mobilenet_v2.preprocess_input(x.copy()))
    assert_close(answer(backbone.model, x), expected)


# --- ImageNet weights: the cache, the network


def test_cached_file_is_used_without_network(cache, old_file, mobilenet, monkeypatch):
    monkeypatch.setattr(load, "_unreachable", None)  # calling it would fail
    (cache / old_file.name).symlink_to(old_file)
    backbone = load_backbone("mobilenet_v2", image_size=32)
    assert_close(answer(backbone.model, pixels(32)), answer(mobilenet.model, pixels(32)))
    digest = hashlib.sha256(old_file.read_bytes()).hexdigest()
    assert backbone.weights == f"imagenet ({old_file.name}, sha256 {digest})"


def test_offline_says_at_once_what_to_do(cache, published_at):
    entry = published_at("http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        load_backbone("mobilenet_v2")
    assert time.monotonic() - started < 10
    message = str(caught.value)
    for part in (entry.weights_file, entry.weights_url, str(cache), "--weights FILE", "--weights random"):
        assert part in message
    assert list(cache.iterdir()) == []


def test_silent_server_is_given_up(cache, published_at, monkeypatch):
    monkeypatch.setattr(load, "REACH_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        published_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(EnvironmentFault, match=r"timed out|no answer within 0\.5 seconds"):
            load_backbone("mobilenet_v2")
        assert time.monotonic() - started < 5


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def server(old_file):
    handler = partial(QuietHandler, directory=str(old_file.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_reachable_file_is_downloaded(cache, published_at, server, old_file, mobilenet):
    published_at(server)
    backbone = load_backbone("mobilenet_v2", image_size=32)
    assert (cache / old_file.name).read_bytes() == old_file.read_bytes()
    assert_close(answer(backbone.model, pixels(32)), answer(mobilenet.model, pixels(32)))


def test_file_that_the_server_lacks(cache, published_at, server):
    published_at(server + "/nowhere")
    with pytest.raises(EnvironmentFault, match="404"):
        load_backbone("mobilenet_v2")


@pytest.mark.parametrize("name", ["vgg16", "mobilenet_v2"])  # with and without a published digest
def test_damaged_cache_is_reported_and_kept(cache, name):
    file = cache / ZOO[name].weights_file
    file.write_bytes(b"half a file")
    with pytest.raises(EnvironmentFault, match=f"{file}.*Delete"):
        load_backbone(name)
    assert file.read_bytes() == b"half a file"


@pytest.mark.slow
def test_efficientnet_by_path_equals_imagenet(cache, monkeypatch):
    """Keras adds a layer for the word "imagenet" that it leaves out for the same file by path."""
    name = "efficientnet_b0"
    model = load_backbone(name, weights="random", image_size=64).model
    stem = next(layer for layer in model.layers if isinstance(layer, keras.layers.Normalization))
    # The published file holds ImageNet's deviations where variances belong.
    stem.set_weights([np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225]), np.array(0)])
    file = cache / ZOO[name].weights_file
    model.save(file)
    digest = hashlib.md5(file.read_bytes()).hexdigest()
    monkeypatch.setitem(ZOO, name, dataclasses.replace(ZOO[name], weights_hash=f"md5:{digest}"))
    monkeypatch.setitem(keras.src.applications.efficientnet.WEIGHTS_HASHES, "b0", ("", digest))

    keras_own = keras.applications.EfficientNetB0(
        include_top=False, weights="imagenet", input_shape=(64, 64, 3)
    )
    by_word = load_backbone(name, image_size=64)
    by_path = load_backbone(name, weights=file, image_size=64)
    x = pixels(64)
    assert_close(answer(by_word.model, x), answer(keras_own, x))
    np.testing.assert_array_equal(answer(by_path.model, x), answer(by_word.model, x))
    assert len(by_path.layers) == len(by_word.layers)

    by_path.model.save_weights(cache / "again.weights.h5")
    again = load_backbone(name, weights=cache / "again.weights.h5", image_size=64)
    np.testing.assert_array_equal(answer(again.model, x), answer(by_path.model, x))


# --- files and models


def test_keras_file_is_a_backbone(tmp_path):
    model = with_statistics(tiny())
    model.save(tmp_path / "own.keras")
    backbone = load_backbone(str(tmp_path / "own.keras"))
    np.testing.assert_array_equal(answer(backbone.model, pixels(16)), answer(model, pixels(16)))
    assert (backbone.name, backbone.image_size, backbone.contract, backbone.stages) == ("tiny", 16, "raw", {})
    assert [layer.name for layer in backbone.layers][1:] == ["norm", "conv"]
    assert backbone.weights.startswith("file own.keras sha256 ")


def test_saved_backbone_comes_back_whole(tmp_path, mobilenet):
    mobilenet.model.save(tmp_path / "saved.keras")
    back = load_backbone(tmp_path / "saved.keras")
    assert (back.name, back.contract, back.stages) == ("mobilenet_v2", "tf", mobilenet.stages)
    assert [layer.name for layer in back.layers] == [layer.name for layer in mobilenet.layers]
    np.testing.assert_array_equal(answer(back.model, pixels(32)), answer(mobilenet.model, pixels(32)))


def test_model_object_is_a_backbone():
    model = tiny(output="vector")
    backbone = load_backbone(model)
    assert backbone.model is model
    assert backbone.model.output_shape == (None, 4)


def test_open_size_must_be_given_and_is_then_fixed():
    model = with_statistics(tiny(size=None))
    with pytest.raises(UsageError, match="any size; say which"):
        load_backbone(model)
    backbone = load_backbone(model, image_size=24)
    assert backbone.model.input_shape == (None, 24, 24, 3)
    np.testing.assert_array_equal(answer(backbone.model, pixels(24)), answer(model, pixels(24)))


def test_size_that_a_model_cannot_take():
    with pytest.raises(UsageError, match=r"image_size: tiny cannot be built for 2 pixels.*Keras says"):
        load_backbone(tiny(size=None), image_size=2)


def test_fixed_size_cannot_be_changed():
    with pytest.raises(UsageError, match=r"takes 16 and nothing else\. Received: 32"):
        load_backbone(tiny(), image_size=32)


def test_random_weights_replace_learnt_ones_and_keep_input_statistics():
    model = with_statistics(tiny())
    kept = model.get_weights()
    one, same = (load_backbone(model, weights="random", seed=3) for _ in range(2))
    np.testing.assert_array_equal(answer(one.model, pixels(16)), answer(same.model, pixels(16)))
    assert not np.array_equal(one.model.get_layer("conv").kernel, model.get_layer("conv").kernel)
    np.testing.assert_array_equal(one.model.get_layer("norm").mean, model.get_layer("norm").mean)
    for now, before in zip(model.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(now, before)


def test_refused_weights_leave_the_model_alone(tmp_path, new_file):
    model = tiny()
    kept = model.get_weights()
    with pytest.raises(UsageError, match="another architecture"):
        load_backbone(model, weights=new_file)
    for now, before in zip(model.get_weights(), kept, strict=True):
        np.testing.assert_array_equal(now, before)


def test_model_that_is_no_backbone():
    image = keras.Input((16, 16, 3))
    grey = keras.Input((16, 16, 1))
    wide = keras.Input((16, 32, 3))
    sequential = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3)])
    for model, reason in [
        (sequential, "Functional model"),
        (keras.Model(image, [image, image]), "one input and one output"),
        (keras.Model(grey, grey), r"RGB pixels.*16, 16, 1\)"),
        (keras.Model(wide, wide), "square images.*16 x 32"),
        (keras.Model(image, keras.layers.Reshape((16, 48))(image)), "feature map.*feature vector"),
    ]:
        with pytest.raises(UsageError, match=reason):
            load_backbone(model)


def test_unreadable_and_unsafe_files_are_refused(tmp_path):
    (tmp_path / "text.keras").write_text("no archive")
    image = keras.Input((16, 16, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: x * 2)(image)).save(tmp_path / "code.keras")
    for file in ("text.keras", "code.keras"):
        with pytest.raises(ModelRefused, match=r"cannot be read as a Keras model.*Keras says"):
            load_backbone(tmp_path / file)


def test_missing_model_file():
    with pytest.raises(UsageError, match="no such file"):
        load_backbone("nowhere.keras")
