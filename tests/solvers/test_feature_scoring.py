"""LogME and H-score against their definitions, written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal

from regraft.solvers.feature_scoring import h_score, logme


def problem(n: int, d: int, strength: float, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n + d)
    one_hot = np.eye(classes)[np.arange(n) % classes]
    return rng.normal(size=(n, d)) + strength * one_hot @ rng.normal(size=(classes, d)), one_hot


def evidence(features: np.ndarray, target: np.ndarray) -> float:
    """The largest log density of a target under N(0, I / beta + F F^T / alpha), per image."""
    n = len(features)

    def loss(logs: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(logs, -20, 20))
        covariance = np.eye(n) / beta + features @ features.T / alpha
        return -multivariate_normal(np.zeros(n), covariance, allow_singular=True).logpdf(target) / n

    starts = [(-2.0, 0.0), (4.0, 3.0)]
    return -min(minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10}).fun
                for start in starts)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(40, 6), (24, 60)])
@pytest.mark.parametrize("strength", [0.3, 3.0])
def test_logme_is_the_largest_evidence(n: int, d: int, strength: float) -> None:
    features, one_hot = problem(n, d, strength)
    expected = np.mean([evidence(features, target) for target in one_hot.T])
    assert logme(features, one_hot) == pytest.approx(expected, abs=1e-4)


def test_logme_does_not_depend_on_the_unit_of_the_features() -> None:
    features, one_hot = problem(50, 10, 1.0)
    assert logme(1000 * features, one_hot) == pytest.approx(logme(features, one_hot), abs=1e-9)


@pytest.mark.parametrize(("n", "d"), [(40, 6), (24, 60)])
def test_h_score_is_the_trace_of_its_definition(n: int, d: int) -> None:
    from sklearn.covariance import ledoit_wolf

    features, one_hot = problem(n, d, 1.0)
    shrunk, share = ledoit_wolf(features)
    means = one_hot @ (one_hot.T @ features / one_hot.sum(0)[:, None])
    between = np.cov(means.T, bias=True)
    expected = (1 - share) * np.trace(np.linalg.inv(shrunk) @ between)
    assert h_score(features, one_hot) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("score", [logme, h_score])
def test_features_that_know_more_score_higher(score) -> None:
    scores = [score(*problem(60, 20, strength)) for strength in (0.0, 0.5, 2.0)]
    assert scores == sorted(scores)


@pytest.mark.parametrize("score", [logme, h_score])
def test_a_label_that_nobody_has_changes_nothing(score) -> None:
    features, one_hot = problem(30, 5, 1.0)
    wider = np.column_stack([one_hot, np.zeros(30)])
    assert score(features, wider) == pytest.approx(score(features, one_hot), rel=1e-12)


def test_numbers_are_scored_too() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 10))
    known, unknown = features @ rng.normal(size=(10, 2)), rng.normal(size=(80, 2))
    assert logme(features, known / known.std(0)) > logme(features, unknown / unknown.std(0))
    assert h_score(features, known) > 2 * h_score(features, unknown)
