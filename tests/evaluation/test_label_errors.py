"""Labels that are wrong come first among those that are doubted, in every task that has labels."""

import numpy as np
import pytest

from regraft.evaluation.label_errors import find_suspects
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
    found = find_suspects(features, wrong, task="multiclass", reporter=SilentReporter())
    assert {one.row for one in found[:4]} == {5, 50, 100, 200}
    assert [one.output for one in found[:4]] == [labels[one.row] for one in found[:4]]
    assert [one.given for one in found] == sorted(one.given for one in found)
    assert all(one.given < one.other for one in found)


def test_two_classes(data):
    features, labels = data
    wrong = (labels > 0).astype(int)
    wrong[[6, 7]] = 1 - wrong[[6, 7]]
    found = find_suspects(features, wrong, task="binary", reporter=SilentReporter())
    assert {(one.row, one.output) for one in found[:2]} == {(6, 0), (7, 1)}


def test_labels_one_by_one(data):
    features, labels = data
    targets = np.stack([labels == 0, labels > 0], 1).astype(np.float32)
    targets[12, 0] = 1 - targets[12, 0]
    targets[31, 1] = 1 - targets[31, 1]
    found = find_suspects(features, targets, task="multilabel", reporter=SilentReporter())
    assert {(one.row, one.output) for one in found[:2]} == {(12, 0), (31, 1)}


@pytest.mark.slow
def test_a_copy_does_not_vouch_for_a_copy(data):
    """Twenty copies of one picture under a wrong label: without groups they vouch for each other."""
    features, labels = data
    copies, names = np.repeat(features[:1], 20, axis=0) + 4, np.full(20, 1)
    both, targets = np.concatenate([features, copies]), np.concatenate([labels, names])
    groups = np.concatenate([np.arange(300), np.full(20, 300)])
    together = find_suspects(both, targets, task="multiclass", groups=groups, reporter=SilentReporter())
    apart = find_suspects(both, targets, task="multiclass", reporter=SilentReporter())
    of_copies = [{one.row for one in found} & set(range(300, 320)) for found in (together, apart)]
    assert len(of_copies[0]) > len(of_copies[1])


def test_where_nothing_can_be_held_out_nothing_is_doubted():
    assert find_suspects(np.eye(3), np.arange(3), task="multiclass", reporter=SilentReporter()) == []
