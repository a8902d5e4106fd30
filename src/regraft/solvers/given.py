"""Heads that stay estimators: gradient boosting, and whatever is handed in."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import UsageError
from regraft.solvers.cross_validation import Family, Fit, Part, Settings
from regraft.solvers.decision import Link, Rule
from regraft.solvers.estimator_io import Kept

__all__ = ["BOOSTING", "given"]

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
