"""A row of the weight 2 is that row twice, and one of the weight 0 is not there."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.solved_heads import make_classes
from sklearn.preprocessing import StandardScaler

from regraft.solvers.cross_validation import TrainingRows, cross_validate, fit_rule
from regraft.solvers.decision import Scaler
from regraft.solvers.solve import SOLVER_SPECS, solve

SETTINGS = {
    "ridge": {"penalty": 0.1},
    "lda": {"shrinkage": 0.3},
    "logistic": {"penalty": 0.01},
    "svm": {"penalty": 0.1},
}


def make_pair(n: int, d: int) -> tuple[TrainingRows, TrainingRows]:
    """Return rows with weights of 0, 1 and 2, and the same rows as often as their weights say."""
    features, labels = make_classes(n, d, 3, noise=2.0)
    data, targets, weights = features.astype(np.float64), np.eye(3)[labels], np.arange(n) // 3 % 3
    again = np.repeat(np.arange(n), weights)
    weighted = TrainingRows(data, targets, weights / weights.mean(), "multiclass")
    return weighted, TrainingRows(data[again], targets[again], np.ones(len(again)), "multiclass")


@pytest.mark.parametrize("solver", ["ridge", "lda", "logistic"])
@pytest.mark.parametrize(("n", "d"), [(90, 15), (45, 60)])
def test_a_weight_is_a_number_of_rows(solver: str, n: int, d: int) -> None:
    spec, unseen = SOLVER_SPECS[solver], np.random.default_rng(1).normal(size=(30, d))
    answers = []
    for rows in make_pair(n, d):
        rule, scaler = fit_rule(spec, rows, SETTINGS[solver])
        answers.append(rule.decide(scaler(unseen)))
    tolerance = 1e-6 if solver != "logistic" else 1e-3  # which iterates until its gradient is small
    np.testing.assert_allclose(answers[0], answers[1], rtol=tolerance, atol=tolerance)
    alike, scaler = fit_rule(
        spec, TrainingRows(make_pair(n, d)[0].data, make_pair(n, d)[0].targets, np.ones(n), "multiclass"),
        SETTINGS[solver],
    )  # fmt: skip
    assert np.abs(alike.decide(scaler(unseen)) - answers[0]).max() > 0.01  # weights do have an effect


def test_ridge_for_numbers_counts_rows_by_their_weight() -> None:
    rng = np.random.default_rng(0)
    data, weights = rng.normal(3, 2, (60, 8)), np.arange(60) % 4
    numbers, again = (
        data @ rng.normal(size=(8, 2)) + rng.normal(size=(60, 2)),
        np.repeat(np.arange(60), weights),
    )
    rules = [
        fit_rule(SOLVER_SPECS["ridge"], rows, {"penalty": 0.3})
        for rows in (
            TrainingRows(data, numbers, weights / weights.mean(), "regression"),
            TrainingRows(data[again], numbers[again], np.ones(len(again)), "regression"),
        )
    ]
    one, other = (rule.decide(scaler(data)) for rule, scaler in rules)
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_the_scaler_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    data, weights = rng.normal(5, 3, (40, 6)), rng.uniform(0, 3, 40)
    scaler, expected = Scaler.from_features(data, weights=weights), StandardScaler().fit(data, None, weights)
    np.testing.assert_allclose(scaler(data), expected.transform(data), rtol=1e-12)
    plain = Scaler.from_features(data)
    for alike in (np.ones(40), np.full(40, 2.0)):
        assert (Scaler.from_features(data, weights=alike).scale == plain.scale).all()  # the same bits


def test_rows_of_the_weight_zero_are_never_held_out() -> None:
    rows, _ = make_pair(90, 15)
    for solver in ("ridge", "logistic"):
        trials, answered = cross_validate(SOLVER_SPECS[solver], rows)
        assert (answered == (rows.weights > 0)).all()
        assert all(np.isfinite(trial.losses).all() for trial in trials)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["ridge", "logistic", "lda", "svm", "neighbours"])
def test_wrong_labels_of_the_weight_zero_do_no_harm(solver: str) -> None:
    features, labels = make_classes(90, 15, 3, noise=1.0)
    wrong = np.arange(90) % 2 == 0
    mixed = np.where(wrong, (labels + 1) % 3, labels)
    answers = {
        name: solve(solver, features, mixed, task="multiclass", sample_weight=weights).predict(features)
        for name, weights in (("alike", None), ("right", np.where(wrong, 0.0, 2.5)))
    }
    accuracy = {name: (values.argmax(1) == labels).mean() for name, values in answers.items()}
    assert accuracy["right"] > 0.9
    assert accuracy["right"] > accuracy["alike"]
