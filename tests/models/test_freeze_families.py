"""Eight families and a small network, six plans: one epoch moves every planned weight and no other bit.

The same tests run on the backend at hand, and once more in a process of their own on JAX. What should
move is worked out here from layer names, not by asking the freeze plan. Weight decay acts on every weight
that trains and none of them is zero, so a planned weight moves even where no gradient comes (dead ReLUs).
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.backends import make_environment

from regraft.backbones.load import load_backbone
from regraft.models.cut import cut
from regraft.models.freeze import FreezePlan, FrozenWeightsGuard, freeze, resolve_plan
from regraft.models.head import graft
from regraft.recipe import HeadSpec

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Family:
    """A backbone at its smallest; a stage, the layer before it, and a pattern that names no suffix."""

    name: str
    stage: str
    before: str
    pattern: str
    size: int = 32


FAMILIES = [
    Family("resnet50", "conv5", "conv4_block6_out", r"conv3_block\d_2_conv$"),
    Family("resnet50_v2", "conv5", "conv4_block6_out", r"conv4_block[12]_"),
    Family("mobilenet_v2", "block_14", "block_13_project_BN", "depthwise"),
    Family("mobilenet_v3_small", "block_9", "expanded_conv_8_project_bn", "squeeze_excite_conv"),
    Family("inception_v3", "mixed9", "mixed8", r"^conv2d_\d*4$", size=75),
    Family("xception", "block2", "block1_conv2_act", r"block\d_sepconv2$", size=71),
    Family("efficientnet_b0", "block7", "block6d_add", "block[25]._se_"),
    Family("convnext_tiny", "stage_3", "convnext_tiny_stage_2_block_8_identity", "downsampling_conv_1|stem$"),
]
SMALL = Family("small_network", "", "", "block1")  # the tests' own: few kinds of layers, and no stages
SHORT = {"small_network", "mobilenet_v3_small"}


@pytest.fixture(autouse=True)
def cheap_weights(monkeypatch):
    """Random weights from NumPy: XLA would compile a generator for every shape."""
    generator = np.random.default_rng(0)

    def draw(self, shape, dtype=None, **rest):
        fan_in = max(1, int(np.prod(shape[:-1])))
        values = generator.standard_normal(shape, np.float32) / np.sqrt(fan_in)
        return keras.ops.convert_to_tensor(values, dtype)

    for name in ("GlorotUniform", "HeNormal", "VarianceScaling", "TruncatedNormal"):
        monkeypatch.setattr(getattr(keras.initializers, name), "__call__", draw)


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="this is the process on JAX")
def test_on_jax():
    run_on_jax("small_network", count=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)  # minutes of compiling, more on a busy machine
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="this is the process on JAX")
def test_all_on_jax():
    run_on_jax("exactly_the_plan", count=1 + len(FAMILIES))


def run_on_jax(which: str, *, count: int) -> None:
    pytest.importorskip("jax")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", "-k", which, __file__],
        env=make_environment("jax"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{count} passed" in done.stdout


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, id=family.name, marks=() if family.name in SHORT else pytest.mark.soak)
        for family in (SMALL, *FAMILIES)
    ],
)
def test_one_epoch_moves_exactly_the_plan(family):
    network = small_network(family.size) if family is SMALL else family.name
    backbone = load_backbone(network, weights="random", image_size=family.size)
    model = graft(backbone, HeadSpec(), outputs=2)
    head = model.get_layer("head_output").weights
    names = [layer.name for layer in backbone.layers]
    middle, few = len(names) // 2, min(20, len(names) // 2)
    stages = {}
    if family.stage:
        layers = backbone.layers[names.index(family.before) + 1 :]
        stages[f"stage:{family.stage}"] = of(layers, lambda layer: True)
    for plan, expected in {
        "none": set(),
        "all": of(backbone.layers, lambda layer: True),
        f"last:{few}": of(backbone.layers[-few:], lambda layer: True),
        f"from:{middle}": of(backbone.layers[middle:], lambda layer: True),
        **stages,
        f"match:{family.pattern}": of(backbone.layers, lambda layer: re.search(family.pattern, layer.name)),
    }.items():
        trained = freeze(backbone, plan)
        assert bool(trained.layers) == (plan != "none")
        moved = one_epoch(model, resolve_plan(backbone, plan), family.size)
        assert moved == expected | {id(weight) for weight in head}, plan


class DecayedSGD(keras.optimizers.Optimizer):
    """Signed gradients and weight decay, in NumPy: XLA would compile each operation for every shape."""

    def __init__(self) -> None:
        super().__init__(learning_rate=1e-3)

    def update_step(self, gradient, variable, learning_rate):
        value, slope = keras.ops.convert_to_numpy(variable), keras.ops.convert_to_numpy(gradient)
        moved = 0.999 * value - 1e-4 * np.sign(slope)
        self.assign(variable, keras.ops.convert_to_tensor(moved.astype(value.dtype)))


def of(layers, rule: Callable[[keras.layers.Layer], object]) -> set[int]:
    """Return ids of the weights that train where `rule` is true of a layer or of a container around it."""
    return {id(variable) for layer in layers for variable in _variables(layer, rule, False)}


def _variables(layer, rule, within: bool) -> Iterator[keras.Variable]:
    within = within or bool(rule(layer))
    if within and not isinstance(layer, keras.layers.BatchNormalization):
        yield from layer._trainable_variables
    for inner in layer._layers:
        yield from _variables(inner, rule, within)


def one_epoch(model, plan: FreezePlan, size: int) -> set[int]:
    """Train one epoch on two images as fine-tuning does; return ids of the weights that differ in a bit."""
    generator = np.random.default_rng(0)
    for weight in model.weights:
        if not np.any(weight):
            weight.assign(generator.uniform(-0.1, 0.1, weight.shape))
    before = [np.asarray(weight).tobytes() for weight in model.weights]
    joined = cut(model, plan).join_halves()
    guard = FrozenWeightsGuard(model)
    joined.compile(optimizer=DecayedSGD(), loss="categorical_crossentropy", run_eagerly=True)
    pixels = generator.uniform(0, 255, (2, size, size, 3)).astype("float32")
    joined.fit(pixels, np.eye(2, dtype="float32"), epochs=1, batch_size=2, verbose=0)
    assert all(np.isfinite(np.asarray(weight)).all() for weight in model.weights)
    guard.check()
    after = [np.asarray(weight).tobytes() for weight in model.weights]
    return {id(weight) for weight, old, new in zip(model.weights, before, after, strict=True) if old != new}
