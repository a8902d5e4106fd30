"""Heads: pooling, probabilities, and a file that plain Keras opens."""

import doctest
import importlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import small_network
from networks import answer, assert_close, pixels, tiny

from regraft.backbone.head import OUTPUT, graft, pooled
from regraft.backbone.load import load_backbone
from regraft.errors import UsageError
from regraft.recipe import HeadSpec

REPLAY = """
import sys
import numpy as np
import keras

for file in sys.argv[1:]:
    model = keras.models.load_model(file, safe_mode=True)
    np.save(file + ".npy", model.predict(np.load(f"{file}.pixels.npy"), verbose=0))
assert "regraft" not in sys.modules
"""


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(small_network())


def test_probabilities_of_every_class(backbone):
    model = graft(backbone, HeadSpec(), outputs=5)
    given = answer(model, pixels(32, 3))
    assert given.shape == (3, 5)
    assert (given > 0).all()
    np.testing.assert_allclose(given.sum(axis=1), 1, rtol=1e-5)
    assert model.input_shape == (None, 32, 32, 3)
    assert model.name == "regraft_small_network"


@pytest.mark.parametrize(("pooling", "reduce"), [("avg", np.mean), ("max", np.max)])
def test_pooling_is_that_of_numpy(backbone, pooling, reduce):
    vector = keras.Model(backbone.model.inputs[0], pooled(backbone, HeadSpec(pooling=pooling)))
    x = pixels(32)
    assert_close(answer(vector, x), reduce(answer(backbone.model, x), axis=(1, 2)), 1e-6)


def test_a_feature_vector_is_taken_as_it_is():
    backbone = load_backbone(tiny(output="vector"))
    assert pooled(backbone, HeadSpec(pooling="max")) is backbone.model.outputs[0]
    model = graft(backbone, HeadSpec(pooling="max"), outputs=3)
    x = pixels(16)
    scores = answer(backbone.model, x) @ np.array(model.get_layer(OUTPUT).kernel)
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert_close(answer(model, x), expected, 1e-5)


def test_the_answer_is_softmax_of_the_pooled_features(backbone):
    model = graft(backbone, HeadSpec(), outputs=3)
    dense = model.get_layer(OUTPUT)
    dense.bias.assign([0.5, -1.0, 0.0])
    x = pixels(32)
    scores = answer(backbone.model, x).mean(axis=(1, 2)) @ np.array(dense.kernel) + np.array(dense.bias)
    assert_close(answer(model, x), np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True), 1e-5)


def test_dropout_is_there_only_when_asked_for(backbone):
    x = pixels(32)
    quiet = graft(backbone, HeadSpec(dropout=0), outputs=3)
    assert [layer.name for layer in quiet.layers[-2:]] == ["head_pool", OUTPUT]
    loud = graft(backbone, HeadSpec(dropout=0.5), outputs=3)
    assert loud.get_layer("head_dropout").rate == 0.5
    loud.get_layer(OUTPUT).set_weights(quiet.get_layer(OUTPUT).get_weights())
    np.testing.assert_array_equal(answer(loud, x), answer(quiet, x))


def test_layers_are_the_backbones_own(backbone):
    model = graft(backbone, HeadSpec(), outputs=3)
    for layer in backbone.layers:
        assert model.get_layer(layer.name) is layer


def test_seed_decides_the_first_weights(backbone):
    one, same, other = (graft(backbone, HeadSpec(), outputs=3, seed=seed) for seed in (1, 1, 2))
    kernels = [np.array(model.get_layer(OUTPUT).kernel) for model in (one, same, other)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_a_trained_model_is_no_backbone(backbone):
    grafted = load_backbone(graft(backbone, HeadSpec(), outputs=3))
    with pytest.raises(UsageError, match=r"regraft_small_network has a head already"):
        graft(grafted, HeadSpec(), outputs=3)


# --- contract 4: plain Keras out


@pytest.mark.slow
def test_saved_models_open_without_regraft(tmp_path):
    """All in one process: starting Keras takes longer than the test. ResNet50 has the contract "caffe"."""
    expected = {}
    for name in (small_network(), "mobilenet_v2", "resnet50"):
        weights = "random" if isinstance(name, str) else "imagenet"
        backbone = load_backbone(name, weights=weights, image_size=32)
        model = graft(backbone, HeadSpec(), outputs=4)
        file = tmp_path / f"{backbone.name}.keras"
        model.save(file)
        x = pixels(32, 3)
        np.save(f"{file}.pixels.npy", x)
        expected[str(file)] = model.predict(x, verbose=0)
    subprocess.run([sys.executable, "-c", REPLAY, *expected], check=True, timeout=300)
    for file, probabilities in expected.items():
        np.testing.assert_allclose(np.load(file + ".npy"), probabilities, atol=1e-5, rtol=0)


def test_documented_examples_are_true():
    result = doctest.testmod(importlib.import_module("regraft.backbone.head"))
    assert result.attempted
    assert not result.failed
