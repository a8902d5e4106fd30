"""Folds: stratified, whole groups, every class in every training part."""

import numpy as np
import pytest

from regraft.solvers.cross_validation import folds, strata


def test_folds_hold_out_every_image_once_and_keep_every_class_in_training() -> None:
    labels = np.array([0] * 23 + [1] * 7 + [2] * 1)
    parts = folds(labels, count=5, seed=0)
    held = np.sum(parts, axis=0)
    assert (held[labels < 2] == 1).all()
    assert (held[labels == 2] == 0).all()
    for part in parts:
        assert set(labels[~part]) == {0, 1, 2}
    sizes = [part[labels == 0].sum() for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_a_group_is_held_out_whole() -> None:
    groups = np.repeat(np.arange(40), 3)
    labels = np.repeat(np.arange(40) % 4, 3)
    parts = folds(labels, count=5, seed=0, groups=groups)
    assert (np.sum(parts, axis=0) == 1).all()
    for part in parts:
        assert not set(groups[part]) & set(groups[~part])
        assert set(labels[part]) == {0, 1, 2, 3}


def test_a_class_whose_images_are_one_group_stays_in_training() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    groups = np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 8])
    for part in folds(labels, count=3, seed=0, groups=groups):
        assert set(labels[~part]) == {0, 1, 2}


def test_groups_of_mixed_classes_never_take_a_class_away() -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        labels, groups = rng.integers(0, 4, 40), rng.integers(0, 8, 40)
        for part in folds(labels, count=5, seed=seed, groups=groups):
            assert set(labels[~part]) == set(labels)


def test_labels_that_are_rare_are_spread_over_the_folds() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((500, 4)) < [0.5, 0.3, 0.05, 0.02]).astype(np.float32)
    for part in folds(labels, task="multilabel", count=5, seed=0):
        expected = labels.sum(0) / 5
        assert (np.abs(labels[part].sum(0) - expected) <= [15, 15, 3, 1.5]).all()


@pytest.mark.parametrize("columns", [1, 2])
def test_every_fold_of_a_regression_sees_the_whole_range(columns: int) -> None:
    targets = np.random.default_rng(0).lognormal(size=(200, 1)) * np.array([[1.0, 1000.0]])[:, :columns]
    for part in folds(targets, task="regression", count=5, seed=0):
        for share in (0.1, 0.5, 0.9):
            below = (targets[part, 0] <= np.quantile(targets[:, 0], share)).mean()
            assert below == pytest.approx(share, abs=0.03)


def test_views_of_a_regression_s_images_stay_together_and_are_held_out() -> None:
    groups, targets = np.repeat(np.arange(20), 10), np.repeat(np.arange(20.0), 10)[:, None]
    parts = folds(targets, task="regression", count=5, seed=0, groups=groups)
    assert (np.sum(parts, axis=0) == 1).all()
    for part in parts:
        assert not set(groups[part]) & set(groups[~part])


def test_another_seed_is_another_partition_and_the_same_one_is_not() -> None:
    labels = np.arange(50) % 5
    first, again, other = (np.array(folds(labels, count=5, seed=seed)) for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


def test_nothing_can_be_held_out_of_one_image_a_class() -> None:
    assert folds(np.arange(6), count=5, seed=0) == []


def test_strata_tell_the_rarest_label_and_none_apart() -> None:
    labels = np.array([[1, 0], [1, 1], [1, 0], [0, 0]])
    kinds = strata(labels, "multilabel")
    assert kinds[0] == kinds[2]
    assert len(set(kinds)) == 3
