"""Poolings against NumPy, of feature maps, of tokens and of vectors."""

import keras
import numpy as np
import pytest
from helpers.networks import answer, assert_close

from regraft.errors import UsageError
from regraft.models.attention import pool


def features(*shape):
    return np.abs(np.random.default_rng(0).normal(size=(3, *shape, 6))).astype("float32")


def pooling(x, name):
    source = keras.Input(x.shape[1:])
    return keras.Model(source, pool(source, name, "pool"))


@pytest.mark.parametrize("shape", [(5, 4), (9,)], ids=["map", "tokens"])
def test_average_maximum_and_both(shape):
    x = features(*shape)
    places = tuple(range(1, x.ndim - 1))
    mean, most = x.mean(axis=places), x.max(axis=places)
    for name, expected in (("avg", mean), ("max", most), ("both", np.concatenate([mean, most], axis=1))):
        assert_close(answer(pooling(x, name), x), expected, 1e-6)


@pytest.mark.parametrize("exponent", [1.0, 3.0, 5.5])
def test_generalised_mean(exponent):
    x = features(5, 4)
    x[0, 0] = 0  # and a place that counts as the floor
    model = pooling(x, "gem")
    kernel = model.get_layer("pool_p").kernel
    assert np.array(kernel) == 3  # where the paper starts
    kernel.assign([[exponent]])
    expected = (np.maximum(x.astype(np.float64), 1e-6) ** exponent).mean(axis=(1, 2)) ** (1 / exponent)
    assert_close(answer(model, x), expected, 1e-5)


def test_the_exponent_learns():
    """The exponent grows towards the maximum where that is the target."""
    x = features(5, 4)
    model = pooling(x, "gem")
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse")
    for _ in range(20):
        model.train_on_batch(x, x.max(axis=(1, 2)))
    assert np.array(model.get_layer("pool_p").kernel) > 4


@pytest.mark.parametrize("shape", [(5, 4), (9,)], ids=["map", "tokens"])
def test_attention_is_a_mean_weighed_by_a_softmax(shape):
    x = features(*shape)
    model = pooling(x, "attention")
    places = x.reshape(3, -1, 6)
    assert_close(answer(model, x), places.mean(axis=1), 1e-5)  # at first
    kernel = np.random.default_rng(1).normal(size=(6, 1))
    model.get_layer("pool_scores").kernel.assign(kernel)
    shares = np.exp(places @ kernel)
    shares /= shares.sum(axis=1, keepdims=True)
    assert_close(answer(model, x), (places * shares).sum(axis=1), 1e-5)


@pytest.mark.parametrize("name", ["avg", "max", "both", "attention"])
def test_a_vector_is_taken_as_it_is(name):
    source = keras.Input((6,))
    assert pool(source, name, "pool") is source


@pytest.mark.parametrize("shape", [(9, 6), (6,)])
def test_the_generalised_mean_needs_a_feature_map(shape):
    with pytest.raises(UsageError, match=r"head.pooling: the generalised mean needs a feature map"):
        pool(keras.Input(shape), "gem", "pool")
