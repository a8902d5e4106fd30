"""Several networks on one image: their taps are tensors of one graph, and a head may use any of them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from regraft.backbones.joint import JointBackbone, join_backbones
from regraft.backbones.load import load_backbone
from regraft.models.head import graft
from regraft.models.joint_taps import find_joint_taps, make_pooled_networks
from regraft.models.taps import cut_at_taps
from regraft.recipe import HeadSpec

LAST = HeadSpec(taps="last")


def make_network(name: str, size: int, filters: int) -> keras.Model:
    keras.utils.set_random_seed(filters)
    pixels = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(5, 3, activation="relu", name="first")(pixels)
    x = keras.layers.Conv2D(filters, 3, activation="relu", name="second")(x)
    return keras.Model(pixels, x, name=name)


@pytest.fixture
def joint() -> JointBackbone:
    networks = make_network("one", 16, 6), make_network("two", 24, 9)
    return join_backbones([load_backbone(network) for network in networks])


def test_the_joint_graph_computes_what_each_network_computes_by_itself(joint: JointBackbone) -> None:
    taps = find_joint_taps(joint, LAST)
    model = graft(joint, LAST, outputs=3, taps=[tap.tensor for tap in taps])
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype(np.float32)
    outputs = cut_at_taps(model, taps).prefix(pixels)
    assert list(outputs) == ["network_1_cut_0", "network_2_cut_0"]
    for network, output in zip(make_pooled_networks(joint, LAST), outputs.values(), strict=True):
        np.testing.assert_allclose(output, network(pixels)["cut_0"], rtol=1e-5)


def test_a_network_of_another_size_sees_the_image_resized(joint: JointBackbone) -> None:
    alone = load_backbone(make_network("two", 24, 9)).model
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    resized = keras.ops.image.resize(pixels, (24, 24), antialias=True)
    np.testing.assert_allclose(joint.parts[1].model(pixels), alone(resized), rtol=1e-5)
    assert joint.resized == (False, True)


@pytest.mark.parametrize(("number", "width"), [(0, 6), (1, 9)])
def test_a_head_may_use_one_of_them_alone(joint: JointBackbone, number: int, width: int) -> None:
    tap = find_joint_taps(joint, LAST)[number]
    model = graft(joint, LAST, outputs=3, taps=[tap.tensor])
    assert model.layers[-1].kernel.shape == (width, 3)
    assert list(cut_at_taps(model, [tap]).prefix.output) == [tap.name]


def test_layers_of_one_name_get_the_name_of_their_network(joint: JointBackbone) -> None:
    assert [layer.name for layer in joint.layers] == ["first", "second", "two_first", "two_second"]
