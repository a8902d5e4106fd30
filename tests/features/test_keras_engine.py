"""Keras' engine as a GPU is given it: the device list is handed in, the processor does the work."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
from conftest import small_network, write_photos
from helpers.reporters import Recorder

from regraft.data.catalog import Catalog
from regraft.features import keras_engine as device
from regraft.features import precision
from regraft.features.engine import IMAGES, Speed, fast_in_bf16, make_engine
from regraft.features.extract import extract_features
from regraft.features.keras_engine import AHEAD, KerasEngine, accelerator, engine_name, in_bf16
from regraft.features.openvino import BATCH
from regraft.features.store import Store


@pytest.fixture
def gpu(monkeypatch):
    """Keras' backend sees a GPU; a small batch of it, for the processor has to compute it."""
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["gpu:0", "gpu:1"])
    monkeypatch.setattr(device, "ON_ACCELERATOR", 2 * BATCH)


@pytest.fixture
def heard():
    """Keeps what the user is told."""
    return Recorder()


@pytest.fixture(scope="module")
def network():
    small = small_network()
    return keras.Model(small.inputs, {"cut_0": keras.layers.GlobalAveragePooling2D()(small.outputs[0])})


def batches(*sizes, side=32):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (size, side, side, 3)).astype(np.uint8) for size in sizes]


def relative(received, expected) -> float:
    return float(np.abs(received - expected).max() / np.abs(expected).max())


# --- which engine


def test_without_a_gpu_there_is_no_accelerator():
    assert accelerator() == ""
    assert not fast_in_bf16(engine_name()) or engine_name().startswith("openvino")


def test_a_backend_whose_devices_keras_cannot_list_runs_on_the_processor(monkeypatch):
    def none() -> list[str]:
        raise AttributeError("'NoneType' object has no attribute 'list_devices'")

    monkeypatch.setattr(keras.distribution, "list_devices", none)
    assert accelerator() == ""


def test_a_gpu_is_preferred_to_openvino_and_has_keys_of_its_own(network, tmp_path, gpu):
    before = KerasEngine(network).name
    running = make_engine(network, tmp_path)
    assert isinstance(running, KerasEngine)
    assert running.name == engine_name() == before
    assert "gpu f32" in running.name
    assert running.batch == 2 * BATCH
    assert list(tmp_path.iterdir()) == []  # nothing was converted


def test_the_device_is_part_of_the_name(network, monkeypatch):
    here = KerasEngine(network).name
    monkeypatch.setattr(keras.distribution, "list_devices", lambda: ["tpu:0"])
    assert KerasEngine(network).name == here.replace(" cpu ", " tpu ")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow says what a GPU can do")
@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), (None, True)])
def test_bf16_is_measured_where_the_gpu_has_it(gpu, monkeypatch, capability, fast):
    import tensorflow as tf

    facts = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda one: facts)
    assert fast_in_bf16(engine_name()) is fast


# --- what it computes


def test_pixels_as_bytes_give_what_keras_gives(network):
    (batch,) = batches(BATCH)
    (received,) = KerasEngine(network).run([batch])
    assert received["cut_0"].dtype == np.float32
    assert relative(received["cut_0"], network.predict(batch.astype(np.float32), verbose=0)["cut_0"]) < 1e-5


def test_bf16_is_near_f32_and_not_the_same_and_leaves_the_network_alone(network):
    (batch,) = batches(BATCH)
    exact, rough = KerasEngine(network), KerasEngine(network, "bf16")
    (expected,), (received,) = exact.run([batch]), rough.run([batch])
    assert received["cut_0"].dtype == np.float32
    assert 0 < relative(received["cut_0"], expected["cut_0"]) < 0.05
    assert rough.name == exact.name.replace("f32", "bf16")
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    (again,) = KerasEngine(network).run([batch])
    np.testing.assert_array_equal(again["cut_0"], expected["cut_0"])


def test_networks_within_networks_are_copied_and_layers_of_others_shared():
    class Own(keras.layers.Layer):  # cannot be made from its configuration
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def call(self, x):
            return x * self.scale

    image = keras.Input((8, 8, 3))
    inner = keras.Model(image, keras.layers.Conv2D(4, 3, bias_initializer="normal")(image))
    whole = keras.Model(image, {"map": Own(0.5)(inner(keras.layers.Rescaling(1 / 255)(image)))})
    copy = in_bf16(whole)
    computes = {type(layer): layer.compute_dtype for layer in copy._flatten_layers()}
    assert (computes[keras.layers.Rescaling], computes[keras.layers.Conv2D]) == ("bfloat16", "bfloat16")
    assert computes[Own] == "float32"
    assert {variable.dtype for variable in copy.weights} == {"float32"}
    (batch,) = batches(3, side=8)
    received = np.asarray(copy.predict_on_batch(batch)["map"], np.float32)
    assert 0 < relative(received, whole.predict_on_batch(batch)["map"]) < 0.05


def test_what_cannot_be_computed_in_bf16_is_computed_in_f32_and_that_is_said(
    network, tmp_path, monkeypatch, gpu, heard
):
    def cannot(network):
        raise ValueError("no such kernel")

    monkeypatch.setattr(device, "in_bf16", cannot)
    rough = make_engine(network, tmp_path, precision="bf16", reporter=heard)
    assert rough.name == engine_name("f32")
    assert heard.lines == ["This network cannot be computed in bf16 (no such kernel): f32 is used."]


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="names an operation of TensorFlow's")
def test_what_xla_cannot_compile_runs_without_and_that_is_said(heard):
    import tensorflow as tf

    class Foreign(keras.layers.Layer):
        def call(self, x):
            return tf.reshape(tf.numpy_function(lambda a: a * 2, [x], tf.float32), tf.shape(x))

    image = keras.Input((4, 4, 3))
    network = keras.Model(image, {"double": Foreign()(image)})
    network.compile(jit_compile=True)  # as Keras chooses by itself where it sees a GPU
    (batch,) = batches(3, side=4)
    (received,) = KerasEngine(network, reporter=heard).run([batch])
    np.testing.assert_array_equal(received["double"], 2.0 * batch)
    assert len(heard.lines) == 1
    assert heard.lines[0].startswith("XLA cannot compile this network")


# --- batches fed ahead


def test_batches_are_taken_while_the_device_computes(network, monkeypatch):
    running, came = KerasEngine(network), threading.Event()
    compute = running._outputs

    def once_the_next_came(batch):
        assert came.wait(10), "nobody took a batch while the device was busy"
        return compute(batch)

    monkeypatch.setattr(running, "_outputs", once_the_next_came)
    given = batches(2, 3, 1)

    def decoded():
        yield given[0]
        came.set()
        yield from given[1:]

    assert [len(outputs["cut_0"]) for outputs in running.run(decoded())] == [2, 3, 1]


def test_no_more_are_taken_than_wait(network):
    taken = []

    def decoded():
        for number, batch in enumerate(batches(*[1] * 9)):
            taken.append(number)
            yield batch

    for done, _ in enumerate(KerasEngine(network).run(decoded()), 1):
        assert len(taken) <= done + AHEAD


def test_whoever_stops_early_leaves_nothing_running(network):
    given = batches(*[2] * 6)
    running = KerasEngine(network)
    before = threading.active_count()
    unfinished = running.run(given)
    next(unfinished)
    unfinished.close()
    assert threading.active_count() == before
    assert len(list(running.run(given))) == 6


# --- a whole extraction


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_extraction_on_a_gpu_compares_the_precisions_and_keeps_keys_of_its_own(
    network, tmp_path, gpu, heard, monkeypatch
):
    monkeypatch.setattr(precision, "fast_in_bf16", fast_in_bf16)
    catalog = Catalog.from_folder(write_photos(tmp_path / "photos", each=6))
    store = Store(tmp_path / "store")
    features = extract_features(network, catalog, store=store, reporter=heard)
    assert features.precision == "bf16"
    assert f"engine {engine_name('bf16')}" in features.key
    assert any("bf16 is used" in line for line in heard.lines)
    assert extract_features(network, catalog, store=store).computed == 0
    exact = extract_features(network, catalog, store=store, precision="f32")
    assert exact.computed == len(catalog)
    rough, fine = (each.matrix(catalog.samples, "cut_0") for each in (features, exact))
    assert 0 < relative(rough, fine) < 0.05


def test_time_is_measured_on_whole_batches(network, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(device, "ON_ACCELERATOR", 2 * IMAGES)
    speed = Speed(network, Store(tmp_path))
    assert 0 < speed.seconds_per_image < 10
    speed.tune(10**9)
    assert speed.engine.batch == 2 * IMAGES
