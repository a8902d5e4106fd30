"""Logistic regression against scikit-learn, and the choice of its penalty."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.solved_heads import make_classes
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.preprocessing import StandardScaler

from regraft.solvers.cross_validation import ROUGH, TrainingRows
from regraft.solvers.logistic import LOGISTIC, PENALTIES, prepare_logistic
from regraft.solvers.solve import SolvedHead, solve


def probe(features: np.ndarray, labels: np.ndarray) -> SolvedHead:
    return solve("logistic", features, labels, task="multiclass", seed=1)


@pytest.mark.parametrize(("n", "d"), [(120, 20), (60, 200)])
@pytest.mark.parametrize("penalty", [1.0, 0.01])
def test_several_classes_equal_scikit_learns(n: int, d: int, penalty: float) -> None:
    features, labels = make_classes(n, d, 4)
    data = StandardScaler().fit_transform(features.astype(np.float64))
    rule = prepare_logistic(TrainingRows(data, np.eye(4)[labels], np.ones(n), "multiclass"))(
        {"penalty": penalty}
    )
    expected = LogisticRegression(C=1 / (n * penalty), tol=1e-9, max_iter=10_000).fit(data, labels)
    np.testing.assert_allclose(rule.decide(data), expected.decision_function(data), atol=1e-4)


def test_penalty_is_the_best_of_a_path_that_has_its_valley_inside() -> None:
    head = probe(*make_classes(150, 40, 3, noise=2.5))
    best = min(head.losses, key=lambda text: head.losses[text])
    assert best == f"penalty {head.settings['penalty']:.3g}"
    assert len(head.losses) >= 3
    assert min(PENALTIES) < head.settings["penalty"] < max(PENALTIES)


@pytest.mark.slow
def test_noisier_features_get_a_stronger_penalty() -> None:
    clean, noisy = (probe(*make_classes(150, 40, 3, noise=noise)) for noise in (0.5, 6.0))
    assert noisy.settings["penalty"] > clean.settings["penalty"]


def test_a_constant_feature_gets_no_weight() -> None:
    features, labels = make_classes(60, 10, 3)
    features[:, 4] = 7.0
    head = probe(features, labels)
    assert np.abs(head.weights[4]).max() < 1e-6
    assert np.isfinite(head.weights).all()


def test_a_class_with_one_image_is_solved() -> None:
    features, labels = make_classes(60, 8, 4, noise=0.5)
    single = np.flatnonzero(labels == 3)
    used = np.delete(np.arange(60), single[1:])
    answers = probe(features[used], labels[used]).predict(features[single[:1]])
    assert answers[0, 3] > 0.5


def test_pixel_like_features_of_huge_scale_do_not_break_the_solver() -> None:
    features, labels = make_classes(60, 12, 3)
    assert (probe(features * 1e4, labels).predict(features * 1e4).argmax(1) == labels).mean() > 0.9


@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
def test_a_binary_head_is_one_sigmoid(n: int, d: int) -> None:
    features, labels = make_classes(n, d, 2, noise=2.0)
    weights = np.random.default_rng(0).uniform(0.2, 3, n)
    weights /= weights.mean()
    data = StandardScaler().fit_transform(features.astype(np.float64))
    rule = prepare_logistic(TrainingRows(data, labels[:, None].astype(float), weights, "binary"))(
        {"penalty": 0.02}
    )
    expected = LogisticRegression(C=1 / (n * 0.02), tol=1e-10, max_iter=10_000).fit(data, labels, weights)
    np.testing.assert_allclose(rule.decide(data)[:, 0], expected.decision_function(data), atol=1e-4)


def test_a_rough_logistic_path_is_near_scikit_learns_fits() -> None:
    features, labels = make_classes(150, 40, 3, noise=2.0)
    data = StandardScaler().fit_transform(features.astype(np.float64))
    held = np.arange(150) % 5 == 0
    rows = TrainingRows(data, np.eye(3)[labels], np.ones(150), "multiclass", tolerance=ROUGH).select(~held)
    fit = prepare_logistic(rows)
    for penalty in (0.3, 0.03):  # a path: each starts from the one before
        expected = LogisticRegression(C=1 / (120 * penalty), tol=1e-8, max_iter=10_000)
        probabilities = expected.fit(data[~held], labels[~held]).predict_proba(data[held])
        np.testing.assert_allclose(
            softmax(fit({"penalty": penalty}).decide(data[held]), axis=1), probabilities, atol=0.02
        )


@pytest.mark.parametrize("shared", [False, True])
def test_the_rough_solutions_that_folds_compare_are_near_the_exact_ones_at_every_penalty(
    shared: bool,
) -> None:
    features, labels = make_classes(400, 30, 4)
    held = np.arange(400) % 5 == 0
    rows = TrainingRows(
        features.astype(np.float64), np.eye(4)[labels], np.ones(400), "multiclass", tolerance=ROUGH
    )
    scaler = StandardScaler().fit(rows.data[~held])
    rest, queries = scaler.transform(rows.data[~held]), scaler.transform(rows.data[held])
    path = prepare_logistic(replace(rows.select(~held), data=rest))
    answer = (
        LOGISTIC.prepare_folds(rows)(held) if shared else (lambda settings: path(settings).decide(queries))
    )
    for penalty in PENALTIES:
        exact = LogisticRegression(C=1 / (320 * penalty), tol=1e-9, max_iter=10_000).fit(rest, labels[~held])
        expected = log_loss(labels[held], exact.predict_proba(queries))
        received = log_loss(labels[held], softmax(answer({"penalty": penalty}), axis=1))
        assert received == pytest.approx(expected, rel=0.02), penalty
