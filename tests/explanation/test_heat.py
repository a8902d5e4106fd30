"""Heat maps equal Grad-CAM where that is exact, add up to the decision, and fall to the right positions."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers import grad_cam
from helpers.backends import make_environment

from regraft.backbones.load import Backbone, load_backbone
from regraft.backbones.zoo import ZOO
from regraft.explanation.heads import read_head
from regraft.explanation.heat import HeatMaker, PooledLinear, remove_positions
from regraft.features.convert import convert
from regraft.features.openvino import OpenVinoEngine
from regraft.inference.predict import name_outputs
from regraft.models.head import graft
from regraft.models.inner_outputs import MAP, InnerLayer
from regraft.recipe import HeadSpec

FAMILIES = {
    "mobilenet_v2": 96,
    "resnet50": 64,
    "resnet50_v2": 64,
    "densenet121": 64,
    "vgg16": 64,
    "inception_v3": 107,
    "xception": 96,
    "efficientnet_b0": 64,
    "convnext_tiny": 64,
    "nasnet_mobile": 96,
}
UNIT = 2


def make_maps(count: int = 4, channels: int = 6, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0.3, 1, (count, 3, 5, channels)).astype(np.float32)


def make_head(pooling: str, channels: int = 6, units: int = 4, seed: int = 1):
    """A head in NumPy, the same in float64 for every backend, and its weights."""
    rng = np.random.default_rng(seed)
    average, largest = rng.normal(0, 1, (2, channels, units))
    bias = rng.normal(0, 50, units)
    average, largest = average * (pooling != "max"), largest * (pooling != "avg")

    def head(maps: np.ndarray) -> np.ndarray:
        values = maps.mean((1, 2), dtype=np.float64) @ average + maps.max((1, 2)) @ largest + bias
        return values.astype(np.float32)

    return head, average, largest, bias


def only(unit: int, units: int = 4) -> np.ndarray:
    return np.eye(units)[[unit]]


# --- against gradients


@dataclass
class Example:
    """The file of a model's head, the model's graph, and maps of two images as Keras computes them."""

    head: Path
    graph: Path
    pixels: np.ndarray
    maps: np.ndarray

    @classmethod
    def make(cls, backbone: Backbone, folder: Path) -> Example:
        tensor, size = backbone.model.outputs[0], backbone.image_size
        model = graft(backbone, HeadSpec(), outputs=4)
        convert(name_outputs(model, InnerLayer(backbone.model.layers[-1].name, "avg")), folder / "graph.xml")
        pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.uint8)
        maps = keras.Model(model.inputs[0], tensor)(pixels.astype("float32"), training=False)
        keras.Model(tensor, model.outputs[0]).save(folder / "head.keras")
        return cls(folder / "head.keras", folder / "graph.xml", pixels, np.asarray(maps))

    def run_graph(self) -> np.ndarray:
        """The maps as the graph computes them."""
        (outputs,) = OpenVinoEngine(self.graph).run([self.pixels])
        return outputs[MAP]

    def compute_heat(self, maps: np.ndarray) -> np.ndarray:
        maker = HeatMaker(read_head(self.graph, "softmax"))
        heat = np.stack([maker.compute(features, only(UNIT))[0] for features in maps])
        assert maker.is_linear
        return heat

    def compute_grad_cam(self, backend: str) -> np.ndarray:
        if backend == keras.backend.backend():
            return grad_cam.compute_grad_cam(keras.models.load_model(self.head), self.maps, UNIT)
        pytest.importorskip(backend)
        folder = self.graph.parent
        np.save(folder / "maps.npy", self.maps)
        arguments = [self.head, folder / "maps.npy", str(UNIT), folder / "out.npy"]
        subprocess.run(
            [sys.executable, grad_cam.__file__, *arguments], env=make_environment(backend), check=True
        )
        return np.load(folder / "out.npy")


def assert_equal(received: np.ndarray, expected: np.ndarray, relative: float = 1e-4) -> None:
    assert np.abs(received - expected).max() <= relative * np.abs(expected).max()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Example:
    keras.utils.set_random_seed(5)
    return Example.make(load_backbone(small_network()), tmp_path_factory.mktemp("small"))


@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.slow)])
def test_heat_equals_grad_cam(small: Example, backend: str) -> None:
    expected = small.compute_grad_cam(backend)
    assert_equal(small.compute_heat(small.maps), expected)
    assert_equal(small.compute_heat(small.run_graph()), expected)  # and with the map of the graph itself


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "mobilenet_v2" else pytest.mark.soak)
        for name in FAMILIES
    ],
)
def test_heat_equals_grad_cam_in_every_family(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    example = Example.make(load_backbone(name, weights="random", image_size=FAMILIES[name]), tmp_path)
    assert example.maps[0, ..., 0].size > 1
    for backend in ("tensorflow", "jax"):
        assert_equal(example.compute_heat(example.maps), example.compute_grad_cam(backend))


@pytest.mark.soak
@pytest.mark.parametrize("name", ZOO)
def test_every_network_has_heat_maps(name: str, tmp_path: Path) -> None:
    size = max(128, ZOO[name].min_size)
    example = Example.make(load_backbone(name, weights="random", image_size=size), tmp_path)
    maps, head = example.run_graph(), read_head(example.graph, "softmax")
    heat = example.compute_heat(maps)
    assert heat.shape[1:] == maps.shape[1:3]
    assert heat[0].size > 1
    decisions = (head(maps) - head(np.zeros_like(maps)))[:, UNIT]
    np.testing.assert_allclose(heat.sum((1, 2)), decisions, rtol=1e-3, atol=1e-4 * np.abs(heat).max())


# --- on photographs


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch):
    """The benchmark whose figures are asked for here."""
    monkeypatch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
    return importlib.import_module("heat_maps")


@pytest.mark.soak
def test_a_mark_that_decides_the_class_holds_half_of_the_heat(
    benchmark, tmp_path: Path, clothing: Path, mobilenet_weights: Path
) -> None:
    (row,) = benchmark.find_marks(tmp_path, clothing, mobilenet_weights, 640)
    assert row.met, row


@pytest.mark.soak
def test_a_random_head_destroys_the_heat(
    benchmark, tmp_path: Path, clothing: Path, mobilenet_weights: Path
) -> None:
    run, _ = benchmark.train(clothing, tmp_path / "run", mobilenet_weights)
    row = benchmark.compare_with_random_head(run, benchmark.read_pixels(benchmark.list_images(clothing)[:80]))
    assert row.met, row


# --- what it adds up to


@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
def test_the_weights_of_a_linear_head_are_found(pooling: str) -> None:
    head, average, largest, bias = make_head(pooling)
    linear = PooledLinear.from_head(head, 6)
    assert linear is not None
    np.testing.assert_allclose(linear.average, average, atol=1e-4)
    np.testing.assert_allclose(linear.largest, largest, atol=1e-4)
    np.testing.assert_allclose(linear.bias, bias, rtol=1e-6)
    assert linear.fits(make_maps(), head(make_maps()))


@pytest.mark.parametrize("pooling", ["avg", "max", "both"])
def test_heat_adds_up_to_the_decision_without_its_bias(pooling: str) -> None:
    head, _, _, bias = make_head(pooling)
    maker = HeatMaker(head)
    for features in make_maps():
        heat = maker.compute(features, np.eye(4))
        np.testing.assert_allclose(heat.sum((1, 2)), head(features[None])[0] - bias, atol=1e-3)
    assert maker.is_linear


def test_the_heat_of_a_maximum_lies_where_it_is() -> None:
    head, _, largest, _ = make_head("max")
    (features,) = make_maps(1)
    expected = np.zeros((3, 5))
    for channel in range(6):
        row, column = np.unravel_index(features[..., channel].argmax(), (3, 5))
        expected[row, column] += features[row, column, channel] * largest[channel, 1]
    np.testing.assert_allclose(HeatMaker(head).compute(features, only(1))[0], expected, atol=1e-4)


def test_removing_positions_gives_the_heat_of_a_linear_head() -> None:
    head, *_ = make_head("avg")
    (features,) = make_maps(1)
    received = remove_positions(head, features, np.eye(4))
    np.testing.assert_allclose(received, HeatMaker(head).compute(features, np.eye(4)), atol=1e-4)


def test_directions_are_differences_of_units() -> None:
    head, *_ = make_head("both")
    (features,) = make_maps(1)
    maker = HeatMaker(head)
    one, two, difference = maker.compute(features, np.array([[1, 0, 0, 0], [0, 0, 1, 0], [1, 0, -1, 0]]))
    np.testing.assert_allclose(difference, one - two, atol=1e-5)


@pytest.mark.parametrize("kind", ["hidden", "kernel", "steps"])
def test_another_head_is_asked_without_each_position(kind: str) -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0, 1, (6, 5)), rng.normal(0, 1, (5, 3))

    def head(maps: np.ndarray) -> np.ndarray:
        pooled = maps.mean((1, 2))
        if kind == "hidden":
            return np.maximum(pooled @ first, 0) @ second
        if kind == "kernel":
            return np.exp(-((pooled[:, None] - first.T[:3]) ** 2).sum(2))
        return (pooled[:, :3] > 0).astype(np.float32)

    (features,) = make_maps(1)
    maker = HeatMaker(head)
    heat = maker.compute(features, np.eye(3))
    assert not maker.is_linear
    changed = features.copy()
    changed[1, 3] = 0
    np.testing.assert_allclose(heat[:, 1, 3], (head(features[None]) - head(changed[None]))[0], atol=1e-5)


def test_a_head_that_takes_one_size_only_is_asked_without_each_position() -> None:
    weights = np.random.default_rng(0).normal(0, 1, (90, 4))

    def head(maps: np.ndarray) -> np.ndarray:
        return maps.reshape(-1, 90) @ weights  # two positions of 6 channels are no 90 numbers

    (features,) = make_maps(1)
    maker = HeatMaker(head)
    heat = maker.compute(features, only(1))[0]
    expected = (features * weights[:, 1].reshape(3, 5, 6)).sum(-1)  # linear, so removal is exact here too
    np.testing.assert_allclose(heat, expected, atol=1e-4)
    assert not maker.is_linear


def test_many_positions_are_removed_a_few_at_a_time() -> None:
    head, *_ = make_head("avg")
    (features,) = make_maps(1)
    at_once = remove_positions(head, features, np.eye(4))
    two_by_two = remove_positions(head, features, np.eye(4), chunk=4 * features.size * 2)
    np.testing.assert_allclose(two_by_two, at_once, atol=1e-6)
