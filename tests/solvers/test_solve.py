"""Classical heads against scikit-learn, as Keras layers, and on data that is small or odd."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.solved_heads import LAYER_TASKS, make_blobs, make_targets

from regraft.errors import DataError, UsageError
from regraft.solvers.solve import SOLVER_SPECS, solve
from regraft.tasks import TASKS

pytestmark = pytest.mark.slow

CLASSES = ("multiclass", "binary")


def test_answers_are_probabilities_and_better_than_the_shares() -> None:
    features, centre = make_blobs(200, noise=2.0)
    unseen, truth = make_blobs(400, seed=1, noise=2.0)
    for solver, tasks in LAYER_TASKS.items():
        for task in set(tasks) - {"regression"}:
            targets, new = make_targets(task, features, centre), make_targets(task, unseen, truth)
            answers = solve(solver, features, targets, task=task).predict(unseen)
            assert answers.min() >= 0
            if task == "multiclass":
                np.testing.assert_allclose(answers.sum(1), 1, atol=1e-9)
            encoded = TASKS[task].encode(new, 4 if task == "multiclass" else answers.shape[1])
            shares = np.broadcast_to(encoded.mean(0), encoded.shape)
            assert (
                TASKS[task].compute_losses(answers, encoded).mean()
                < 0.8 * TASKS[task].compute_losses(shares, encoded).mean()
            )


def test_temperature_makes_probabilities_of_scores_that_are_none() -> None:
    features, centre = make_blobs(200, noise=3.0)
    unseen, truth = make_blobs(600, seed=1, noise=3.0)
    for solver in ("svm", "svm-rbf", "ridge", "lda", "neighbours"):
        answers = solve(solver, features, centre, task="multiclass").predict(unseen)
        right = (answers.argmax(1) == truth).mean()
        assert abs(answers.max(1).mean() - right) < 0.1, solver


@pytest.mark.parametrize("solver", SOLVER_SPECS)
def test_the_same_seed_solves_the_same(solver: str) -> None:
    features, centre = make_blobs(60, noise=2.0)
    first, second = (solve(solver, features, centre, task="multiclass", seed=3) for _ in range(2))
    assert first.losses == second.losses
    np.testing.assert_array_equal(first.predict(features), second.predict(features))


@pytest.mark.parametrize("solver", SOLVER_SPECS)
@pytest.mark.parametrize("each", [2, 3])
def test_a_few_images_a_class(solver: str, each: int) -> None:
    features, centre = make_blobs(4 * each, 30, noise=0.3)
    head = solve(solver, features, centre, task="multiclass")
    answers = head.predict(features)
    assert np.isfinite(answers).all()
    if solver not in ("boosting", "neighbours"):
        assert (answers.argmax(1) == centre).all()


@pytest.mark.parametrize("solver", SOLVER_SPECS)
def test_one_image_a_class_is_solved_without_a_choice(solver: str) -> None:
    features, centre = make_blobs(4, 10, noise=0.1)
    head = solve(solver, features, centre, task="multiclass")
    assert np.isfinite(head.predict(features)).all()
    assert np.isnan(head.score)
    assert head.losses == {}


@pytest.mark.parametrize("solver", SOLVER_SPECS)
def test_constant_features_say_nothing(solver: str) -> None:
    features, centre = make_blobs(60)
    padded = np.hstack([features, np.full((60, 3), 7.0, np.float32)])
    changed = padded + np.array([0.0] * 12 + [0.001] * 3, np.float32)
    head = solve(solver, padded, centre, task="multiclass")
    np.testing.assert_allclose(head.predict(changed), head.predict(padded), atol=1e-2)
    assert (head.predict(padded).argmax(1) == centre).mean() > 0.85


@pytest.mark.parametrize("solver", SOLVER_SPECS)
def test_a_label_that_never_occurs_is_improbable_and_one_that_always_does_is_probable(solver: str) -> None:
    features, centre = make_blobs(60)
    labels = np.stack([centre == 0, np.zeros(60), np.ones(60), np.arange(60) == 5], 1).astype(np.float32)
    head = solve(solver, features, labels, task="multilabel")
    answers = head.predict(features)
    assert np.isfinite(answers).all()
    assert answers[:, 1].max() < 0.1
    assert answers[:, 2].min() > 0.9
    assert ((answers[:, 0] > 0.5) == (centre == 0)).mean() > 0.85
    if head.estimator_head is None:
        np.testing.assert_allclose(np.asarray(head.build_layers(features)), answers, atol=1e-4)


@pytest.mark.parametrize("solver", ["ridge", "svm", "svm-rbf", "neighbours", "boosting"])
def test_a_target_that_is_constant_is_answered_with_it(solver: str) -> None:
    features, _ = make_blobs(60)
    targets = np.stack([features[:, 0], np.full(60, 42.0)], 1)
    answers = solve(solver, features, targets, task="regression").predict(features)
    np.testing.assert_allclose(answers[:, 1], 42, atol=0.2)
    assert TASKS["regression"].score(answers[:, :1], targets[:, :1]) > 0.5


def test_classes_weighed_up_are_found_more_often() -> None:
    features, centre = make_blobs(160, noise=3.0)
    rare = ((centre == 0) & (np.arange(160) % 3 == 0)).astype(np.int64)
    unseen, _ = make_blobs(400, seed=1, noise=3.0)
    weight = np.where(rare == 1, (rare == 0).sum() / rare.sum(), 1.0)
    for solver in SOLVER_SPECS:
        plain = solve(solver, features, rare, task="binary").predict(unseen)
        even = solve(solver, features, rare, task="binary", sample_weight=weight).predict(unseen)
        assert even.mean() > plain.mean() + 0.1, solver


def test_groups_keep_copies_of_an_image_from_choosing_for_it() -> None:
    rng = np.random.default_rng(0)
    features = np.repeat(rng.normal(size=(30, 8)), 8, 0) + rng.normal(0, 1e-3, (240, 8))
    labels, image = np.repeat(rng.permutation(np.arange(30) % 2), 8), np.repeat(np.arange(30), 8)
    blind = solve("neighbours", features, labels, task="binary")
    aware = solve("neighbours", features, labels, task="binary", groups=image)
    assert blind.score > 0.99
    assert aware.score < 0.75


def test_held_out_score_is_not_that_of_the_training_rows() -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 100)), np.arange(60) % 2
    head = solve("svm-rbf", features, labels, task="binary")
    assert head.score < 0.75


def test_a_choice_is_named_and_comes_from_the_lowest_loss() -> None:
    features, centre = make_blobs(120, noise=2.0)
    head = solve("lda", features, centre, task="multiclass")
    assert head.phrase.startswith("linear discriminant analysis, shrinkage")
    assert head.phrase.endswith("by cross-validation")
    best = min(head.losses, key=lambda text: head.losses[text])
    assert best == f"shrinkage {head.settings['shrinkage']:.3g}"


@pytest.mark.parametrize(
    ("solver", "task", "words"),
    [
        ("svn", "multiclass", 'Did you mean "svm'),
        ("logistic", "regression", "cannot do regression"),
        ("svm", "classes", "task: expected one of"),
    ],
)
def test_what_cannot_be_meant_is_refused(solver: str, task: str, words: str) -> None:
    features, centre = make_blobs(20)
    with pytest.raises(UsageError, match=words):
        solve(solver, features, centre, task=task)


def test_data_that_no_head_can_be_solved_on_is_refused() -> None:
    features, centre = make_blobs(20)
    with pytest.raises(DataError, match="infinite"):
        solve("svm", np.where(features == features[0, 0], np.nan, features), centre, task="multiclass")
    with pytest.raises(DataError, match="every class"):
        solve("svm", features, np.where(centre == 1, 0, centre), task="multiclass")
    with pytest.raises(DataError, match="every class"):
        solve("svm", features, np.zeros(20, int), task="binary")
    with pytest.raises(DataError, match="as many targets"):
        solve("svm", features, centre[:5], task="multiclass")
    with pytest.raises(DataError, match="weights"):
        solve("svm", features, centre, task="multiclass", sample_weight=-np.ones(20))
