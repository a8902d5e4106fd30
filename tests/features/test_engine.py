"""Engines give Keras' numbers, in order; the same network has the same fingerprint, others do not."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.networks import nested
from helpers.reporters import Recorder

from regraft.backbones.load import load_backbone
from regraft.features import engine as engine_module
from regraft.features import keras_engine as keras_engine_module
from regraft.features.engine import make_engine
from regraft.features.keras_engine import KerasEngine, engine_name, fingerprint
from regraft.features.openvino import BATCH, OpenVinoEngine
from regraft.models.cut import cut
from regraft.models.freeze import freeze, resolve_plan

needs_openvino = pytest.mark.skipif(
    not engine_name().startswith("openvino"), reason="OpenVINO is not installed"
)


def prefix(model=None, plan="last:3"):
    """Return the frozen part of the small network, with two named tensors."""
    backbone = load_backbone(small_network() if model is None else model)
    return cut(backbone.model, resolve_plan(backbone, plan)).prefix


def many_outputs():
    """Return a network with more than ten outputs: their order as text is not that of their numbers."""
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    outputs = {f"cut_{n}": keras.layers.Conv2D(n + 1, 1)(x) for n in range(12)}
    return keras.Model(image, outputs)


def batches(*sizes, side=32):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8) for size in sizes]


def assert_equal_to_keras(outputs, network, batch):
    expected = network.predict(batch.astype(np.float32), verbose=0)
    assert outputs.keys() == expected.keys()
    for name, value in expected.items():
        assert outputs[name].dtype == np.float32
        assert outputs[name].shape == value.shape
        assert np.abs(outputs[name] - value).max() <= 1e-4 * np.abs(value).max()


@pytest.fixture(scope="module")
def network():
    return prefix()


@pytest.fixture(scope="module")
def openvino(network, tmp_path_factory):
    return make_engine(network, tmp_path_factory.mktemp("engine"))


@pytest.fixture
def reporter():
    """A reporter that records its messages."""
    return Recorder()


# --- values


@needs_openvino
def test_openvino_equals_keras(network, openvino):
    assert isinstance(openvino, OpenVinoEngine)
    assert len(network.outputs) == 2
    (batch,) = batches(BATCH)
    assert_equal_to_keras(next(openvino.run([batch])), network, batch)


@pytest.mark.slow
@needs_openvino
def test_outputs_are_matched_by_name(tmp_path):
    network = many_outputs()
    (batch,) = batches(3, side=16)
    running = make_engine(network, tmp_path)
    assert isinstance(running, OpenVinoEngine)
    assert_equal_to_keras(next(running.run([batch])), network, batch)


@needs_openvino
def test_one_tensor_under_two_names(tmp_path):
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3)(image)
    network = keras.Model(image, {"one": x, "same": x})
    running = make_engine(network, tmp_path)
    assert isinstance(running, OpenVinoEngine)
    (batch,) = batches(2, side=16)
    assert_equal_to_keras(next(running.run([batch])), network, batch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [pytest.param("openvino", marks=needs_openvino), "keras"])
def test_many_batches_come_in_order_and_the_last_may_be_short(kind, network, openvino):
    running = openvino if kind == "openvino" else KerasEngine(network)
    pixels = batches(*[BATCH] * 12, 3)
    results = list(running.run(iter(pixels)))
    assert len(results) == len(pixels)
    for result, batch in zip(results, pixels, strict=True):
        assert_equal_to_keras(result, network, batch)


@pytest.mark.parametrize("kind", [pytest.param("openvino", marks=needs_openvino), "keras"])
def test_an_image_alone_gives_the_same_as_among_others(kind, network, openvino):
    running = openvino if kind == "openvino" else KerasEngine(network)
    (batch,) = batches(BATCH)
    among, alone = next(running.run([batch])), next(running.run([batch[:1]]))
    for name, value in alone.items():
        np.testing.assert_array_equal(value, among[name][:1])


@needs_openvino
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_the_batch_size_changes_no_bit(network, tmp_path, precision):
    (pixels,) = batches(BATCH)
    together, alone = (make_engine(network, tmp_path, precision=precision, batch=size) for size in (BATCH, 1))
    expected = next(together.run([pixels]))
    received = list(alone.run([pixels[number : number + 1] for number in range(BATCH)]))
    for name, value in expected.items():
        np.testing.assert_array_equal(np.concatenate([outputs[name] for outputs in received]), value)


@needs_openvino
def test_bf16_is_near_f32_but_differs(network, tmp_path, openvino):
    rough = make_engine(network, tmp_path, precision="bf16")
    (batch,) = batches(BATCH)
    exact, received = next(openvino.run([batch])), next(rough.run([batch]))
    assert rough.name == engine_name("bf16") != openvino.name
    for name, value in exact.items():
        assert 0 < np.abs(received[name] - value).max() < 0.05 * np.abs(value).max()


def test_no_batches(openvino):
    assert list(openvino.run([])) == []


@needs_openvino
def test_stopping_early_leaves_the_engine_usable(network, openvino):
    pixels = batches(*[BATCH] * 6)
    for _ in range(3):
        unfinished = openvino.run(pixels)
        next(unfinished)
        unfinished.close()
    assert_equal_to_keras(next(openvino.run(pixels[:1])), network, pixels[0])


# --- the cache of converted networks


@needs_openvino
def test_the_converted_network_is_used_again(network, tmp_path, reporter):
    first = make_engine(network, tmp_path / "new", reporter=reporter)
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["network-4"]
    files = {path: path.stat() for path in (tmp_path / "new").rglob("*")}
    again = make_engine(network, tmp_path / "new", reporter=reporter)
    assert {path: path.stat() for path in (tmp_path / "new").rglob("*")} == files
    (batch,) = batches(2)
    one, other = next(first.run([batch])), next(again.run([batch]))
    for name, value in one.items():
        np.testing.assert_array_equal(other[name], value)
    assert reporter.lines == []


@pytest.mark.slow
@needs_openvino
@pytest.mark.parametrize(
    "name",
    ["graph.bin", *(pytest.param(name, marks=pytest.mark.soak) for name in ("graph.xml", "checksums.json"))],
)
def test_a_converted_network_with_a_flipped_bit_is_not_used(network, tmp_path, reporter, name):
    make_engine(network, tmp_path, reporter=reporter)
    (file,) = tmp_path.rglob(name)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)
    again = make_engine(network, tmp_path, reporter=reporter)
    (line,) = reporter.lines
    assert "damaged; it is converted again" in line
    (batch,) = batches(2)
    assert_equal_to_keras(next(again.run([batch])), network, batch)
    assert make_engine(network, tmp_path, reporter=reporter).name == again.name
    assert len(reporter.lines) == 1


@needs_openvino
def test_a_folder_that_cannot_be_made(network, tmp_path, reporter):
    (tmp_path / "file").write_text("no folder")
    running = make_engine(network, tmp_path / "file" / "cache", reporter=reporter)
    assert isinstance(running, OpenVinoEngine)
    assert reporter.lines == []
    (batch,) = batches(2)
    assert_equal_to_keras(next(running.run([batch])), network, batch)


@needs_openvino
def test_a_folder_that_cannot_be_written(network, tmp_path, read_only, reporter):
    (tmp_path / "new").mkdir()
    folder = read_only(tmp_path / "new")
    assert isinstance(make_engine(network, folder, reporter=reporter), OpenVinoEngine)
    assert reporter.lines == []


def test_keras_runs_the_network_without_openvino(network, tmp_path, monkeypatch, reporter):
    monkeypatch.setattr(keras_engine_module, "engine_name", lambda *_: "openvino 2026.4 f32")
    monkeypatch.setitem(sys.modules, "openvino", None)
    running = make_engine(network, tmp_path, reporter=reporter)
    assert isinstance(running, KerasEngine)
    assert len(reporter.lines) == 1
    assert "OpenVINO cannot run this network" in reporter.lines[0]
    (batch,) = batches(3)
    assert_equal_to_keras(next(running.run([batch])), network, batch)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@needs_openvino
def test_a_network_that_openvino_computes_wrongly_is_neither_used_nor_kept(
    network, tmp_path, monkeypatch, reporter
):
    other = prefix()
    for weight in other.weights:
        weight.assign(weight * 1.1)
    convert = engine_module.convert
    monkeypatch.setattr(engine_module, "convert", lambda _, target: convert(other, target))
    for _ in range(2):  # the second time too: the folder holds nothing wrong
        assert isinstance(make_engine(network, tmp_path, reporter=reporter), KerasEngine)
    assert len(reporter.lines) == 2
    assert "from Keras'" in reporter.lines[1]
    assert list(tmp_path.iterdir()) == []


# --- fingerprints


def plain(*, strides=1, activation="relu", dtype=None, swapped=False, name=None):
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3))
    one = keras.layers.Conv2D(4, 3, strides=strides, activation=activation, dtype=dtype, name=name)(image)
    two = keras.layers.Conv2D(4, 3, strides=strides)(image)
    joined = keras.layers.Subtract()([two, one] if swapped else [one, two])
    return keras.Model(image, {"cut_0": keras.layers.ReLU()(joined)})


def with_weights_of(network, source):
    network.set_weights(source.get_weights())
    return network


def test_the_same_network_built_twice():
    one, other = plain(), plain()
    assert [layer.name for layer in one.layers] != [layer.name for layer in other.layers]
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(prefix()) == fingerprint(prefix())


def test_nested_networks_built_twice():
    def build():
        image = keras.Input((8, 8, 3))
        keras.utils.set_random_seed(3)
        inner = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
        outer = keras.layers.Conv2D(2, 3)(inner(image))
        return keras.Model(image, {"cut_0": outer})

    assert fingerprint(build()) == fingerprint(build())
    one, other = prefix(nested(), "last:2"), prefix(nested(), "last:2")
    assert fingerprint(with_weights_of(other, one)) == fingerprint(one)


def test_a_layer_named_like_an_activation():
    assert fingerprint(plain(name="relu")) == fingerprint(plain(name="linear")) == fingerprint(plain())


def test_one_number_of_one_weight():
    network = plain()
    before = fingerprint(network)
    kernel = network.layers[1].kernel
    changed = np.array(kernel)
    changed[0, 0, 0, 0] = np.nextafter(changed[0, 0, 0, 0], np.float32(2))
    kernel.assign(changed)
    assert fingerprint(network) != before


@pytest.mark.parametrize(
    "change",
    [{"strides": 2}, {"activation": "elu"}, {"swapped": True}, {"dtype": "mixed_bfloat16"}],
    ids=lambda change: next(iter(change)),
)
def test_another_configuration_or_wiring(change):
    network = plain()
    assert fingerprint(with_weights_of(plain(**change), network)) != fingerprint(network)


def test_another_precision_within_a_container():
    def build(dtype):
        image = keras.Input((8, 8, 3))
        keras.utils.set_random_seed(3)
        inside = [keras.layers.ReLU(), keras.layers.Conv2D(4, 3, dtype=dtype), keras.layers.ReLU()]
        return keras.Model(image, {"cut_0": keras.Sequential(inside)(image)})

    assert fingerprint(build("float32")) == fingerprint(build("float32"))
    assert fingerprint(build("float32")) != fingerprint(build("mixed_bfloat16"))


def test_another_tensor_under_the_name():
    network = plain()
    image, one, two = network.inputs[0], network.layers[1].output, network.layers[2].output
    assert fingerprint(keras.Model(image, {"cut_0": one, "cut_1": two})) != fingerprint(
        keras.Model(image, {"cut_0": two, "cut_1": one})
    )


def test_settings_of_training_do_not_matter():
    """With other flags and random numbers, the same features are used under every plan and after training."""
    network = small_network()
    before = fingerprint(network)
    network.trainable = False
    for layer in network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.seed_generator.state.assign([7, 7])
    network.compile("sgd", "mse")
    assert fingerprint(network) == before


def test_cutting_again_changes_nothing():
    backbone = load_backbone(small_network())
    fingerprints = []
    for plan in ("last:3", "last:6", "last:3"):
        freeze(backbone, plan)
        fingerprints.append(fingerprint(cut(backbone.model, resolve_plan(backbone, plan)).prefix))
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_a_saved_network(tmp_path):
    network = small_network()
    network.save(tmp_path / "small.keras")
    assert fingerprint(keras.models.load_model(tmp_path / "small.keras")) == fingerprint(network)


@pytest.mark.slow
def test_another_process():
    """Its counters, which number the layers' names, have other values."""
    code = "from test_engine import *; plain(); print(fingerprint(plain()), fingerprint(prefix()))"
    process = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert process.stdout.split() == [fingerprint(plain()), fingerprint(prefix())]
