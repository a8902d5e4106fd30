"""Ridge regression and discriminant analysis against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from helpers.solved_heads import make_classes
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from regraft.solvers.closed_form import (
    prepare_discriminant,
    prepare_discriminant_folds,
    prepare_ridge,
    prepare_ridge_folds,
)
from regraft.solvers.cross_validation import TrainingRows
from regraft.solvers.solve import solve


@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
def test_ridge_with_weights_equals_scikit_learns(n: int, d: int) -> None:
    rng = np.random.default_rng(0)
    data, targets, weights = rng.normal(2, 1, (n, d)), rng.normal(size=(n, 3)), rng.uniform(0.2, 3, n)
    weights /= weights.mean()
    rule = prepare_ridge(TrainingRows(data, targets, weights, "regression"))({"penalty": 0.1})
    expected = Ridge(alpha=0.1 * n).fit(data, targets, weights)
    np.testing.assert_allclose(rule.decide(data), expected.predict(data), atol=1e-8)
    np.testing.assert_allclose(rule.weights, expected.coef_.T, atol=1e-8)


@pytest.mark.parametrize("shrinkage", [0.01, 0.4, 1.0])
@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
def test_discriminant_analysis_equals_scikit_learns(n: int, d: int, shrinkage: float) -> None:
    features, labels = make_classes(n, d, 3, noise=2.0)
    unseen = np.random.default_rng(1).normal(size=(30, d))
    data = StandardScaler().fit_transform(features.astype(np.float64))
    weights = np.array([0.5, 1.0, 1.5])[labels]
    weights /= weights.mean()
    prior = np.bincount(labels, weights) / weights.sum()
    rule = prepare_discriminant(TrainingRows(data, np.eye(3)[labels], weights, "multiclass"))(
        {"shrinkage": shrinkage}
    )
    expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=prior).fit(data, labels)
    np.testing.assert_allclose(rule.decide(unseen), expected.decision_function(unseen), rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_a_ridge_fold_made_of_shared_sums_equals_scikit_learns_fit_of_its_rows(task: str) -> None:
    features, labels = make_classes(90, 15, 3, noise=2.0)
    data = features.astype(np.float64)
    weights = np.random.default_rng(0).uniform(0.2, 3, 90)
    targets = np.eye(3)[labels] if task == "multiclass" else data[:, :2] @ [[1.0], [0.5]]
    rows, held = TrainingRows(data, targets, weights, task), np.arange(90) % 5 == 0
    fold = prepare_ridge_folds(rows)(held)
    scaler = StandardScaler().fit(data[~held], sample_weight=weights[~held])
    for penalty in (1.0, 0.01):
        expected = Ridge(alpha=penalty * weights[~held].sum())
        expected.fit(scaler.transform(data[~held]), rows.signs[~held], weights[~held])
        expected_decisions = expected.predict(scaler.transform(data[held])).reshape(-1, targets.shape[1])
        np.testing.assert_allclose(fold({"penalty": penalty}), expected_decisions, atol=2e-3)


def test_a_discriminant_fold_made_of_shared_sums_equals_one_of_its_rows() -> None:
    features, labels = make_classes(90, 15, 3, noise=2.0)
    data, held = features.astype(np.float64), np.arange(90) % 4 == 0
    scaler = StandardScaler().fit(data[~held])
    for task, targets in (("multiclass", np.eye(3)[labels]), ("multilabel", np.eye(3)[labels])):
        rows = TrainingRows(data, targets, np.ones(90), task)
        fold = prepare_discriminant_folds(rows)(held)
        rest = replace(rows.select(~held), data=scaler.transform(data[~held]))
        for shrinkage in (0.1, 0.9):
            reference = prepare_discriminant(rest)({"shrinkage": shrinkage}).decide(
                scaler.transform(data[held])
            )
            np.testing.assert_allclose(fold({"shrinkage": shrinkage}), reference, atol=0.02 * reference.std())


@pytest.mark.parametrize(("n", "d"), [(90, 15), (40, 100)])
@pytest.mark.parametrize("shrinkage", [0.05, 0.5, 1.0])
def test_labels_that_share_a_covariance_equal_scikit_learn_one_by_one(
    n: int, d: int, shrinkage: float
) -> None:
    features, labels = make_classes(n, d, 3, noise=2.0)
    data = StandardScaler().fit_transform(features.astype(np.float64))
    yes = np.eye(3)[labels]
    rule = prepare_discriminant(TrainingRows(data, yes, np.ones(n), "multilabel"))({"shrinkage": shrinkage})
    for unit in range(3):
        expected = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(data, yes[:, unit])
        np.testing.assert_allclose(rule.decide(data)[:, unit], expected.decision_function(data), rtol=1e-6)


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
