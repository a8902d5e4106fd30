"""A network converted by Keras' OpenVINO backend predicts the same as Keras on the present backend."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import small_network

from regraft.backbones.load import load_backbone
from regraft.backbones.zoo import ZOO
from regraft.features import convert as convert_module
from regraft.features.convert import convert, convert_in_child
from regraft.features.keras_engine import can_convert_to_openvino
from regraft.features.openvino import BATCH, OpenVinoEngine

pytestmark = pytest.mark.skipif(not can_convert_to_openvino(), reason="OpenVINO is not installed")

FAMILIES = {  # one of each kind of layer, the cheapest
    "vgg16", "resnet50", "inception_v3", "mobilenet", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0",
    "convnext_tiny",
}  # fmt: skip
RELATIVE = 1e-5  # of the largest value: float32 sums in another order


def random_pixels(count: int, size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def assert_converted(network: keras.Model, target: Path, *batches: int) -> None:
    images = random_pixels(max(batches), network.inputs[0].shape[1])
    expected = network(images.astype(np.float32), training=False)
    for batch in batches:
        (received,) = OpenVinoEngine(target, batch=batch).run([images[:batch]])
        assert received.keys() == expected.keys()
        for name, values in expected.items():
            value = keras.ops.convert_to_numpy(values)[:batch]
            assert np.abs(received[name] - value).max() <= RELATIVE * np.abs(value).max(), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [name if name in FAMILIES else pytest.param(name, marks=pytest.mark.soak) for name in ZOO],
)
def test_every_network_of_keras_applications_predicts_the_same(name: str, tmp_path: Path) -> None:
    model = load_backbone(name, weights="random", image_size=ZOO[name].min_size).model
    pooled = keras.layers.GlobalAveragePooling2D()(model.output)
    network = keras.Model(model.inputs[0], {"map": model.output, "pooled": pooled})
    convert_in_child(network, tmp_path / "graph.xml")  # `convert` would go through TensorFlow if that failed
    assert_converted(network, tmp_path / "graph.xml", 1, BATCH)


def test_the_same_network_becomes_the_same_bytes(tmp_path: Path) -> None:
    network = keras.Model((model := small_network()).inputs[0], {"map": model.output})
    for name in ("one", "same"):
        convert(network, tmp_path / f"{name}.xml")
    for suffix in (".xml", ".bin"):
        assert (tmp_path / f"one{suffix}").read_bytes() == (tmp_path / f"same{suffix}").read_bytes()


@keras.saving.register_keras_serializable("mine")
class OnlyHere(keras.layers.Layer):
    """A layer that no other process knows."""

    def call(self, inputs):
        return 2.0 * inputs


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow's graph is the way out")
def test_a_network_that_the_child_cannot_build_goes_through_tensorflow(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, {"twice": OnlyHere()(keras.layers.Conv2D(2, 3)(image))})
    convert(network, tmp_path / "graph.xml")
    assert_converted(network, tmp_path / "graph.xml", BATCH)


def test_a_path_is_relative_to_the_current_folder_of_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The child keeps the folder in which it was started, and must not write there."""
    network = keras.Model((model := small_network()).inputs[0], {"map": model.output})
    before = set(Path.cwd().iterdir())
    convert_module._CHILD.start()
    started_in = Path.cwd()
    monkeypatch.chdir(tmp_path)
    convert(network, Path("graph.xml"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.bin", "graph.xml"]
    assert set(started_in.iterdir()) == before


def test_a_child_that_was_killed_is_started_again(tmp_path: Path) -> None:
    network = keras.Model((model := small_network()).inputs[0], {"map": model.output})
    convert(network, tmp_path / "one.xml")
    first = convert_module._CHILD.start()
    first.kill()
    first.wait()
    convert(network, tmp_path / "other.xml")
    assert convert_module._CHILD.start() is not first
    assert_converted(network, tmp_path / "other.xml", 1)
