"""Heads that stay estimators: gradient boosting, and whatever is handed in.

The table of classical heads: how each is solved with scikit-learn, and what it chooses from.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.solvers.cross_validation import EXACT, Family, Fit, Part, Settings
from regraft.solvers.decision import Kernel, Linear, Link, Neighbours, Rule
from regraft.solvers.estimator_io import Kept
from regraft.solvers.logistic import LOGISTIC, discriminant, ridge, views_of

__all__ = ["BOOSTING", "FAMILIES", "given"]


Matrix = NDArray[np.float64]

BINS = 63


def _boosting(part: Part) -> Fit:
    """Boosted trees on histograms; settings: `trees`. Growing on from one number of trees to the next.

    The bins are made first, by counting images alone: with sample weights, the estimator's own binning takes
    half a minute for a thousand features (scikit-learn 1.9).
    """
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import KBinsDiscretizer

    kind = HistGradientBoostingRegressor if part.task == "regression" else HistGradientBoostingClassifier
    trees = kind(
        learning_rate=0.15,
        max_leaf_nodes=8,
        max_bins=BINS,
        max_features=0.1,  # of a feature map's many channels, a tenth a split says as much
        early_stopping=False,
        warm_start=True,
        random_state=part.seed,
    )
    bins = KBinsDiscretizer(min(BINS, len(part.data)), encode="ordinal", subsample=None)
    grown = [clone(Pipeline([("bins", bins), ("trees", trees)])) for _ in range(_runs(part))]

    def fit(settings: Settings) -> Rule:
        for one in grown:
            one.set_params(trees__max_iter=int(settings["trees"]))
        return _kept(part, grown, {"trees__sample_weight": part.weights})

    return fit


BOOSTING = Family(
    "gradient boosting",
    _boosting,
    lambda part: [{"trees": trees} for trees in (8, 15, 30, 60)],
    ordered=True,
    scaled=False,
    calibrated=True,
    count=3,
    most=1_000,
)


def given(estimator: Any, task: str) -> Family:
    """The family of an estimator that was handed in, with the settings it has.

    Raises:
        UsageError: not an estimator, or of the wrong kind for the task.
    """
    from sklearn.base import clone, is_classifier, is_regressor
    from sklearn.utils import get_tags

    suits = is_regressor if task == "regression" else is_classifier
    if isinstance(estimator, type) or not hasattr(estimator, "fit") or not suits(estimator):
        kind = "regressor" if task == "regression" else "classifier"
        raise UsageError(
            f"solver: expected the name of one, or a scikit-learn {kind} for {task}. Received: {estimator!r}."
        )

    def prepare(part: Part) -> Fit:
        extra = {} if np.ptp(part.weights) == 0 else {_weight_name(estimator): part.weights}
        several = part.task == "regression" and get_tags(estimator).target_tags.multi_output
        runs = 1 if several else _runs(part)
        return lambda settings: _kept(part, [clone(estimator) for _ in range(runs)], extra)

    return Family(
        type(estimator).__name__,
        prepare,
        lambda part: [{}],
        tasks=(task,),
        scaled=False,
        calibrated=hasattr(estimator, "predict_proba"),
    )


def _kept(part: Part, estimators: list[Any], extra: dict[str, Matrix]) -> Kept:
    """Estimators fitted: one to everything, or each to its label or target; a label that never changes is
    answered with the logarithm of its odds."""
    units = part.targets.shape[1]
    link, found = Link.none(units), list(estimators)
    if part.task in ("multiclass", "binary"):
        found[0].fit(part.data, part.labels, **extra)
    elif len(found) == 1:
        found[0].fit(part.data, part.targets if units > 1 else part.targets[:, 0], **extra)
    else:
        for unit, truth in enumerate(part.targets.T):
            if part.task == "multilabel" and np.ptp(truth) == 0:
                found[unit] = float((2 * truth[0] - 1) * np.log(2 * len(truth) + 1))
            else:
                found[unit].fit(part.data, truth, **extra)
    best = [getattr(one, "best_estimator_", one) for one in found]  # of a search, what it found
    return Kept(tuple(best), part.task, units, link)


def _runs(part: Part) -> int:
    """How many estimators that know one output answer all of them."""
    return 1 if part.task in ("multiclass", "binary") else part.targets.shape[1]


def _weight_name(estimator: Any) -> str:
    """The name under which `fit` takes sample weights, for a pipeline that of its last step."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    name, last = "sample_weight", estimator
    while isinstance(last, Pipeline):
        step, last = last.steps[-1]
        name = f"{step}__{name}"
    if not has_fit_parameter(last, "sample_weight"):
        raise UsageError(
            f"{type(last).__name__} takes no sample weights: leave class weights out, or take another."
        )
    return name


CLASSES = ("multiclass", "binary", "multilabel")
EPSILON = 0.1  # standard deviations of a target by which support vector regression may be off for nothing
GRAM = 6_000  # images up to which all their distances are kept at once
LIBLINEAR = Lock()  # draws from one generator of the whole process: two threads in it disturb each other
CACHE = 500  # MB of kernel values that libsvm keeps


def linear_svm(part: Part) -> Fit:
    """Linear support vectors; settings: `penalty`, per image (scikit-learn's C is 1 / (n * penalty)).
    One class against the rest; labels and targets one by one."""
    from sklearn.svm import LinearSVC, LinearSVR

    def fit(settings: Settings) -> Rule:
        kind, options = (LinearSVR, {"epsilon": EPSILON}) if part.task == "regression" else (LinearSVC, {})
        cost = 1 / (len(part.data) * float(settings["penalty"]))
        machine = kind(
            C=cost,
            dual=True,
            tol=1e-4 if part.tolerance <= EXACT else 1e-2,
            max_iter=5000,
            random_state=part.seed,
            **options,
        )
        if part.task == "multiclass":
            with LIBLINEAR:
                machine.fit(part.data, part.labels, part.weights)
            if len(machine.classes_) > 2:
                return Linear(machine.coef_.T, machine.intercept_)
            return Linear(
                np.vstack([-machine.coef_, machine.coef_]).T, np.outer([-1, 1], machine.intercept_)[:, 0]
            )
        weights, bias = np.zeros((part.data.shape[1], part.targets.shape[1])), np.zeros(part.targets.shape[1])
        for unit, truth in enumerate(part.signs.T):
            if np.ptp(truth) == 0:
                bias[unit] = truth[0]
                continue
            with LIBLINEAR:
                machine.fit(part.data, truth, part.weights)
            weights[:, unit], bias[unit] = np.ravel(machine.coef_), np.ravel(machine.intercept_)[0]
        return Linear(weights, bias)

    return fit


def radial_svm(part: Part) -> Fit:
    """Support vectors with a radial kernel; settings: `C`, `gamma`. Classes in pairs; labels one by one."""
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.svm import SVC, SVR

    # What cross-validation solves again and again shares its distances.
    known = part.tolerance > EXACT and len(part.data) <= GRAM
    squares = euclidean_distances(part.data, squared=True) if known else None

    def fit(settings: Settings) -> Rule:
        gamma = float(settings["gamma"])
        seen = part.data if squares is None else np.exp(-gamma * squares)
        kernel = {"kernel": "rbf", "gamma": gamma} if squares is None else {"kernel": "precomputed"}
        options = {"C": settings["C"], "cache_size": CACHE, **kernel}
        if part.task == "multiclass":
            machine = SVC(**options, decision_function_shape="ovr", break_ties=True)
            return _pairs(machine.fit(seen, part.labels, part.weights), part.data, gamma)
        machine = SVR(epsilon=EPSILON, **options) if part.task == "regression" else SVC(**options)
        dual, intercept = np.zeros_like(part.targets), np.zeros(part.targets.shape[1])
        for unit, truth in enumerate(part.signs.T):
            if np.ptp(truth) == 0:
                intercept[unit] = truth[0]
                continue
            machine.fit(seen, truth, part.weights)
            dual[machine.support_, unit], intercept[unit] = machine.dual_coef_[0], machine.intercept_[0]
        used = dual.any(1)
        return Kernel(gamma, part.data[used], dual[used], intercept)

    return fit


def _pairs(machine: Any, data: Matrix, gamma: float) -> Kernel:
    """A fitted SVC as the decision values of its pairs of classes.

    libsvm keeps, for a support vector, one coefficient for every class but its own, in their order.
    """
    classes = len(machine.classes_)
    coefficients, owner = machine.dual_coef_, np.repeat(np.arange(classes), machine.n_support_)
    if classes == 2:  # scikit-learn has turned its signs: positive is the second class
        coefficients = -coefficients
    dual = np.zeros((len(machine.support_), classes * (classes - 1) // 2))
    for pair, (first, second) in enumerate(zip(*np.triu_indices(classes, 1), strict=True)):
        dual[owner == first, pair] = coefficients[second - 1, owner == first]
        dual[owner == second, pair] = coefficients[first, owner == second]
    intercept = -machine.intercept_ if classes == 2 else machine.intercept_
    return Kernel(gamma, data[machine.support_], dual, intercept, classes)


def nearest_neighbours(part: Part) -> Fit:
    """The k nearest; settings: `k`, `metric`, `weights`."""
    from sklearn.preprocessing import normalize

    targets = part.targets if part.task == "multiclass" else part.signs
    table = np.column_stack([targets, np.ones(len(targets))]) * part.weights[:, None]

    def fit(settings: Settings) -> Rule:
        metric = str(settings["metric"])
        stored = normalize(part.data) if metric == "cosine" else part.data
        count = min(int(settings["k"]), len(stored))
        return Neighbours(stored, table, count, str(settings["weights"]), metric)

    return fit


def _penalties(part: Part) -> list[Settings]:
    """For margins of 1: what matters is the penalty over |z|^2, about the number of standardised features."""
    return [{"penalty": float(value) * _width(part)} for value in np.logspace(-1, -4, 7)]


def _radial(part: Part) -> list[Settings]:
    return [
        {"C": cost, "gamma": share / _width(part)} for share in (0.1, 0.3, 1.0) for cost in (1.0, 3.0, 10.0)
    ]


def _neighbours(part: Part) -> list[Settings]:
    counts = [count for count in (1, 3, 5, 9, 15, 25) if count <= max(1, len(part.data) // 2)]
    return [
        {"k": count, "metric": metric, "weights": weights}
        for metric in ("cosine", "euclidean")
        for weights in ("uniform", "distance")
        for count in counts
    ]


def _width(part: Part) -> int:
    """How many features are not constant."""
    return max(1, int((np.ptp(part.data, axis=0) > 0).sum()))


def _values(name: str, values: NDArray[np.float64]) -> Callable[[Part], list[Settings]]:
    return lambda part: [{name: float(value)} for value in values]


FAMILIES: dict[str, Family] = {
    "logistic": LOGISTIC,
    "ridge": Family(
        "ridge",
        ridge,
        _values("penalty", np.logspace(2, -3, 16)),
        ordered=True,
        per_unit=True,
        views=views_of(ridge),
    ),
    "lda": Family(
        "linear discriminant analysis",
        discriminant,
        _values("shrinkage", np.array([0.99, 0.97, 0.9, 0.8, 0.65, 0.5, 0.3, 0.1, 0.03])),
        tasks=CLASSES,
        views=views_of(discriminant),
    ),
    "svm": Family("linear support vectors", linear_svm, _penalties, ordered=True, most=1_000),
    "svm-rbf": Family("support vectors with a radial kernel", radial_svm, _radial, most=3_000),
    "neighbours": Family("nearest neighbours", nearest_neighbours, _neighbours),
    "boosting": BOOSTING,
}
