"""Sets and intervals of every task from held-out answers, and their coverage on images with targets."""

import math

import numpy as np
import pytest

from regraft.tasks import TASKS
from regraft.uncertainty.conformal import (
    CoverageLimits,
    fit_conformal,
    measure_class_coverages,
    measure_coverages,
)
from regraft.uncertainty.file import Uncertainty, read_uncertainty, write_uncertainty
from regraft.uncertainty.held_out import HeldOutAnswers
from regraft.uncertainty.intervals import NumberIntervals
from regraft.uncertainty.prediction_sets import ClassSets, LabelSets

KINDS = {"multiclass": ClassSets, "binary": ClassSets, "multilabel": LabelSets, "regression": NumberIntervals}
NAMES = {
    "multiclass": list("abc"),
    "binary": list("ab"),
    "multilabel": list("abcd"),
    "regression": list("xy"),
}


def draw(task, count=200, *, seed=0):
    """Return targets, answers that fit them, and features."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(count, 3)).astype(np.float32)
    if task == "multiclass":
        answers = rng.dirichlet(np.full(3, 0.5), count)
        return (rng.random((count, 1)) > answers.cumsum(1)).sum(1).clip(0, 2), answers, features
    if task == "regression":
        answers = rng.normal(size=(count, 2))
        return answers + rng.normal(size=(count, 2)), answers, features
    answers = rng.beta(0.5, 0.5, (count, 1 if task == "binary" else 4))
    targets = (rng.random(answers.shape) < answers).astype(np.int64)
    return (targets[:, 0] if task == "binary" else targets), answers, features


def fit(task, **changes):
    targets, answers, features = draw(task)
    held_out = HeldOutAnswers((), targets, answers, features, "cross-validation", **changes)
    return fit_conformal(held_out, task=task, seed=0)


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_sets_or_intervals_that_survive_a_file(task, tmp_path):
    conformal = fit(task)
    assert type(conformal) is KINDS[task]
    write_uncertainty(Uncertainty(conformal), tmp_path / "uncertainty.npz")
    copy = read_uncertainty(tmp_path / "uncertainty.npz").conformal
    assert type(copy) is KINDS[task]
    np.testing.assert_array_equal(copy.find_limits(0.9), conformal.find_limits(0.9))


@pytest.mark.parametrize("task", TASKS)
def test_coverage_is_as_asked_and_inside_its_band(task):
    conformal, names = fit(task), NAMES[task]
    coverages = measure_coverages(conformal, *draw(task, 400, seed=2), names=names)
    per_level = 2 if task == "regression" else 1
    assert [one.level for one in coverages] == [level for level in (0.8, 0.9, 0.95) for _ in range(per_level)]
    assert all(one.low < one.level < one.high for one in coverages)
    assert all(one.is_as_expected for one in coverages)
    assert [one.target for one in coverages[:2]] == (["x", "y"] if task == "regression" else ["", ""])
    assert all(one.coverage >= one.within_limits for one in coverages)


@pytest.mark.parametrize("task", TASKS)
def test_coverage_is_counted_as_by_hand(task):
    conformal, names = fit(task), NAMES[task]
    targets, answers, features = draw(task, 50, seed=1)
    limits = CoverageLimits.find(conformal, 0.9, names)
    hits, sizes = [], []
    for truth, row, image in zip(targets, TASKS[task].expand_binary(answers), features, strict=True):
        members, intervals = limits.list_members(row), limits.find_intervals(row, image)
        if task == "regression":
            assert members == ()
            low, high = intervals["x"]
            hits.append(low <= truth[0] <= high)
            sizes.append(high - low)
        elif task == "multilabel":
            labels = {name for name, has in zip(names, truth, strict=True) if has}
            hits += [len(labels & set(members)) / len(labels)] if labels else []
            sizes.append(len(members))
        else:
            assert members[0] == names[row.argmax()]
            hits.append(names[truth] in members)
            sizes.append(len(members))
    coverage = measure_coverages(conformal, targets, answers, features, names=names)
    measured = next(one for one in coverage if one.level == 0.9)
    assert measured.coverage == pytest.approx(np.mean(hits))
    assert measured.mean_size == pytest.approx(np.mean(sizes))


def test_members_stand_in_the_order_of_their_probabilities():
    limits = CoverageLimits(fit("multiclass"), np.full(3, 0.2), list("abc"))
    assert limits.list_members(np.array([0.25, 0.1, 0.65])) == ("c", "a")


def test_other_images_are_outside_the_band():
    targets, answers, features = draw("multiclass", 400, seed=1)
    wrong = np.roll(targets, 1)
    assert not any(
        one.is_as_expected
        for one in measure_coverages(fit("multiclass"), wrong, answers, features, names="abc")
    )


def test_coverage_of_a_class_counts_its_own_images():
    targets, answers, _ = draw("multiclass", 300, seed=1)
    targets[targets == 2] = 1
    sets = fit("multiclass")
    rows = measure_class_coverages(sets, targets, answers, level=0.9, names=["a", "b", "c"])
    members = sets.select(answers, sets.find_limits(0.9))
    assert [row.images for row in rows] == [*np.bincount(targets), 0]
    assert rows[1].coverage == members[targets == 1, 1].mean()
    assert rows[0].low < 0.9 < rows[0].high
    assert math.isnan(rows[2].coverage)


def test_there_are_no_sets_without_held_out_images():
    assert fit_conformal(None, task="multiclass", seed=0) is None
    assert Uncertainty.from_arrays(Uncertainty().to_arrays()).conformal is None


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_answers_of_fewer_images_move_limits(task):
    _, answers, _ = draw(task)
    worse = answers + 1 if task == "regression" else answers**2
    moved, plain = fit(task, fewer=worse, step=0.6), fit(task)
    assert not np.array_equal(moved.find_limits(0.9), plain.find_limits(0.9))
