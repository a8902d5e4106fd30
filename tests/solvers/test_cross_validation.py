"""Cross-validation: nothing of a held-out row reaches the rule that answers for it; the temperature."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import softmax

from regraft.solvers.cross_validation import Family, Fit, Part, cross_validate, solved, warmth
from regraft.solvers.decision import Linear, Link
from regraft.solvers.logistic import LOGISTIC


def part(n: int = 60, d: int = 5, *, task: str = "multiclass") -> Part:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    data = np.eye(3)[labels] @ rng.normal(0, 2, (3, d)) + rng.normal(size=(n, d))
    return Part(data, np.eye(3)[labels], np.ones(n), task)


def test_a_fold_standardises_by_its_own_training_rows() -> None:
    """One row of a huge value: where it is held out, it must not have been part of the mean."""
    seen: list[Part] = []

    def prepare(given: Part) -> Fit:
        seen.append(given)
        return lambda settings: Linear(np.zeros((given.data.shape[1], 3)), np.zeros(3))

    whole = part()
    whole.data[7] = 1e6
    family = Family("watcher", prepare, lambda given: [{"k": 1}])
    cross_validate(family, whole)
    assert len(seen) == 5
    for given in seen:
        np.testing.assert_allclose(given.data.mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(given.data.std(0), 1, atol=1e-9)
    assert sum(np.abs(given.data).max() > 6 for given in seen) == 4  # the fold that held it out never saw it


def test_decisions_of_held_out_rows_come_from_the_others() -> None:
    whole = part(task="multiclass")
    shuffled = replace(whole, targets=np.random.default_rng(1).permutation(whole.targets))
    trials, held = cross_validate(LOGISTIC, shuffled)
    assert held.all()
    best = min(trials, key=lambda trial: trial.losses.mean())
    assert (best.decisions.argmax(1) == shuffled.labels).mean() < 0.6


def test_a_sample_is_stratified_and_only_its_rows_are_answered() -> None:
    whole = part(600)
    trials, held = cross_validate(replace(LOGISTIC, most=90), whole)
    assert held.sum() == 90 == len(trials[0].decisions)
    assert set(np.bincount(whole.labels[held])) == {30}


def test_rows_of_no_weight_do_not_count() -> None:
    whole = part(90)
    wrong = whole.targets.copy()
    wrong[60:] = np.roll(wrong[60:], 1, axis=1)
    weights = np.where(np.arange(90) < 60, 1.5, 0.0)
    light = solved(LOGISTIC, replace(whole, targets=wrong, weights=weights), {"penalty": 0.1})[0]
    right = solved(LOGISTIC, replace(whole, weights=weights), {"penalty": 0.1})[0]
    np.testing.assert_allclose(light.decide(whole.data), right.decide(whole.data), atol=1e-5)


@pytest.mark.parametrize("temperature", [0.2, 1.0, 5.0])
def test_the_temperature_of_logits_that_are_too_hot_or_too_cold_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (20_000, 4))
    drawn = (softmax(logits, axis=1).cumsum(1) > rng.random((20_000, 1))).argmax(1)
    rows = Part(logits, np.eye(4)[drawn], np.ones(20_000), "multiclass")
    np.testing.assert_allclose(warmth(logits * temperature, rows), 1 / temperature, rtol=0.05)
    yes = (rng.random((20_000, 4)) < 1 / (1 + np.exp(-logits))).astype(float)
    found = warmth(logits * temperature, Part(logits, yes, np.ones(20_000), "multilabel"))
    np.testing.assert_allclose(found, 1 / temperature, rtol=0.1)


def test_decisions_without_an_error_do_not_end_in_certainty() -> None:
    truth = np.eye(2)[np.arange(10) % 2]
    rows = Part(truth, truth, np.ones(10), "multiclass")
    link = Link("softmax", warmth(truth, rows), np.zeros(2))
    assert 0.8 < link(truth).max() < 0.99
