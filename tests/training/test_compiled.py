"""A network that is compiled once trains like one that is compiled again."""

from __future__ import annotations

from dataclasses import replace

import keras
import numpy as np
import pytest
from conftest import small_network
from helpers.networks import values

from regraft.backbones.load import load_backbone
from regraft.models.freeze import freeze
from regraft.models.head import graft
from regraft.recipe import HeadSpec, Phase
from regraft.training.compiled import CompiledNetworks

LOSS = keras.losses.categorical_crossentropy
FAST = Phase("last:1", learning_rate=1e-2, backbone_rate=0.5)
SLOW = Phase("last:1", learning_rate=1e-3, backbone_rate=0.1)


@pytest.fixture(scope="module")
def built():
    backbone = load_backbone(small_network())
    model = graft(backbone, HeadSpec(dropout=0.0), outputs=2)
    freeze(backbone, "last:1")
    return backbone, model, model.get_weights()


def train_steps(built, compiled: CompiledNetworks, phase: Phase, name: str = "plan") -> dict[str, np.ndarray]:
    """Return the weights after three steps of a phase from the start."""
    backbone, model, start = built
    model.set_weights(start)
    network = compiled.get(
        name,
        lambda: keras.Model(model.inputs, model.outputs),
        backbone=backbone,
        phase=phase,
        loss=LOSS,
    )
    for layer in network.model._flatten_layers():
        if getattr(layer, "seed_generator", None) is not None:
            layer.seed_generator.state.assign(np.zeros(2, "uint32"))
    rng = np.random.default_rng(0)
    for _ in range(3):
        network.rates.set(phase.learning_rate)
        network.model.train_on_batch(rng.uniform(0, 255, (4, 32, 32, 3)), np.eye(2)[[0, 1, 1, 0]])
    return values(model)


@pytest.mark.slow
def test_earlier_training_leaves_no_trace(built) -> None:
    compiled = CompiledNetworks()
    first = train_steps(built, compiled, FAST)
    reused = train_steps(built, compiled, SLOW)
    fresh = train_steps(built, CompiledNetworks(), SLOW)
    assert any((first[name] != fresh[name]).any() for name in fresh)
    for name, value in fresh.items():
        np.testing.assert_array_equal(reused[name], value, err_msg=name)


def test_a_network_is_used_again_only_for_the_same_layers_and_optimizer(built) -> None:
    backbone, model, _ = built
    compiled = CompiledNetworks()

    def network(name: str, phase: Phase) -> keras.Model:
        return compiled.get(
            name,
            lambda: keras.Model(model.inputs, model.outputs),
            backbone=backbone,
            phase=phase,
            loss=LOSS,
        ).model

    first = network("plan", FAST)
    assert network("plan", SLOW) is first
    assert network("another plan", FAST) is not first
    assert network("plan", replace(FAST, weight_decay=0.1)) is not first
    assert network("plan", replace(FAST, backbone_rate=1.0)) is not first  # one rate, not two
