"""Cross-validation: stratified folds, held-out rows that stay unseen."""

from dataclasses import replace

import numpy as np
import pytest

from regraft.solvers.cross_validation import (
    Fit,
    SolverSpec,
    TrainingRows,
    assign_strata,
    cross_validate,
    fit_rule,
    make_folds,
)
from regraft.solvers.decision import Linear
from regraft.solvers.logistic import LOGISTIC


def make_rows(n: int = 60, d: int = 5, *, task: str = "multiclass") -> TrainingRows:
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 3
    data = np.eye(3)[labels] @ rng.normal(0, 2, (3, d)) + rng.normal(size=(n, d))
    return TrainingRows(data, np.eye(3)[labels], np.ones(n), task)


def test_a_fold_standardises_by_its_own_training_rows() -> None:
    """One row of a huge value: where it is held out, it must not have been part of the mean."""
    seen: list[TrainingRows] = []

    def prepare(rows: TrainingRows) -> Fit:
        seen.append(rows)
        return lambda settings: Linear(np.zeros((rows.data.shape[1], 3)), np.zeros(3))

    all_rows = make_rows()
    all_rows.data[7] = 1e6
    spec = SolverSpec("watcher", prepare, lambda rows: [{"k": 1}])
    cross_validate(spec, all_rows)
    assert len(seen) == 5
    for rows in seen:
        np.testing.assert_allclose(rows.data.mean(0), 0, atol=1e-9)
        np.testing.assert_allclose(rows.data.std(0), 1, atol=1e-9)
    assert sum(np.abs(rows.data).max() > 6 for rows in seen) == 4  # the fold that held it out never saw it


def test_decisions_of_held_out_rows_come_from_the_others() -> None:
    all_rows = make_rows(task="multiclass")
    shuffled = replace(all_rows, targets=np.random.default_rng(1).permutation(all_rows.targets))
    trials, held = cross_validate(LOGISTIC, shuffled)
    assert held.all()
    best = min(trials, key=lambda trial: trial.losses.mean())
    assert (best.decisions.argmax(1) == shuffled.labels).mean() < 0.6


def test_a_sample_is_stratified_and_only_its_rows_are_answered() -> None:
    all_rows = make_rows(600)
    trials, held = cross_validate(replace(LOGISTIC, max_rows=90), all_rows)
    assert held.sum() == 90 == len(trials[0].decisions)
    assert set(np.bincount(all_rows.labels[held])) == {30}


def test_rows_of_no_weight_do_not_count() -> None:
    all_rows = make_rows(90)
    wrong = all_rows.targets.copy()
    wrong[60:] = np.roll(wrong[60:], 1, axis=1)
    weights = np.where(np.arange(90) < 60, 1.5, 0.0)
    light = fit_rule(LOGISTIC, replace(all_rows, targets=wrong, weights=weights), {"penalty": 0.1})[0]
    right = fit_rule(LOGISTIC, replace(all_rows, weights=weights), {"penalty": 0.1})[0]
    np.testing.assert_allclose(light.decide(all_rows.data), right.decide(all_rows.data), atol=1e-5)


# --- folds


def test_folds_hold_out_every_image_once_and_keep_every_class_in_training() -> None:
    labels = np.array([0] * 23 + [1] * 7 + [2] * 1)
    folds = make_folds(labels, count=5, seed=0)
    times_held = np.sum(folds, axis=0)
    assert (times_held[labels < 2] == 1).all()
    assert (times_held[labels == 2] == 0).all()
    for held in folds:
        assert set(labels[~held]) == {0, 1, 2}
    sizes = [held[labels == 0].sum() for held in folds]
    assert max(sizes) - min(sizes) <= 1


def test_a_group_is_held_out_whole() -> None:
    groups = np.repeat(np.arange(40), 3)
    labels = np.repeat(np.arange(40) % 4, 3)
    folds = make_folds(labels, count=5, seed=0, groups=groups)
    assert (np.sum(folds, axis=0) == 1).all()
    for held in folds:
        assert not set(groups[held]) & set(groups[~held])
        assert set(labels[held]) == {0, 1, 2, 3}


def test_a_class_whose_images_are_one_group_stays_in_training() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8])
    for held in make_folds(labels, count=3, seed=0, groups=groups):
        assert set(labels[~held]) == {0, 1, 2}


def test_groups_of_mixed_classes_never_take_a_class_away() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels, groups = rng.integers(0, 4, 40), rng.integers(0, 8, 40)
        for held in make_folds(labels, count=5, seed=seed, groups=groups):
            assert set(labels[~held]) == set(labels)


def test_labels_that_are_rare_are_spread_over_the_folds() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 4)) < [0.5, 0.3, 0.05, 0.02]).astype(np.float32)
    for held in make_folds(labels, task="multilabel", count=5, seed=0):
        expected = labels.sum(0) / 5
        assert (np.abs(labels[held].sum(0) - expected) <= [15, 15, 3, 1.5]).all()


@pytest.mark.parametrize("columns", [1, 2])
def test_every_fold_of_a_regression_sees_the_whole_range(columns: int) -> None:
    targets = np.random.default_rng(0).lognormal(size=(200, 1)) * np.array([[1.0, 1000.0]])[:, :columns]
    for held in make_folds(targets, task="regression", count=5, seed=0):
        for share in (0.1, 0.5, 0.9):
            below = (targets[held, 0] <= np.quantile(targets[:, 0], share)).mean()
            assert below == pytest.approx(share, abs=0.03)


def test_views_of_a_regression_s_images_stay_together_and_are_held_out() -> None:
    groups, targets = np.repeat(np.arange(20), 10), np.repeat(np.arange(20.0), 10)[:, None]
    folds = make_folds(targets, task="regression", count=5, seed=0, groups=groups)
    assert (np.sum(folds, axis=0) == 1).all()
    for held in folds:
        assert not set(groups[held]) & set(groups[~held])


def test_another_seed_is_another_partition_and_the_same_one_is_not() -> None:
    labels = np.arange(50) % 5
    first, again, other = (np.array(make_folds(labels, count=5, seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_nothing_can_be_held_out_of_one_image_a_class() -> None:
    assert make_folds(np.arange(6), count=5, seed=0) == []


def test_strata_tell_the_rarest_label_and_none_apart() -> None:
    labels = np.array([[1, 0], [1, 1], [1, 0], [0, 0]])
    numbers = assign_strata(labels, "multilabel")
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 3
