"""Wrong labels come first among likely label errors, in every task that has labels."""

import numpy as np
import pytest

from regraft.evaluation.label_errors import find_label_errors
from regraft.system.console import SilentReporter


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    return 3 * np.eye(3)[labels] @ rng.normal(size=(3, 8)) + rng.normal(size=(300, 8)), labels


def test_swapped_classes_come_first(data):
    features, labels = data
    wrong = labels.copy()
    wrong[[5, 50, 100, 200]] = (labels[[5, 50, 100, 200]] + 1) % 3
    errors = find_label_errors(features, wrong, task="multiclass", reporter=SilentReporter())
    assert {error.row for error in errors[:4]} == {5, 50, 100, 200}
    assert [error.output for error in errors[:4]] == [labels[error.row] for error in errors[:4]]
    assert [error.label_probability for error in errors] == sorted(
        error.label_probability for error in errors
    )
    assert all(error.label_probability < error.other_probability for error in errors)


def test_two_classes(data):
    features, labels = data
    wrong = (labels > 0).astype(int)
    wrong[[6, 7]] = 1 - wrong[[6, 7]]
    errors = find_label_errors(features, wrong, task="binary", reporter=SilentReporter())
    assert {(error.row, error.output) for error in errors[:2]} == {(6, 0), (7, 1)}


def test_labels_one_by_one(data):
    features, labels = data
    targets = np.stack([labels == 0, labels > 0], 1).astype(np.float32)
    targets[12, 0] = 1 - targets[12, 0]
    targets[31, 1] = 1 - targets[31, 1]
    errors = find_label_errors(features, targets, task="multilabel", reporter=SilentReporter())
    assert {(error.row, error.output) for error in errors[:2]} == {(12, 0), (31, 1)}


@pytest.mark.slow
def test_a_copy_does_not_vouch_for_a_copy(data):
    """Twenty copies of one image under a wrong label: without groups they vouch for each other."""
    features, labels = data
    copies, names = np.repeat(features[:1], 20, axis=0) + 4, np.full(20, 1)
    both, targets = np.concatenate([features, copies]), np.concatenate([labels, names])
    groups = np.concatenate([np.arange(300), np.full(20, 300)])
    together = find_label_errors(both, targets, task="multiclass", groups=groups, reporter=SilentReporter())
    apart = find_label_errors(both, targets, task="multiclass", reporter=SilentReporter())
    of_copies = [{error.row for error in errors} & set(range(300, 320)) for errors in (together, apart)]
    assert len(of_copies[0]) > len(of_copies[1])


def test_where_nothing_can_be_held_out_no_label_is_suspicious():
    assert find_label_errors(np.eye(3), np.arange(3), task="multiclass", reporter=SilentReporter()) == []
