"""Any estimator of scikit-learn's as a head, on every task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from helpers.solved_heads import make_blobs, make_targets
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import ElasticNet, LogisticRegression, Perceptron
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from regraft.errors import UsageError
from regraft.solvers.estimator_io import EstimatorHead, read_estimator, write_estimator
from regraft.solvers.solve import solve
from regraft.tasks import TASKS

pytest.importorskip("skops")

pytestmark = pytest.mark.slow


def round_trip(head: EstimatorHead, path: Path) -> EstimatorHead:
    assert write_estimator(head, path / "head.skops") == ()
    return read_estimator(path / "head.skops")


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(10, random_state=0),
        make_pipeline(StandardScaler(), SVC()),
        GridSearchCV(GaussianNB(), {"var_smoothing": [1e-9, 1e-2]}, cv=2),
        GaussianNB(),
        Perceptron(),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_any_classifier_is_taken(estimator, task: str, tmp_path: Path) -> None:
    features, centre = make_blobs(60)
    unseen, _ = make_blobs(60, seed=1)
    targets = make_targets(task, features, centre)
    head = solve(estimator, features, targets, task=task)
    answers = round_trip(head.estimator_head, tmp_path).predict(unseen)
    assert not hasattr(estimator, "classes_")  # it was cloned
    plain = targets[:, 0] if task == "multilabel" else targets
    expected = clone(estimator).fit(features.astype(float), plain)
    predicted = answers.argmax(1) if task == "multiclass" else (answers[:, 0] > 0.5).astype(int)
    np.testing.assert_array_equal(predicted, expected.predict(unseen.astype(float)))
    if hasattr(expected, "predict_proba"):
        shares = expected.predict_proba(unseen.astype(float))
        np.testing.assert_allclose(answers if task == "multiclass" else answers[:, 0],
                                   shares if task == "multiclass" else shares[:, 1], atol=1e-5)  # fmt: skip


@pytest.mark.parametrize(
    "estimator", [RandomForestRegressor(10, random_state=0), ElasticNet(0.01), SVR(C=10)],
    ids=lambda estimator: type(estimator).__name__,
)  # fmt: skip
def test_any_regressor_answers_in_the_units_of_the_targets(estimator, tmp_path: Path) -> None:
    features, centre = make_blobs(80)
    targets = make_targets("regression", features, centre)
    head = solve(make_pipeline(StandardScaler(), estimator), features, targets, task="regression")
    answers = round_trip(head.estimator_head, tmp_path).predict(features)
    assert TASKS["regression"].score(answers, targets) > 0.7


def test_weights_reach_the_last_step_of_a_pipeline() -> None:
    features, centre = make_blobs(120, noise=3.0)
    labels = (centre == 0).astype(int)
    pipeline = make_pipeline(StandardScaler(), LogisticRegression())
    plain = solve(pipeline, features, labels, task="binary").predict(features)
    weights = np.where(labels == 1, 3.0, 1.0)
    even = solve(pipeline, features, labels, task="binary", sample_weight=weights).predict(features)
    assert even.mean() > plain.mean() + 0.05


def test_an_estimator_that_takes_no_weights_says_so() -> None:
    features, centre = make_blobs(40)
    with pytest.raises(UsageError, match="takes no sample weights"):
        solve(NearestCentroid(), features, centre, task="multiclass", sample_weight=np.arange(40.0))


@pytest.mark.parametrize("wrong", [RandomForestRegressor(), StandardScaler(), SVC, object()])
def test_what_is_no_classifier_is_refused(wrong) -> None:
    features, centre = make_blobs(40)
    with pytest.raises(UsageError, match="scikit-learn classifier"):
        solve(wrong, features, centre, task="multiclass")
