"""Keras' engine as it works on a GPU: the list of devices is faked, the processor does the work."""

from __future__ import annotations

import threading

import keras
import numpy as np
import pytest
from conftest import small_network, write_photos
from helpers.reporters import Recorder

from regraft.data.catalog import Catalog
from regraft.features import keras_engine as keras_engine_module
from regraft.features import precision as precision_module
from regraft.features.engine import IMAGES, EngineRunner, is_fast_in_bf16, make_engine
from regraft.features.extract import extract_features
from regraft.features.keras_engine import AHEAD, KerasEngine, copy_in_bf16, engine_name, find_accelerator
from regraft.features.openvino import BATCH
from regraft.features.store import Store


@pytest.fixture
def see_devices(monkeypatch):
    """Return a function that lets Keras' backend see other devices."""

    def see(*names):
        monkeypatch.setattr(keras.distribution, "list_devices", lambda: list(names))

    return see


@pytest.fixture
def gpu(see_devices, monkeypatch):
    """Let Keras' backend see a GPU, with small batches, since the processor computes them."""
    see_devices("gpu:0", "gpu:1")
    monkeypatch.setattr(keras_engine_module, "ACCELERATOR_BATCH", 2 * BATCH)


@pytest.fixture
def reporter():
    """A reporter that records its messages."""
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
    assert find_accelerator() == ""
    assert not is_fast_in_bf16(engine_name()) or engine_name().startswith("openvino")


def test_a_backend_whose_devices_keras_cannot_list_runs_on_the_processor(monkeypatch):
    def fail() -> list[str]:
        raise AttributeError("'NoneType' object has no attribute 'list_devices'")

    monkeypatch.setattr(keras.distribution, "list_devices", fail)
    assert find_accelerator() == ""


def test_a_gpu_is_preferred_to_openvino_and_has_its_own_keys(network, tmp_path, gpu):
    before = KerasEngine(network).name
    engine = make_engine(network, tmp_path)
    assert isinstance(engine, KerasEngine)
    assert engine.name == engine_name() == before
    assert "gpu f32" in engine.name
    assert engine.batch == 2 * BATCH
    assert list(tmp_path.iterdir()) == []  # nothing was converted


def test_the_device_is_part_of_the_name(network, see_devices):
    here = KerasEngine(network).name
    see_devices("tpu:0")
    assert KerasEngine(network).name == here.replace(" cpu ", " tpu ")


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow describes the GPU")
@pytest.mark.parametrize(("capability", "fast"), [((7, 5), False), ((8, 0), True), (None, True)])
def test_bf16_is_measured_if_the_gpu_has_it(gpu, monkeypatch, capability, fast):
    import tensorflow as tf

    details = {} if capability is None else {"compute_capability": capability}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [kind])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda device: details)
    assert is_fast_in_bf16(engine_name()) is fast


# --- what it computes


def test_pixels_as_bytes_give_the_same_outputs(network):
    (batch,) = batches(BATCH)
    (received,) = KerasEngine(network).run([batch])
    assert received["cut_0"].dtype == np.float32
    assert relative(received["cut_0"], network.predict(batch.astype(np.float32), verbose=0)["cut_0"]) < 1e-5


def test_bf16_is_near_f32_but_differs_and_does_not_change_the_network(network):
    (batch,) = batches(BATCH)
    exact, rough = KerasEngine(network), KerasEngine(network, "bf16")
    (expected,), (received,) = exact.run([batch]), rough.run([batch])
    assert received["cut_0"].dtype == np.float32
    assert 0 < relative(received["cut_0"], expected["cut_0"]) < 0.05
    assert rough.name == exact.name.replace("f32", "bf16")
    assert {layer.compute_dtype for layer in network.layers} == {"float32"}
    (again,) = KerasEngine(network).run([batch])
    np.testing.assert_array_equal(again["cut_0"], expected["cut_0"])


def test_nested_networks_are_copied_and_custom_layers_are_shared():
    class Custom(keras.layers.Layer):  # cannot be built from its configuration
        def __init__(self, scale):
            super().__init__()
            self.scale = scale

        def call(self, x):
            return x * self.scale

    image = keras.Input((8, 8, 3))
    inner = keras.Model(image, keras.layers.Conv2D(4, 3, bias_initializer="normal")(image))
    outer = keras.Model(image, {"map": Custom(0.5)(inner(keras.layers.Rescaling(1 / 255)(image)))})
    copy = copy_in_bf16(outer)
    dtypes = {type(layer): layer.compute_dtype for layer in copy._flatten_layers()}
    assert (dtypes[keras.layers.Rescaling], dtypes[keras.layers.Conv2D]) == ("bfloat16", "bfloat16")
    assert dtypes[Custom] == "float32"
    assert {variable.dtype for variable in copy.weights} == {"float32"}
    (batch,) = batches(3, side=8)
    received = np.asarray(copy.predict_on_batch(batch)["map"], np.float32)
    assert 0 < relative(received, outer.predict_on_batch(batch)["map"]) < 0.05


def test_a_network_that_cannot_run_in_bf16_runs_in_f32_and_is_reported(tmp_path, gpu, reporter):
    class Exact(keras.layers.Layer):
        def call(self, x):
            if keras.backend.standardize_dtype(x.dtype) != "float32":
                raise ValueError("no such kernel")
            return x

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape, "float32")

    image = keras.Input((8, 8, 3))
    exact = Exact(autocast=False)(keras.layers.Conv2D(2, 3)(image))
    network = keras.Model(image, {"map": exact})
    rough = make_engine(network, tmp_path, precision="bf16", reporter=reporter)
    assert rough.name == engine_name("f32")
    (line,) = reporter.lines
    assert line.startswith("This network cannot be computed in bf16 (")
    assert "no such kernel" in line
    assert line.endswith("): f32 is used.")


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="uses a TensorFlow operation")
def test_a_network_that_xla_cannot_compile_runs_without_and_is_reported(reporter):
    import tensorflow as tf

    class Foreign(keras.layers.Layer):
        def call(self, x):
            return tf.reshape(tf.numpy_function(lambda a: a * 2, [x], tf.float32), tf.shape(x))

    image = keras.Input((4, 4, 3))
    network = keras.Model(image, {"double": Foreign()(image)})
    network.compile(jit_compile=True)  # Keras' default with a GPU
    (batch,) = batches(3, side=4)
    (received,) = KerasEngine(network, reporter=reporter).run([batch])
    np.testing.assert_array_equal(received["double"], 2.0 * batch)
    assert len(reporter.lines) == 1
    assert reporter.lines[0].startswith("XLA cannot compile this network")


# --- batches fed ahead


def test_batches_are_taken_while_the_device_computes(network):
    has_come = threading.Event()
    has_come.set()  # nothing to wait for while the engine warms up

    class BusyEngine(KerasEngine):
        def _predict(self, batch):
            assert has_come.wait(10), "nobody took a batch while the device was busy"
            return super()._predict(batch)

    engine = BusyEngine(network)
    has_come.clear()
    first, *others = batches(2, 3, 1)

    def decode():
        yield first
        has_come.set()
        yield from others

    assert [len(outputs["cut_0"]) for outputs in engine.run(decode())] == [2, 3, 1]


def test_only_a_few_batches_are_taken_ahead(network):
    taken = []

    def decode():
        for number, batch in enumerate(batches(*[1] * 9)):
            taken.append(number)
            yield batch

    for done, _ in enumerate(KerasEngine(network).run(decode()), 1):
        assert len(taken) <= done + AHEAD


def test_stopping_early_leaves_no_thread_running(network):
    pixels = batches(*[2] * 6)
    engine = KerasEngine(network)
    before = threading.active_count()
    unfinished = engine.run(pixels)
    next(unfinished)
    unfinished.close()
    assert threading.active_count() == before
    assert len(list(engine.run(pixels))) == 6


# --- a whole extraction


@pytest.mark.slow
@pytest.mark.usefixtures("in_this_process")
def test_extraction_on_a_gpu_compares_precisions_and_has_its_own_keys(
    network, tmp_path, gpu, reporter, monkeypatch
):
    monkeypatch.setattr(precision_module, "is_fast_in_bf16", is_fast_in_bf16)
    catalog = Catalog.from_folder(write_photos(tmp_path / "photos", each=6))
    store = Store(tmp_path / "store")
    features = extract_features(network, catalog, store=store, reporter=reporter)
    assert features.precision == "bf16"
    assert f"engine {engine_name('bf16')}" in features.key
    assert any("bf16 is used" in line for line in reporter.lines)
    assert extract_features(network, catalog, store=store).computed == 0
    exact = extract_features(network, catalog, store=store, precision="f32")
    assert exact.computed == len(catalog)
    rough, fine = (run.matrix(catalog.samples, "cut_0") for run in (features, exact))
    assert 0 < relative(rough, fine) < 0.05


def test_time_is_measured_on_whole_batches(network, tmp_path, monkeypatch, gpu):
    monkeypatch.setattr(keras_engine_module, "ACCELERATOR_BATCH", 2 * IMAGES)
    runner = EngineRunner(network, Store(tmp_path))
    assert 0 < runner.seconds_per_image < 10
    runner.tune(10**9)
    assert runner.engine.batch == 2 * IMAGES
