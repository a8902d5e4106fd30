"""Estimators kept with skops: any of scikit-learn's, on every task; unknown types are refused."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.solved_heads import make_blobs, make_targets
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.naive_bayes import GaussianNB

from regraft.errors import EnvironmentFault, ModelRefused
from regraft.solvers.estimator_io import EstimatorHead, read_estimator, write_estimator
from regraft.solvers.solve import solve
from regraft.tasks import TASKS

pytest.importorskip("skops")

pytestmark = pytest.mark.slow


class Stranger(ClassifierMixin, BaseEstimator):
    """A classifier of somebody's own."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.zeros(len(X), int)


def round_trip(head: EstimatorHead, path: Path) -> EstimatorHead:
    assert write_estimator(head, path / "head.skops") == ()
    return read_estimator(path / "head.skops")


@pytest.mark.parametrize("task", list(TASKS))
def test_boosting_is_kept_and_answers_the_same(task: str, tmp_path: Path) -> None:
    features, centre = make_blobs(60)
    targets = make_targets(task, features, centre)
    head = solve("boosting", features, targets, task=task)
    assert head.estimator_head is not None
    found = round_trip(head.estimator_head, tmp_path).predict(features)
    np.testing.assert_array_equal(found, head.predict(features))
    assert (
        TASKS[task].score(found, TASKS[task].encode(targets, 4 if task == "multiclass" else found.shape[1]))
        > 0.75
    )


def test_unknown_types_are_refused_by_name_and_taken_when_trusted(tmp_path: Path) -> None:
    features, centre = make_blobs(40)
    head = solve(Stranger(), features, centre, task="multiclass")
    unknown = write_estimator(head.estimator_head, tmp_path / "head.skops")
    assert unknown == (f"{Stranger.__module__}.Stranger",)
    with pytest.raises(ModelRefused, match="Stranger"):
        read_estimator(tmp_path / "head.skops")
    assert read_estimator(tmp_path / "head.skops", trusted=unknown).predict(features).shape == (40, 4)


def test_files_that_are_none_of_ours_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pickle.skops").write_bytes(pickle.dumps(GaussianNB()))
    (tmp_path / "empty.skops").write_bytes(b"")
    with pytest.raises(ModelRefused, match="skops file"):
        read_estimator(tmp_path / "pickle.skops")
    with pytest.raises(ModelRefused, match="skops file"):
        read_estimator(tmp_path / "empty.skops")
    with pytest.raises(EnvironmentFault, match="nothing"):
        read_estimator(tmp_path / "nothing.skops")
    import skops.io

    skops.io.dump(GaussianNB(), tmp_path / "bare.skops")
    with pytest.raises(ModelRefused, match="head of regraft"):
        read_estimator(tmp_path / "bare.skops")


def test_without_skops_the_message_names_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "skops.io", None)
    with pytest.raises(EnvironmentFault, match=r'pip install "regraft\[skops\]"'):
        read_estimator(tmp_path / "head.skops")
