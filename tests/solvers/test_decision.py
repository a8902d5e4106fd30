"""Decision rules, scaler and link: Keras layers against NumPy, and NumPy against scikit-learn."""

import keras
import numpy as np
import pytest
from sklearn.svm import SVC
from sklearn.utils.multiclass import _ovr_decision_function

from regraft.solvers.decision import Kernel, Linear, Link, Neighbours, Scaler, vote_pairs


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("classes", [3, 4, 7])
def test_pairs_vote_as_in_scikit_learn(classes: int) -> None:
    pairs = rng().normal(size=(300, classes * (classes - 1) // 2))
    expected = _ovr_decision_function(pairs < 0, -pairs, classes)
    np.testing.assert_allclose(vote_pairs(pairs, classes), expected, atol=1e-12)


def test_linear_rule_on_raw_features_far_from_zero() -> None:
    features = rng().normal(50, [1, 5, 0.1, 2], (80, 4))
    scaler, link = (
        Scaler.from_features(features),
        Link("linear", np.array([3.0, 100.0]), np.array([-1.0, 1000.0])),
    )
    rule = Linear(rng(1).normal(size=(4, 2)), np.array([0.5, -0.5]))
    expected = link(rule.decide(scaler(features)))
    np.testing.assert_allclose(rule.absorb(scaler, link).decide(features), expected, atol=1e-9)
    np.testing.assert_allclose(
        np.asarray(rule.build_layers(features.astype("float32"), scaler, link)),
        expected,
        rtol=1e-5,
        atol=1e-3,
    )


def test_kernel_rule_keeps_its_digits_for_features_far_from_zero() -> None:
    features = rng().normal(200, 1, (60, 30))
    scaler = Scaler.from_features(features)
    machine = SVC(gamma=1 / 30, C=100).fit(scaler(features), np.arange(60) % 2)
    rule = Kernel(1 / 30, machine.support_vectors_, machine.dual_coef_.T, machine.intercept_)
    expected = machine.decision_function(scaler(features))[:, None]
    np.testing.assert_allclose(rule.decide(scaler(features)), expected, atol=1e-9)
    graph = rule.build_layers(features.astype("float32"), scaler, Link.identity(1))
    np.testing.assert_allclose(np.asarray(graph), expected, atol=2e-4)


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_stored_image_finds_itself_and_outvotes_the_others_by_distance(weights: str, metric: str) -> None:
    features = rng().normal(10, 3, (50, 20))
    scaler = Scaler.from_features(features)
    stored = scaler(features)
    if metric == "cosine":
        stored = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    labels = np.eye(2)[np.arange(50) % 2]
    rule = Neighbours(stored, np.column_stack([labels, np.ones(50)]), 5, weights, metric)
    found = np.asarray(rule.build_layers(features.astype("float32"), scaler, Link.identity(2)))
    np.testing.assert_allclose(found, rule.decide(scaler(features)), atol=1e-4)
    if weights == "distance":
        np.testing.assert_allclose(found, labels, atol=1e-4)
    else:
        assert set(np.round(found[:, 0] * 5, 4)) <= {0, 1, 2, 3, 4, 5}


def test_only_the_layer_of_a_linear_head_trains() -> None:
    features = rng().normal(size=(30, 6))
    scaler, tensor = Scaler.from_features(features), keras.Input((6,))
    link = Link("softmax", np.ones(3), np.zeros(3))
    linear = Linear(np.ones((6, 3)), np.zeros(3))
    kernel = Kernel(0.1, features, rng().normal(size=(30, 3)), np.zeros(3), classes=3)
    table = np.column_stack([np.eye(3)[np.arange(30) % 3], np.ones(30)])
    nearest = Neighbours(features, table, 3, "distance", "euclidean")
    counts = []
    for rule in (linear, kernel, nearest):
        model = keras.Model(tensor, rule.build_layers(tensor, scaler, link))
        assert model.layers[-1].name == "head_output"
        counts.append(len(model.trainable_variables))
    assert counts == [2, 0, 0]


@pytest.mark.slow
def test_scaler_standardises_and_leaves_constants_alone() -> None:
    features = rng().normal(3, [1, 50, 0.01], (200, 3))
    features[:, 2] = 8.0
    scaled = Scaler.from_features(features)(features)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(scaled.std(0), [1, 1, 0], atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "linear"])
def test_link_is_the_same_in_numpy_and_in_keras(activation: str) -> None:
    link = Link(activation, np.array([2.0, 0.5, 3.0]), np.array([1.0, 0.0, -4.0]))
    values = rng().normal(0, 3, (50, 3))
    np.testing.assert_allclose(
        np.asarray(link.build_layers(values.astype("float32"))), link(values), atol=1e-5
    )
