"""The output layer of a network takes up a link, wherever it is, and only where that is exact."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from scipy.special import softmax

from regraft.solvers.decision import Link
from regraft.tasks import TASKS
from regraft.training.calibrate import absorb_link, find_output_dense

WIDTH = 5


def build(*tail: layers.Layer) -> keras.Model:
    image = keras.Input((WIDTH,))
    answers = image
    for layer in tail:
        answers = layer(answers)
    return keras.Model(image, answers)


def functional_head() -> keras.Model:
    vector = keras.Input((WIDTH,))
    hidden = layers.Dense(7, activation="relu")(vector)
    return keras.Model(vector, layers.Activation("softmax")(layers.Dense(3, name="end")(hidden)))


@pytest.mark.parametrize(
    "tail",
    [
        [layers.Dense(3, activation="softmax", name="end")],
        [layers.Dense(3, name="end"), layers.Activation("softmax")],
        [layers.Dense(3, name="end"), layers.Softmax()],
        [keras.Sequential([keras.Sequential([layers.Dense(4), layers.Dense(3, "softmax", name="end")])])],
        [keras.Sequential([keras.Sequential([layers.Dense(3, name="end")]), layers.Softmax()])],
        [keras.Sequential([functional_head()])],
    ],
    ids=["dense", "activation", "softmax layer", "nested", "nested apart", "functional"],
)
def test_the_output_layer_takes_up_a_link(tail: list[layers.Layer]) -> None:
    model = build(*tail)
    dense = find_output_dense(model, TASKS["multiclass"])
    assert dense is not None
    assert dense.name == "end"
    inputs = np.random.default_rng(0).normal(size=(20, WIDTH)).astype(np.float32)
    before = np.log(model.predict_on_batch(inputs).astype(np.float64))
    link = Link("softmax", np.array([0.5, 0.5, 0.5]), np.array([0.0, 1.0, -1.0]))
    absorb_link(dense, link)
    expected = softmax(0.5 * before + link.shift, axis=1)
    np.testing.assert_allclose(model.predict_on_batch(inputs), expected, atol=1e-5)


def frozen_dense() -> layers.Layer:
    return layers.Dense(3, activation="softmax", trainable=False)


@pytest.mark.parametrize(
    "tail",
    [
        [layers.Dense(3, activation="sigmoid")],
        [layers.Dense(3)],
        [layers.Dense(3, activation="relu"), layers.Softmax()],
        [layers.Dense(3, activation="softmax", use_bias=False)],
        [layers.Dense(3), layers.Dropout(0.5), layers.Softmax()],
        [layers.Softmax()],
        [frozen_dense()],
    ],
    ids=["sigmoid", "logits", "relu", "no bias", "dropout", "no layer", "frozen"],
)
def test_any_other_ending_is_left_alone(tail: list[layers.Layer]) -> None:
    assert find_output_dense(build(*tail), TASKS["multiclass"]) is None


def test_numbers_have_no_probabilities() -> None:
    assert find_output_dense(build(layers.Dense(1)), TASKS["regression"]) is None
