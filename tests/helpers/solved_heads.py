"""Synthetic features for every task, and the scikit-learn estimators that solvers are compared with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LAYER_TASKS = {  # solver -> tasks it can do as Keras layers
    "logistic": ("multiclass", "binary", "multilabel"),
    "ridge": ("multiclass", "binary", "multilabel", "regression"),
    "lda": ("multiclass", "binary", "multilabel"),
    "svm": ("multiclass", "binary", "multilabel", "regression"),
    "svm-rbf": ("multiclass", "binary", "multilabel", "regression"),
    "neighbours": ("multiclass", "binary", "multilabel", "regression"),
}
PAIRS = [(solver, task) for solver, tasks in LAYER_TASKS.items() for task in tasks]


def make_blobs(n: int = 100, d: int = 12, *, seed: int = 0, noise: float = 1.0):
    """Return features (n, d) around four centres, in columns of unlike scale, and the centre of each row."""
    rng = np.random.default_rng(7)
    centres, scales, means = rng.normal(0, 1.3, (4, d)), rng.uniform(0.1, 5, d), rng.normal(0, 5, d)
    rng = np.random.default_rng(seed)
    centre = np.arange(n) % 4
    features = (centres[centre] + rng.normal(0, noise, (n, d))) * scales + means
    return features.astype(np.float32), centre


def make_classes(n: int, d: int, classes: int, *, noise: float = 1.0, seed: int = 0):
    """Return features (n, d) around a centre per class, and class numbers (n,)."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (classes, d))
    labels = np.arange(n) % classes
    scales = rng.uniform(0.1, 10, d)
    features = (centres[labels] + rng.normal(0, noise, (n, d))) * scales + rng.normal(0, 5, d)
    return features.astype(np.float32), labels


def make_targets(task: str, features: NDArray[Any], centre: NDArray[Any]) -> NDArray[Any]:
    if task == "multiclass":
        return centre.astype(np.int64)
    if task == "binary":
        return (centre > 1).astype(np.int64)
    if task == "multilabel":
        return np.stack([centre == 0, centre > 1, features[:, 0] > np.median(features[:, 0])], 1).astype(
            np.float32
        )
    return np.stack([20 * features[:, 0] + 1000 + centre, features[:, 1] - features[:, 2]], 1).astype(
        np.float32
    )


def make_reference(solver: str, task: str, settings: dict[str, Any], *, rows: int, classes: int = 4) -> Any:
    """Return the unfitted scikit-learn estimator of one output (or of all classes) with the same settings."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
    from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, Normalizer
    from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

    numbers = task == "regression"
    if solver == "logistic":
        return LogisticRegression(C=1 / (rows * settings["penalty"]), tol=1e-9, max_iter=20_000)
    if solver == "ridge":
        return (Ridge if numbers else RidgeClassifier)(alpha=rows * settings["penalty"])
    if solver == "lda":
        return LinearDiscriminantAnalysis(solver="lsqr", shrinkage=settings["shrinkage"])
    if solver == "svm":
        cost = {"C": 1 / (rows * settings["penalty"]), "dual": True, "max_iter": 5000, "random_state": 0}
        return LinearSVR(epsilon=0.1, **cost) if numbers else LinearSVC(**cost)
    if solver == "svm-rbf":
        shape = {"C": settings["C"], "gamma": settings["gamma"]}
        return SVR(epsilon=0.1, **shape) if numbers else SVC(break_ties=classes > 2, **shape)
    first = Normalizer() if settings["metric"] == "cosine" else FunctionTransformer()
    kind = KNeighborsRegressor if numbers else KNeighborsClassifier
    return make_pipeline(first, kind(int(settings["k"]), weights=settings["weights"], algorithm="brute"))


def decide_reference(estimator: Any, data: NDArray[Any], task: str) -> NDArray[Any]:
    """Return the decision values of a scikit-learn estimator, (m, units)."""
    if task == "regression":
        return estimator.predict(data)[:, None]
    if hasattr(estimator, "decision_function"):
        return estimator.decision_function(data).reshape(len(data), -1)
    shares = estimator.predict_proba(data)
    return shares if task == "multiclass" else 2 * shares[:, 1:] - 1
