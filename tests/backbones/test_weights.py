"""Weights: exactly the file that was asked for, or an error that names it and says what to do."""

import contextlib
import dataclasses
import hashlib
import http.server
import os
import socket
import threading
import time
from functools import partial
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from helpers.networks import answer, assert_close, nested, pixels, tiny
from helpers.reporters import Recorder

from regraft.backbones import weights
from regraft.backbones.load import load_backbone
from regraft.backbones.weights import find_published_weights, repair_scaling
from regraft.backbones.zoo import ZOO, locate_keras_cache
from regraft.errors import EnvironmentFault, ModelRefused, UsageError
from regraft.system.console import SilentReporter

REAL_WEIGHTS = Path(__file__).parents[2] / "../shared/weights/mobilenet_v2_imagenet_224_notop.weights.h5"


def assert_equal_weights(received, expected):
    for one, other in zip(received.get_weights(), expected.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def cache(tmp_path, temporary_folder, monkeypatch):
    """An empty Keras cache, read by regraft and by Keras alike."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path / "keras"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    locate_keras_cache().mkdir(parents=True)
    return locate_keras_cache()


@pytest.fixture
def published_at(monkeypatch):
    """Return a function that moves the address of MobileNet's weights to a server."""

    def move(base, digest=None):
        entry = ZOO["mobilenet"]
        url = f"{base}/{entry.weights_file}"
        moved = dataclasses.replace(entry, weights_url=url, weights_hash=digest)
        monkeypatch.setitem(ZOO, "mobilenet", moved)
        return moved

    return move


@pytest.fixture(scope="module")
def mobilenet():
    return load_backbone("mobilenet", weights="random", image_size=32, seed=7)


@pytest.fixture(scope="module")
def old_file(tmp_path_factory, mobilenet):
    """Weights of `mobilenet` in the format of Keras 2, as the published files are."""
    path = tmp_path_factory.mktemp("old") / ZOO["mobilenet"].weights_file
    mobilenet.model.save(path)
    return path


@pytest.fixture(scope="module")
def new_file(tmp_path_factory, mobilenet):
    path = tmp_path_factory.mktemp("new") / "mine.weights.h5"
    mobilenet.model.save_weights(path)
    return path


@pytest.mark.parametrize("word", ["imagnet", "none", None])
def test_any_other_word_lists_the_choices(word):
    with pytest.raises(UsageError, match=r'"imagenet", "random" or the path of a file'):
        load_backbone("vgg16", weights=word)


# --- weights from a path


@pytest.mark.slow
@pytest.mark.parametrize("file", ["old_file", "new_file"])
def test_weights_from_a_file(request, file, mobilenet):
    path = request.getfixturevalue(file)
    backbone = load_backbone("mobilenet", weights=str(path), image_size=32)
    assert_equal_weights(backbone.model, mobilenet.model)
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
        load_backbone("mobilenet", weights=tmp_path / "half.weights.h5")


def test_name_that_makes_keras_take_the_wrong_reader(tmp_path, old_file, new_file):
    (tmp_path / "a.weights.h5").symlink_to(old_file)
    (tmp_path / "b.h5").symlink_to(new_file)
    with pytest.raises(UsageError, match=r"must end in \.h5, .* Keras 2"):
        load_backbone("mobilenet", weights=tmp_path / "a.weights.h5")
    with pytest.raises(UsageError, match=r"must end in \.weights\.h5, .* Keras 3"):
        load_backbone("mobilenet", weights=tmp_path / "b.h5")


@pytest.mark.parametrize("file", ["old_file", "new_file"])
def test_weights_of_another_architecture(request, file):
    with pytest.raises(
        UsageError, match=r"another architecture\. Expected: vgg16 .*26 arrays.*Keras says: \S"
    ):
        load_backbone("vgg16", weights=request.getfixturevalue(file), image_size=32)


def test_weights_with_a_classifier_of_another_model(tmp_path):
    """Keras would load what fits and silently skip the rest."""
    body = tiny()
    top = keras.layers.Dense(3)(keras.layers.Flatten()(body.output))
    keras.Model(body.input, top).save_weights(tmp_path / "whole.weights.h5")
    with pytest.raises(UsageError, match=r"another architecture.*5 arrays, the file 7"):
        load_backbone(body, weights=tmp_path / "whole.weights.h5")


def build_classifier(classes=5):
    body = tiny()
    x = keras.layers.GlobalAveragePooling2D()(body.output)
    return keras.Model(body.input, keras.layers.Dense(classes, "softmax")(x), name="whole")


def test_weights_with_the_models_own_classifier(tmp_path):
    learnt, other = build_classifier(), build_classifier()
    learnt.save_weights(tmp_path / "whole.weights.h5")
    backbone = load_backbone(other, weights=tmp_path / "whole.weights.h5")
    assert "classifier was cut off" in backbone.notes[0]
    np.testing.assert_array_equal(backbone.model.get_layer("conv").kernel, learnt.get_layer("conv").kernel)
    assert not np.array_equal(other.get_layer("conv").kernel, learnt.get_layer("conv").kernel)


@pytest.mark.parametrize(("ending", "classes"), [(".h5", 1000), (".weights.h5", 7)])
@pytest.mark.parametrize(
    "constructor", ["MobileNet", pytest.param("MobileNetV3Small", marks=pytest.mark.slow)]
)
def test_published_weights_with_their_classifier(tmp_path, constructor, ending, classes):
    classifier = getattr(keras.applications, constructor)(weights=None, classes=classes)
    path = tmp_path / f"whole{ending}"
    (classifier.save if ending == ".h5" else classifier.save_weights)(path)
    backbone = load_backbone(constructor, weights=path, image_size=32)
    assert "classifier was cut off" in backbone.notes[0]
    expected = load_backbone(classifier, image_size=224)
    assert_equal_weights(backbone.model, expected.model)


def test_file_is_hashed_once_until_it_changes(tmp_path, monkeypatch):
    path = tmp_path / "a.weights.h5"
    path.write_bytes(b"one")
    first = weights.hash_existing_file(path, "weights")
    times = path.stat().st_mtime_ns
    path.write_bytes(b"two")
    os.utime(path, ns=(times, times))  # so that it seems unchanged
    assert weights.hash_existing_file(path, "weights") == first == hashlib.sha256(b"one").hexdigest()
    path.write_bytes(b"another")
    assert weights.hash_existing_file(path, "weights") == hashlib.sha256(b"another").hexdigest()


def test_file_is_looked_through_once_until_it_changes(tmp_path, new_file):
    path = tmp_path / "a.weights.h5"
    path.write_bytes(Path(new_file).read_bytes())
    with h5py.File(path, "a") as file:
        file["more"] = np.zeros(3, "float32")
    weights.choose_weights(path, 0)
    times = path.stat().st_mtime_ns
    with h5py.File(path, "a") as file:
        file["more"][:] = np.nan
    os.utime(path, ns=(times, times))  # so that it seems unchanged
    weights.choose_weights(path, 0)
    path.touch()
    with pytest.raises(ModelRefused, match="more"):
        weights.choose_weights(path, 0)


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


def test_refused_weights_leave_the_model_alone(tmp_path, new_file):
    model = tiny()
    before_loading = model.get_weights()
    with pytest.raises(UsageError, match="another architecture"):
        load_backbone(model, weights=new_file)
    for now, before in zip(model.get_weights(), before_loading, strict=True):
        np.testing.assert_array_equal(now, before)


@pytest.mark.slow
def test_nested_layers_that_a_file_lacks_are_noticed(tmp_path):
    """Keras only warns of those and leaves them as they were."""
    file = tmp_path / "a.weights.h5"
    model = nested()
    model.save_weights(file)
    backbone = load_backbone(nested(), weights=file)
    assert_equal_weights(backbone.model, model)
    with h5py.File(file, "a") as stream:
        del stream["layers/sequential/layers"]
    with pytest.raises(UsageError, match="another architecture"):
        load_backbone(model, weights=file)


# --- ImageNet weights: the cache, the network


@pytest.mark.slow
def test_cached_file_is_used_without_network(cache, published_at, old_file, mobilenet):
    published_at("http://127.0.0.1:9")
    (cache / old_file.name).symlink_to(old_file)
    backbone = load_backbone("mobilenet", image_size=32)
    assert_equal_weights(backbone.model, mobilenet.model)
    digest = hashlib.sha256(old_file.read_bytes()).hexdigest()
    assert backbone.weights == f"imagenet ({old_file.name}, sha256 {digest})"


def test_offline_says_at_once_what_to_do(cache, published_at):
    entry = published_at("http://127.0.0.1:9")
    started = time.monotonic()
    with pytest.raises(EnvironmentFault) as caught:
        load_backbone("mobilenet")
    assert time.monotonic() - started < 10
    message = str(caught.value)
    for part in (entry.weights_file, entry.weights_url, str(cache), "--weights FILE", "--weights random"):
        assert part in message
    assert list(cache.iterdir()) == []


def test_silent_server_is_given_up(cache, published_at, monkeypatch):
    monkeypatch.setattr(weights, "REACH_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        published_at(f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(EnvironmentFault, match=r"timed out|no answer within 0\.5 seconds"):
            load_backbone("mobilenet")
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


def test_reachable_file_is_downloaded(cache, published_at, server, old_file):
    seen = Recorder()
    published = find_published_weights(published_at(server), 32, reporter=seen)
    assert published.file == cache / old_file.name
    assert published.file.read_bytes() == old_file.read_bytes()
    (line,) = seen.lines
    assert line.endswith(f"to {published.file}.")
    assert seen.progress == [["Downloading", -(-old_file.stat().st_size // 10**6)]]


def test_whoever_loads_a_backbone_is_shown_its_download(cache, published_at, server, mobilenet):
    published_at(server)
    seen = Recorder()
    assert_equal_weights(load_backbone("mobilenet", image_size=32, reporter=seen).model, mobilenet.model)
    assert [title for title, _ in seen.progress] == ["Downloading"]


def test_file_that_the_server_lacks(cache, published_at, server):
    published_at(server + "/nowhere")
    with pytest.raises(EnvironmentFault, match="404"):
        load_backbone("mobilenet")


@pytest.fixture
def answers():
    """Start a server that gives a list of answers in turn: the body and the stated length of each file.

    Whoever only asks whether it is there closes the connection and counts too.
    """
    waiting = []

    class Handler(QuietHandler):
        def do_GET(self):
            body, length = waiting.pop(0)
            self.send_response(200)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", waiting
        running.shutdown()


PAGE = b"<!DOCTYPE html><html>Please sign in to this network</html>"


@pytest.mark.parametrize("digest", [None, f"md5:{'0' * 32}"])
def test_what_is_not_the_published_file_does_not_reach_the_cache(cache, published_at, answers, digest):
    """The server answers with the login page of a hotel's network, or the connection breaks off."""
    base, waiting = answers
    entry = published_at(base, digest)
    waiting += [(b"", 0), (PAGE, len(PAGE)), (PAGE[:20], 10_000)]
    with pytest.raises(
        EnvironmentFault, match=r"cannot be downloaded: .*broke off after 20 of 10,000"
    ) as caught:
        find_published_weights(entry, 32, reporter=SilentReporter())
    for part in (entry.weights_url, str(cache), "--weights FILE"):
        assert part in str(caught.value)
    waiting += [(b"", 0), (PAGE, len(PAGE)), (PAGE, len(PAGE))]
    with pytest.raises(EnvironmentFault, match="what the server sent is not the published file"):
        find_published_weights(entry, 32, reporter=SilentReporter())
    assert list(cache.iterdir()) == []


def test_what_arrives_damaged_is_downloaded_once_more(cache, published_at, answers, old_file):
    base, waiting = answers
    content = old_file.read_bytes()
    entry = published_at(base, f"md5:{hashlib.md5(content).hexdigest()}")
    damaged = content[:-1] + bytes([content[-1] ^ 1])
    waiting += [(b"", 0), (damaged, len(content)), (content, len(content))]
    assert find_published_weights(entry, 32, reporter=SilentReporter()).file.read_bytes() == content
    assert [path.name for path in cache.iterdir()] == [entry.weights_file]


@pytest.mark.parametrize("name", ["vgg16", "mobilenet"])  # with and without a published digest
def test_damaged_cache_is_reported_and_kept(cache, name):
    file = cache / ZOO[name].weights_file
    file.write_bytes(b"half a file")
    with pytest.raises(EnvironmentFault, match=f"{file}.*Delete"):
        load_backbone(name)
    assert file.read_bytes() == b"half a file"


@pytest.mark.slow
def test_efficientnet_by_path_equals_imagenet(cache, monkeypatch):
    """Keras adds a layer for the word "imagenet" that it omits for the same file by path."""
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
    x = pixels(64)
    assert_close(answer(by_word.model, x), answer(keras_own, x))

    by_path = load_backbone(name, weights=file, image_size=64)
    assert len(by_path.layers) == len(by_word.layers)
    assert_equal_weights(by_path.model, by_word.model)


def test_deviations_in_place_of_variances_are_squared_once():
    model = tiny()
    norm = model.get_layer("norm")
    norm.set_weights([np.zeros(3), np.array([0.229, 0.224, 0.225]), np.array(0)])
    norm.finalize_state()
    x = pixels(16)
    repair_scaling(model)
    mended = answer(model, x)
    np.testing.assert_allclose(norm.adapt_variance, np.square([0.229, 0.224, 0.225]), rtol=1e-6)
    repair_scaling(model)
    np.testing.assert_array_equal(answer(model, x), mended)
    np.testing.assert_allclose(
        norm(np.ones((1, 1, 1, 3))), [[[[1 / 0.229, 1 / 0.224, 1 / 0.225]]]], rtol=1e-5
    )
