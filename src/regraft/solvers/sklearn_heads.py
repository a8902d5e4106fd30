"""Heads that scikit-learn solves: support vectors, nearest neighbours, boosting, and any other estimator.

Support vectors and neighbours become decision rules, hence Keras layers. Boosting and estimators that a user
hands in stay estimators.
"""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.solvers.cross_validation import EXACT, Fit, Settings, SolverSpec, TrainingRows
from regraft.solvers.decision import Kernel, Linear, Link, Neighbours, Rule
from regraft.solvers.estimator_io import EstimatorHead

__all__ = ["BOOSTING", "LINEAR_SVM", "NEIGHBOURS", "RADIAL_SVM", "spec_from_estimator"]

Matrix = NDArray[np.float64]

EPSILON = 0.1  # error that support vector regression does not count, in standard deviations of a target
MAX_SHARED_ROWS = 6_000  # images up to which all their distances are held in memory
CACHE_MB = 500  # kernel values that libsvm keeps
MAX_BINS = 63
LIBLINEAR = Lock()  # it draws from one generator per process, so two threads would disturb each other


# --- support vectors


def prepare_linear_svm(rows: TrainingRows) -> Fit:
    """Prepare linear support vectors; settings: `penalty`, per image (scikit-learn's C is 1 / (n * penalty)).

    Each class is separated from the rest; labels and targets are solved one by one.
    """
    from sklearn.svm import LinearSVC, LinearSVR

    def fit(settings: Settings) -> Rule:
        kind, options = (LinearSVR, {"epsilon": EPSILON}) if rows.task == "regression" else (LinearSVC, {})
        machine = kind(
            C=1 / (len(rows.data) * float(settings["penalty"])),
            dual=True,
            tol=1e-4 if rows.tolerance <= EXACT else 1e-2,
            max_iter=5000,
            random_state=rows.seed,
            **options,
        )
        if rows.task == "multiclass":
            with LIBLINEAR:
                machine.fit(rows.data, rows.labels, rows.weights)
            coefficients, bias = machine.coef_, machine.intercept_
            if len(machine.classes_) > 2:
                return Linear(coefficients.T, bias)
            return Linear(np.vstack([-coefficients, coefficients]).T, np.outer([-1, 1], bias)[:, 0])
        weights, bias = np.zeros((rows.data.shape[1], rows.targets.shape[1])), np.zeros(rows.targets.shape[1])
        for unit, truth in enumerate(rows.signs.T):
            if np.ptp(truth) == 0:
                bias[unit] = truth[0]
                continue
            with LIBLINEAR:
                machine.fit(rows.data, truth, rows.weights)
            weights[:, unit], bias[unit] = np.ravel(machine.coef_), np.ravel(machine.intercept_)[0]
        return Linear(weights, bias)

    return fit


def prepare_radial_svm(rows: TrainingRows) -> Fit:
    """Prepare support vectors with a radial kernel; settings: `C`, `gamma`.

    Classes are separated in pairs; labels and targets are solved one by one.
    """
    from sklearn.metrics.pairwise import euclidean_distances
    from sklearn.svm import SVC, SVR

    # Cross-validation solves the same rows many times: they share their distances.
    is_shared = rows.tolerance > EXACT and len(rows.data) <= MAX_SHARED_ROWS
    squares = euclidean_distances(rows.data, squared=True) if is_shared else None

    def fit(settings: Settings) -> Rule:
        gamma = float(settings["gamma"])
        inputs = rows.data if squares is None else np.exp(-gamma * squares)
        kernel = {"kernel": "rbf", "gamma": gamma} if squares is None else {"kernel": "precomputed"}
        options = {"C": settings["C"], "cache_size": CACHE_MB, **kernel}
        if rows.task == "multiclass":
            machine = SVC(**options, decision_function_shape="ovr", break_ties=True)
            return _make_pair_kernel(machine.fit(inputs, rows.labels, rows.weights), rows.data, gamma)
        machine = SVR(epsilon=EPSILON, **options) if rows.task == "regression" else SVC(**options)
        dual, intercept = np.zeros_like(rows.targets), np.zeros(rows.targets.shape[1])
        for unit, truth in enumerate(rows.signs.T):
            if np.ptp(truth) == 0:
                intercept[unit] = truth[0]
                continue
            machine.fit(inputs, truth, rows.weights)
            dual[machine.support_, unit], intercept[unit] = machine.dual_coef_[0], machine.intercept_[0]
        is_support = dual.any(1)
        return Kernel(gamma, rows.data[is_support], dual[is_support], intercept)

    return fit


def _make_pair_kernel(machine: Any, data: Matrix, gamma: float) -> Kernel:
    """Return a fitted SVC as the decision values of its pairs of classes.

    For each support vector libsvm holds one coefficient per class other than its own, in their order.
    """
    classes = len(machine.classes_)
    coefficients, owner = machine.dual_coef_, np.repeat(np.arange(classes), machine.n_support_)
    if classes == 2:  # scikit-learn flips the signs: positive is the second class
        coefficients = -coefficients
    dual = np.zeros((len(machine.support_), classes * (classes - 1) // 2))
    for pair, (first, second) in enumerate(zip(*np.triu_indices(classes, 1), strict=True)):
        dual[owner == first, pair] = coefficients[second - 1, owner == first]
        dual[owner == second, pair] = coefficients[first, owner == second]
    intercept = -machine.intercept_ if classes == 2 else machine.intercept_
    return Kernel(gamma, data[machine.support_], dual, intercept, classes)


# --- nearest neighbours


def prepare_neighbours(rows: TrainingRows) -> Fit:
    """Prepare the k nearest neighbours; settings: `k`, `metric`, `weights`."""
    from sklearn.preprocessing import normalize

    targets = rows.targets if rows.task == "multiclass" else rows.signs
    table = np.column_stack([targets, np.ones(len(targets))]) * rows.weights[:, None]

    def fit(settings: Settings) -> Rule:
        metric = str(settings["metric"])
        stored = normalize(rows.data) if metric == "cosine" else rows.data
        count = min(int(settings["k"]), len(stored))
        return Neighbours(stored, table, count, str(settings["weights"]), metric)

    return fit


# --- estimators


def prepare_boosting(rows: TrainingRows) -> Fit:
    """Prepare boosted trees on histograms; settings: `trees`. More trees are added to those of the last fit.

    The bins are made first, by counting images alone: with sample weights, the estimator's own binning takes
    half a minute for a thousand features (scikit-learn 1.9).
    """
    from sklearn.base import clone
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import KBinsDiscretizer

    kind = HistGradientBoostingRegressor if rows.task == "regression" else HistGradientBoostingClassifier
    trees = kind(
        learning_rate=0.15,
        max_leaf_nodes=8,
        max_bins=MAX_BINS,
        max_features=0.1,  # a tenth of a feature map's many channels per split says as much
        early_stopping=False,
        warm_start=True,
        random_state=rows.seed,
    )
    bins = KBinsDiscretizer(min(MAX_BINS, len(rows.data)), encode="ordinal", subsample=None)
    estimators = [clone(Pipeline([("bins", bins), ("trees", trees)])) for _ in range(_count_estimators(rows))]

    def fit(settings: Settings) -> Rule:
        for estimator in estimators:
            estimator.set_params(trees__max_iter=int(settings["trees"]))
        return _fit_estimators(rows, estimators, {"trees__sample_weight": rows.weights})

    return fit


def spec_from_estimator(estimator: Any, task: str) -> SolverSpec:
    """Return the spec of a user's estimator, with the settings it has.

    Raises:
        UsageError: not an estimator, or of the wrong kind for the task.
    """
    from sklearn.base import clone, is_classifier, is_regressor
    from sklearn.utils import get_tags

    is_suitable = is_regressor if task == "regression" else is_classifier
    if isinstance(estimator, type) or not hasattr(estimator, "fit") or not is_suitable(estimator):
        kind = "regressor" if task == "regression" else "classifier"
        raise UsageError(
            f"solver: expected the name of one, or a scikit-learn {kind} for {task}. Received: {estimator!r}."
        )

    def prepare(rows: TrainingRows) -> Fit:
        extra = {} if np.ptp(rows.weights) == 0 else {_find_weight_name(estimator): rows.weights}
        is_joint = rows.task == "regression" and get_tags(estimator).target_tags.multi_output
        count = 1 if is_joint else _count_estimators(rows)
        return lambda settings: _fit_estimators(rows, [clone(estimator) for _ in range(count)], extra)

    return SolverSpec(
        type(estimator).__name__,
        prepare,
        lambda rows: [{}],
        tasks=(task,),
        is_scaled=False,
        is_calibrated=hasattr(estimator, "predict_proba"),
        keeps_predictions=True,
    )


def _fit_estimators(rows: TrainingRows, estimators: list[Any], extra: dict[str, Matrix]) -> EstimatorHead:
    """Fit one estimator to all outputs, or one to each label or target.

    A label that never changes is answered with the logarithm of its odds.
    """
    units = rows.targets.shape[1]
    outputs = list(estimators)
    if rows.task in ("multiclass", "binary"):
        outputs[0].fit(rows.data, rows.labels, **extra)
    elif len(outputs) == 1:
        outputs[0].fit(rows.data, rows.targets if units > 1 else rows.targets[:, 0], **extra)
    else:
        for unit, truth in enumerate(rows.targets.T):
            if rows.task == "multilabel" and np.ptp(truth) == 0:
                outputs[unit] = float((2 * truth[0] - 1) * np.log(2 * len(truth) + 1))
            else:
                outputs[unit].fit(rows.data, truth, **extra)
    best = [getattr(output, "best_estimator_", output) for output in outputs]  # the winner of a grid search
    return EstimatorHead(tuple(best), rows.task, units, Link.identity(units))


def _count_estimators(rows: TrainingRows) -> int:
    """Return how many estimators of a single output answer all of them."""
    return 1 if rows.task in ("multiclass", "binary") else rows.targets.shape[1]


def _find_weight_name(estimator: Any) -> str:
    """Return the name under which `fit` takes sample weights; of a pipeline, that of its last step."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    name, last = "sample_weight", estimator
    while isinstance(last, Pipeline):
        step, last = last.steps[-1]
        name = f"{step}__{name}"
    if not has_fit_parameter(last, "sample_weight"):
        raise UsageError(
            f"{type(last).__name__} takes no sample weights: leave out those of images and classes, or "
            "take another."
        )
    return name


# --- what each is chosen from


def _count_varying_features(rows: TrainingRows) -> int:
    return max(1, int((np.ptp(rows.data, axis=0) > 0).sum()))


def _make_linear_grid(rows: TrainingRows) -> list[Settings]:
    """Return penalties in units of the number of features, about |z|^2: the margins are 1."""
    width = _count_varying_features(rows)
    return [{"penalty": float(value) * width} for value in np.logspace(-1, -4, 7)]


def _make_radial_grid(rows: TrainingRows) -> list[Settings]:
    width = _count_varying_features(rows)
    return [{"C": cost, "gamma": share / width} for share in (0.1, 0.3, 1.0) for cost in (1.0, 3.0, 10.0)]


def _make_neighbours_grid(rows: TrainingRows) -> list[Settings]:
    counts = [count for count in (1, 3, 5, 9, 15, 25) if count <= max(1, len(rows.data) // 2)]
    return [
        {"k": count, "metric": metric, "weights": weights}
        for metric in ("cosine", "euclidean")
        for weights in ("uniform", "distance")
        for count in counts
    ]


LINEAR_SVM = SolverSpec(
    "linear support vectors", prepare_linear_svm, _make_linear_grid, is_unimodal=True, max_rows=1_000
)
RADIAL_SVM = SolverSpec(
    "support vectors with a radial kernel", prepare_radial_svm, _make_radial_grid, max_rows=3_000
)
NEIGHBOURS = SolverSpec("nearest neighbours", prepare_neighbours, _make_neighbours_grid)
BOOSTING = SolverSpec(
    "gradient boosting",
    prepare_boosting,
    lambda rows: [{"trees": trees} for trees in (8, 15, 30, 60)],
    is_unimodal=True,
    is_scaled=False,
    is_calibrated=True,
    fold_count=3,
    max_rows=1_000,
)
