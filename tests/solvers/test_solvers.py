"""Heads we solve ourselves against scikit-learn, and the choice of the probe's penalty."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from regraft.solvers.cross_validation import ROUGH, Part
from regraft.solvers.logistic import LOGISTIC, PENALTIES, discriminant, logistic, ridge, views_of
from regraft.solvers.solve import SolvedHead, solve


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


@pytest.mark.slow
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


# --- folds that share their work


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_ridge_fold_made_of_shared_sums_equals_scikit_learns_fit_of_its_rows(task: str) -> None:
    features, labels = blobs(90, 15, 3, noise=2.0)
    data = features.astype(np.float64)
    weights = np.random.default_rng(0).uniform(0.2, 3, 90)
    targets = np.eye(3)[labels] if task == "multiclass" else data[:, :2] @ [[1.0], [0.5]]
    part, held = Part(data, targets, weights, task), np.arange(90) % 5 == 0
    fold = views_of(ridge)(part)(held)
    scaler = StandardScaler().fit(data[~held], sample_weight=weights[~held])
    for penalty in (1.0, 0.01):
        expected = Ridge(alpha=penalty * weights[~held].sum())
        expected.fit(scaler.transform(data[~held]), part.signs[~held], weights[~held])
        wanted = expected.predict(scaler.transform(data[held])).reshape(-1, targets.shape[1])
        np.testing.assert_allclose(fold({"penalty": penalty}), wanted, atol=2e-3)


def test_a_discriminant_fold_made_of_shared_sums_equals_one_of_its_rows() -> None:
    features, labels = blobs(90, 15, 3, noise=2.0)
    data, held = features.astype(np.float64), np.arange(90) % 4 == 0
    scaler = StandardScaler().fit(data[~held])
    for task, targets in (("multiclass", np.eye(3)[labels]), ("multilabel", np.eye(3)[labels])):
        part = Part(data, targets, np.ones(90), task)
        fold = views_of(discriminant)(part)(held)
        rest = replace(part.rows(~held), data=scaler.transform(data[~held]))
        for shrinkage in (0.1, 0.9):
            alone = discriminant(rest)({"shrinkage": shrinkage}).decide(scaler.transform(data[held]))
            np.testing.assert_allclose(fold({"shrinkage": shrinkage}), alone, atol=0.02 * alone.std())


@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_labels_that_share_a_covariance_equal_scikit_learn_one_by_one(
    n: int, d: int, shrinkage: float
) -> None:
    features, labels = blobs(n, d, 3, noise=2.0)
    data = StandardScaler().fit_transform(features.astype(np.float64))
    yes = np.eye(3)[labels]
    rule = discriminant(Part(data, yes, np.ones(n), "multilabel"))({"shrinkage": shrinkage})
    for unit in range(3):
        expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(data, yes[:, unit])
        np.testing.assert_allclose(rule.decide(data)[:, unit], expected.decision_function(data), rtol=1e-6)


def test_a_rough_logistic_path_is_near_scikit_learns_fits() -> None:
    features, labels = blobs(150, 40, 3, noise=2.0)
    data = StandardScaler().fit_transform(features.astype(np.float64))
    held = np.arange(150) % 5 == 0
    part = Part(data, np.eye(3)[labels], np.ones(150), "multiclass", tolerance=ROUGH).rows(~held)
    fit = logistic(part)
    for penalty in (0.3, 0.03):  # a path: each starts from the one before
        expected = LogisticRegression(C=1 / (120 * penalty), tol=1e-8, max_iter=10_000)
        wanted = expected.fit(data[~held], labels[~held]).predict_proba(data[held])
        np.testing.assert_allclose(
            softmax(fit({"penalty": penalty}).decide(data[held]), axis=1), wanted, atol=0.02
        )


@pytest.mark.slow
def test_blocks_of_features_count_alike_however_wide_they_are() -> None:
    rng = np.random.default_rng(0)
    blocks = [rng.normal(3, 2, (80, width)) for width in (4, 60)]
    targets = blocks[0][:, :1] + blocks[1][:, :1]
    head = solve("ridge", blocks, targets, task="regression")
    even = [StandardScaler().fit_transform(block) * (32 / block.shape[1]) ** 0.5 for block in blocks]
    expected = Ridge(alpha=head.settings["penalty"] * 80).fit(np.hstack(even), targets)
    np.testing.assert_allclose(
        head.predict(np.hstack(blocks)).ravel(), expected.predict(np.hstack(even)).ravel(), rtol=1e-3
    )


@pytest.mark.parametrize("shared", [False, True])
def test_the_rough_solutions_that_folds_compare_are_near_the_exact_ones_at_every_penalty(
    shared: bool,
) -> None:
    features, labels = blobs(400, 30, 4)
    held = np.arange(400) % 5 == 0
    part = Part(features.astype(np.float64), np.eye(4)[labels], np.ones(400), "multiclass", tolerance=ROUGH)
    scaler = StandardScaler().fit(part.data[~held])
    rest, asked = scaler.transform(part.data[~held]), scaler.transform(part.data[held])
    path = logistic(replace(part.rows(~held), data=rest))
    answer = LOGISTIC.views(part)(held) if shared else (lambda settings: path(settings).decide(asked))
    for penalty in PENALTIES:
        exact = LogisticRegression(C=1 / (320 * penalty), tol=1e-9, max_iter=10_000).fit(rest, labels[~held])
        expected = log_loss(labels[held], exact.predict_proba(asked))
        found = log_loss(labels[held], softmax(answer({"penalty": penalty}), axis=1))
        assert found == pytest.approx(expected, rel=0.02), penalty
