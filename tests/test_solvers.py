"""Heads we solve ourselves against scikit-learn, and the choice of the probe's penalty."""

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from regraft.training.classical import solve
from regraft.training.crossval import Part
from regraft.training.solved import SolvedHead
from regraft.training.solvers import PENALTIES, discriminant, logistic, ridge


def blobs(n: int, d: int, classes: int, *, noise: float = 1.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (classes, d))
    labels = np.arange(n) % classes
    scales = rng.uniform(0.1, 10, d)
    features = (centres[labels] + rng.normal(0, noise, (n, d))) * scales + rng.normal(0, 5, d)
    return features.astype(np.float32), labels


def probe(features: np.ndarray, labels: np.ndarray) -> SolvedHead:
    return solve("logistic", features, labels, task="multiclass", seed=1)


@pytest.mark.parametrize(("n", "d"), [(120, 20), (60, 200)])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_several_classes_equal_scikit_learns(n: int, d: int, penalty: float) -> None:
    features, labels = blobs(n, d, 4)
    data = StandardScaler().fit_transform(features.astype(np.float64))
    rule = logistic(Part(data, np.eye(4)[labels], np.ones(n), "multiclass"))({"penalty": penalty})
    expected = LogisticRegression(C=1 / (n * penalty), tol=1e-9, max_iter=10_000).fit(data, labels)
    np.testing.assert_allclose(rule.decide(data), expected.decision_function(data), atol=1e-4)


def test_penalty_is_the_best_of_a_path_that_has_its_valley_inside() -> None:
    head = probe(*blobs(150, 40, 3, noise=2.5))
    best = min(head.losses, key=lambda text: head.losses[text])
    assert best == f"penalty {head.settings['penalty']:.3g}"
    assert len(head.losses) >= 3
    assert min(PENALTIES) < head.settings["penalty"] < max(PENALTIES)


def test_noisier_features_get_a_stronger_penalty() -> None:
    clean, noisy = (probe(*blobs(150, 40, 3, noise=noise)) for noise in (0.5, 6.0))
    assert noisy.settings["penalty"] > clean.settings["penalty"]


def test_a_constant_feature_gets_no_weight() -> None:
    features, labels = blobs(60, 10, 3)
    features[:, 4] = 7.0
    head = probe(features, labels)
    assert np.abs(head.weights[4]).max() < 1e-6
    assert np.isfinite(head.weights).all()


def test_a_class_with_one_image_is_solved() -> None:
    features, labels = blobs(60, 8, 4, noise=0.5)
    alone = np.flatnonzero(labels == 3)
    used = np.delete(np.arange(60), alone[1:])
    answers = probe(features[used], labels[used]).predict(features[alone[:1]])
    assert answers[0, 3] > 0.5


def test_pixel_like_features_of_huge_scale_do_not_break_the_solver() -> None:
    features, labels = blobs(60, 12, 3)
    assert (probe(features * 1e4, labels).predict(features * 1e4).argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
def test_a_binary_head_is_one_sigmoid(n: int, d: int) -> None:
    features, labels = blobs(n, d, 2, noise=2.0)
    weights = np.random.default_rng(0).uniform(0.2, 3, n)
    weights /= weights.mean()
    data = StandardScaler().fit_transform(features.astype(np.float64))
    rule = logistic(Part(data, labels[:, None].astype(float), weights, "binary"))({"penalty": 0.02})
    expected = LogisticRegression(C=1 / (n * 0.02), tol=1e-10, max_iter=10_000).fit(data, labels, weights)
    np.testing.assert_allclose(rule.decide(data)[:, 0], expected.decision_function(data), atol=1e-4)


@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
def test_ridge_with_weights_equals_scikit_learns(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    data, targets, weights = rng.normal(2, 1, (n, d)), rng.normal(size=(n, 3)), rng.uniform(0.2, 3, n)
    weights /= weights.mean()
    rule = ridge(Part(data, targets, weights, "regression"))({"penalty": 0.1})
    expected = Ridge(alpha=0.1 * n).fit(data, targets, weights)
    np.testing.assert_allclose(rule.decide(data), expected.predict(data), atol=1e-8)
    np.testing.assert_allclose(rule.weights, expected.coef_.T, atol=1e-8)


@pytest.mark.parametrize("shrinkage", [0.01, 0.4, 1.0])
@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
def test_discriminant_analysis_equals_scikit_learns(n: int, d: int, shrinkage: float) -> None:
    features, labels = blobs(n, d, 3, noise=2.0)
    unseen = np.random.default_rng(1).normal(size=(30, d))
    data = StandardScaler().fit_transform(features.astype(np.float64))
    weights = np.array([0.5, 1.0, 1.5])[labels]
    weights /= weights.mean()
    prior = np.bincount(labels, weights) / weights.sum()
    rule = discriminant(Part(data, np.eye(3)[labels], weights, "multiclass"))({"shrinkage": shrinkage})
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=prior).fit(data, labels)
    np.testing.assert_allclose(rule.decide(unseen), expected.decision_function(unseen), rtol=1e-7, atol=1e-6)
