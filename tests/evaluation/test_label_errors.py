"""Wrong labels come first among likely label errors, and are counted, in every task that has labels."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from regraft.evaluation.label_errors import find_label_errors, find_neighbours
from regraft.evaluation.label_noise import fit_label_noise
from regraft.system.console import SilentReporter


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    return 3 * np.eye(3)[labels] @ rng.normal(size=(3, 8)) + rng.normal(size=(300, 8)), labels


def check(features, labels, task="multiclass", **options):
    return find_label_errors(features, labels, task=task, reporter=SilentReporter(), **options)


def test_swapped_classes_come_first(data):
    features, labels = data
    wrong = labels.copy()
    wrong[[5, 50, 100, 200]] = (labels[[5, 50, 100, 200]] + 1) % 3
    errors = check(features, wrong).errors
    assert {error.row for error in errors[:4]} == {5, 50, 100, 200}
    assert [error.output for error in errors[:4]] == [labels[error.row] for error in errors[:4]]
    suspicion = [error.error_probability for error in errors]
    assert suspicion == sorted(suspicion, reverse=True)
    assert all(error.label_probability < error.other_probability for error in errors)


def test_two_classes(data):
    features, labels = data
    wrong = (labels > 0).astype(int)
    wrong[[6, 7]] = 1 - wrong[[6, 7]]
    errors = check(features, wrong, "binary").errors
    assert {(error.row, error.output) for error in errors[:2]} == {(6, 0), (7, 1)}


def test_labels_one_by_one(data):
    features, labels = data
    targets = np.stack([labels == 0, labels > 0], 1).astype(np.float32)
    targets[12, 0] = 1 - targets[12, 0]
    targets[31, 1] = 1 - targets[31, 1]
    result = check(features, targets, "multilabel")
    assert {(error.row, error.output) for error in result.errors[:2]} == {(12, 0), (31, 1)}
    assert result.checked_count == 600


def test_a_copy_does_not_vouch_for_a_copy(data):
    """Twenty copies of one image under a wrong label: without groups they vouch for each other."""
    features, labels = data
    copies, names = np.repeat(features[:1], 20, axis=0) + 4, np.full(20, 1)
    both, targets = np.concatenate([features, copies]), np.concatenate([labels, names])
    groups = np.concatenate([np.arange(300), np.full(20, 300)])
    results = [check(both, targets, groups=groups), check(both, targets)]
    of_copies = [{error.row for error in result.errors} & set(range(300, 320)) for result in results]
    assert len(of_copies[0]) > len(of_copies[1])
    assert all(row < 300 for error in results[0].errors if error.row >= 300 for row in error.neighbours)


def test_where_nothing_can_be_held_out_no_label_is_suspicious():
    result = check(np.eye(3), np.arange(3))
    assert (result.errors, result.wrong_count, result.wrong_share) == ((), 0, 0)


def make_hard_classes(rng, count=1_000, classes=5, spread=1.3):
    """Return features of classes that overlap, and the true classes."""
    truth = rng.integers(0, classes, count)
    centres = 3 * np.linalg.qr(rng.normal(size=(20, 20)))[0][:classes]
    return centres[truth] + spread * rng.normal(size=(count, 20)), truth


@pytest.mark.slow
@pytest.mark.parametrize(("rate", "low", "high"), [(0.0, 0.0, 0.012), (0.05, 0.03, 0.07), (0.2, 0.16, 0.24)])
def test_the_number_of_wrong_labels_is_estimated_although_images_are_hard_to_tell(rate, low, high):
    rng = np.random.default_rng(1)
    features, truth = make_hard_classes(rng)
    rows = rng.choice(len(truth), round(rate * len(truth)), replace=False)
    labels = truth.copy()
    labels[rows] = (truth[rows] + rng.integers(1, 5, len(rows))) % 5
    result = check(features, labels)
    assert len(result.errors) > 0.04 * len(labels)  # most of them are hard, not wrong
    assert low <= result.wrong_share <= high
    if rate:
        first = [error.row for error in result.errors[: len(rows)]]
        assert np.isin(first, rows).mean() > 0.7


@pytest.mark.slow
def test_features_that_say_nothing_make_no_label_wrong():
    rng = np.random.default_rng(0)
    result = check(rng.normal(size=(500, 50)), rng.integers(0, 5, 500))
    assert len(result.errors) > 200
    assert result.wrong_share < 0.02


@pytest.mark.slow
def test_missing_labels_are_found_although_they_are_rare():
    rng = np.random.default_rng(0)
    targets = (rng.random((600, 4)) < 0.15).astype(np.float32)
    features = targets @ (4 * np.linalg.qr(rng.normal(size=(12, 12)))[0][:4]) + rng.normal(size=(600, 12))
    present = np.argwhere(targets > 0)
    missing = {tuple(pair) for pair in present[rng.choice(len(present), 30, replace=False)].tolist()}
    for row, label in missing:
        targets[row, label] = 0
    result = check(features, targets, "multilabel")
    first = {(error.row, error.output) for error in result.errors[:30]}
    assert len(first & missing) >= 24
    assert 20 <= result.wrong_count <= 36


def test_a_class_of_two_images_is_not_checked():
    rng = np.random.default_rng(0)
    labels = np.append(np.arange(30) % 2, [2, 2])
    result = check(4 * np.eye(3)[labels] + rng.normal(size=(32, 3)), labels)
    assert result.checked_count == 30
    assert not {30, 31} & {error.row for error in result.errors}
    assert result.wrong_count <= 2
    nothing = check(rng.normal(size=(8, 3)), np.arange(8) % 4)  # two images of each class
    assert (nothing.errors, nothing.checked_count) == ((), 0)


def test_a_label_of_two_images_is_checked_only_where_it_is_missing():
    rng = np.random.default_rng(0)
    targets = np.stack([np.arange(40) % 2, np.arange(40) < 2], 1).astype(np.float32)
    assert check(rng.normal(size=(40, 6)), targets, "multilabel").checked_count == 78


def test_the_noise_is_that_which_was_put_in():
    """Confusions between two classes alone, among scores that are true log probabilities times three."""
    rng = np.random.default_rng(0)
    scores = 4 * rng.normal(size=(20_000, 4))
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    truth = (probabilities.cumsum(1) > rng.random((len(scores), 1))).argmax(1)
    labels = np.where((truth == 1) & (rng.random(len(scores)) < 0.1), 2, truth)
    noise = fit_label_noise(3 * scores, labels)
    assert noise.gain == pytest.approx(1 / 3, rel=0.05)
    assert noise.channel[1, 2] == pytest.approx(0.1, abs=0.015)
    assert noise.channel.sum(1) == pytest.approx(np.ones(4))
    assert noise.channel[[0, 2, 3], [0, 2, 3]].min() > 0.99
    wrong = noise.compute_error_probabilities(3 * scores, labels)
    assert wrong.sum() == pytest.approx((labels != truth).sum(), rel=0.15)


def test_neighbours_are_those_of_a_search_by_cosine():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(80, 6)).astype(np.float32)
    expected = NearestNeighbors(n_neighbors=5, metric="cosine").fit(features).kneighbors(features)[1][:, 1:]
    assert np.array_equal(find_neighbours(features, count=4, groups=np.arange(80)), expected)
    groups = np.arange(80) // 79  # one image has no image of another group but the last
    assert find_neighbours(features, count=2, groups=groups)[0].tolist() == [79, -1]


@pytest.mark.slow
def test_ranks_no_worse_than_cleanlab():
    rank = pytest.importorskip("cleanlab.rank")
    from regraft.solvers.closed_form import DISCRIMINANT
    from regraft.solvers.cross_validation import cross_validate
    from regraft.solvers.solve import make_training_rows

    rng = np.random.default_rng(2)
    features, truth = make_hard_classes(rng)
    rows = rng.choice(len(truth), 50, replace=False)
    labels = truth.copy()
    labels[rows] = (truth[rows] + 1) % 5
    training_rows, _ = make_training_rows(features, labels, task="multiclass", seed=0, weights=None)
    best = min(cross_validate(DISCRIMINANT, training_rows)[0], key=lambda trial: trial.losses.mean())
    quality = rank.get_label_quality_scores(labels, best.link(best.decisions), method="normalized_margin")
    planted, suspicion = labels != truth, np.zeros(len(labels))
    for error in check(features, labels).errors:
        suspicion[error.row] = error.error_probability
    assert roc_auc_score(planted, suspicion) > roc_auc_score(planted, -quality) - 0.01
