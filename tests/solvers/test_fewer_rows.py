"""Answers by heads that lack a second fold: their values, which folds are spared, the step to all rows."""

import numpy as np
import pytest

from regraft.solvers import fewer_rows
from regraft.solvers.cross_validation import draw_folds
from regraft.solvers.solve import SOLVER_SPECS, make_training_rows, solve


def draw_numbers(count=100, width=4):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(count, width)).astype(np.float32)
    return features, features @ rng.normal(size=(width, 2)) + rng.normal(size=(count, 2))


@pytest.mark.parametrize("width", [4, 120])  # more rows than features, and fewer
def test_answers_equal_those_of_a_head_without_both_folds(width):
    from sklearn.linear_model import Ridge
    from sklearn.preprocessing import StandardScaler

    features, targets = draw_numbers(width=width)
    rows, _ = make_training_rows(features, targets, task="regression", seed=0, weights=None)
    settings = [{"penalty": 0.1}, {"penalty": 0.01}]
    fewer = fewer_rows.answer_from_fewer(SOLVER_SPECS["ridge"], rows, settings)
    _, folds = draw_folds(rows, max_rows=1000, count=5, groups=None)
    for number, fold in enumerate(folds):
        train = ~(fold | folds[(number + 2) % 5])
        scaler = StandardScaler().fit(features[train])
        for unit, setting in enumerate(settings):
            estimator = Ridge(alpha=setting["penalty"] * train.sum())
            estimator.fit(scaler.transform(features[train]), rows.targets[train, unit])
            expected = estimator.predict(scaler.transform(features[fold]))
            np.testing.assert_allclose(fewer.decisions[fold, unit], expected, atol=1e-5)
    assert fewer.step == pytest.approx(0.6)  # (1 - 0.8 / 1) / 0.8 over (1 / 0.6 - 1 / 0.8)


def test_a_solved_head_brings_them_for_the_rows_that_it_held_out():
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    features = (np.eye(3)[labels] + rng.normal(size=(90, 3))).astype(np.float32)
    held_out = solve("logistic", features, labels, task="multiclass").held_out
    assert held_out.fewer.decisions.shape == held_out.decisions.shape
    assert not np.allclose(held_out.fewer.decisions, held_out.decisions)


def test_a_class_of_two_images_stays_in_training():
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(40) % 2, [2, 2]])
    features = rng.normal(size=(42, 3)).astype(np.float32)
    rows, _ = make_training_rows(features, labels, task="multiclass", seed=0, weights=None)
    fewer = fewer_rows.answer_from_fewer(SOLVER_SPECS["logistic"], rows, [{"penalty": 0.1}] * 3)
    assert np.isfinite(fewer.decisions).all()


def test_there_are_none_where_no_second_fold_can_be_spared():
    labels = np.array([0, 0, 1, 1])
    rows, _ = make_training_rows(np.eye(4, dtype=np.float32), labels, task="binary", seed=0, weights=None)
    assert fewer_rows.answer_from_fewer(SOLVER_SPECS["logistic"], rows, [{"penalty": 0.1}]) is None


def test_many_rows_are_not_worth_it():
    count = fewer_rows.MAX_ROWS + 1
    rows, _ = make_training_rows(
        np.zeros((count, 1), np.float32), np.arange(count) % 2, task="binary", seed=0, weights=None
    )
    assert fewer_rows.answer_from_fewer(SOLVER_SPECS["logistic"], rows, [{"penalty": 0.1}]) is None
