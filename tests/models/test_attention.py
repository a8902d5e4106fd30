"""Attention blocks: the published formulas, and no change at all before they have learned something."""

import keras
import numpy as np
import pytest
from helpers.networks import answer, assert_close

from regraft.errors import UsageError
from regraft.models.attention import cbam, squeeze_excitation

CHANNELS = 32


def features():
    return np.random.default_rng(0).normal(size=(3, 5, 4, CHANNELS)).astype("float32")


def build(block, **settings):
    source = keras.Input((5, 4, CHANNELS))
    return keras.Model(source, block(source, name="block", **settings))


def randomise(model):
    generator = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(generator.normal(size=weight.shape))
    return model


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mlp(model, x):
    """Return the output of the two inner layers, in NumPy."""
    reduce, expand = (
        [np.array(w, np.float64) for w in model.get_layer(f"block_{n}").weights] for n in ("reduce", "expand")
    )
    return np.maximum(x @ reduce[0] + reduce[1], 0) @ expand[0] + expand[1]


@pytest.mark.parametrize("block", [squeeze_excitation, cbam])
def test_a_new_block_changes_nothing_and_can_learn(block):
    model = build(block)
    np.testing.assert_array_equal(answer(model, features()), features())
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    for _ in range(2):
        model.train_on_batch(features(), np.zeros_like(features()))
    assert all(np.any(weight) for weight in model.weights if "kernel" in weight.path)
    assert np.abs(answer(model, features())).mean() < np.abs(features()).mean()


def test_squeeze_excitation_is_that_of_the_paper():
    model, x = randomise(build(squeeze_excitation, ratio=8)), features()
    assert model.get_layer("block_reduce").units == CHANNELS // 8
    gates = 2 * sigmoid(mlp(model, x.mean(axis=(1, 2))))
    assert_close(answer(model, x), x * gates[:, None, None, :], 1e-5)


def test_cbam_is_that_of_the_paper():
    model, x = randomise(build(cbam)), features()
    kernel = np.array(model.get_layer("block_convolution").kernel)
    x = x * (2 * sigmoid(mlp(model, x.mean(axis=(1, 2))) + mlp(model, x.max(axis=(1, 2)))))[:, None, None, :]
    places = np.pad(np.stack([x.mean(axis=-1), x.max(axis=-1)], axis=-1), ((0, 0), (3, 3), (3, 3), (0, 0)))
    scores = sum(
        places[:, row : row + 5, column : column + 4] @ kernel[row, column]
        for row in range(7)
        for column in range(7)
    )
    assert_close(answer(model, features()), x * 2 * sigmoid(scores), 1e-4)


def test_seed_decides_the_first_weights():
    one, same, other = (
        np.array(build(cbam, seed=seed).get_layer("block_reduce").kernel) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_fewer_channels_than_the_ratio():
    source = keras.Input((4, 4, 3))
    assert keras.Model(source, squeeze_excitation(source)).output_shape == (None, 4, 4, 3)


@pytest.mark.parametrize(("block", "name"), [(squeeze_excitation, "squeeze-and-excitation"), (cbam, "CBAM")])
def test_only_for_feature_maps(block, name):
    with pytest.raises(UsageError, match=rf"{name} needs a feature map .* Received: \(None, 7, 8\)"):
        block(keras.Input((7, 8)))
