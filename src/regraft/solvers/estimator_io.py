"""scikit-learn estimators that stay what they are, and their file: skops, never pickle.

A file names the types it holds. Those of scikit-learn and NumPy that skops knows, and those listed here, are
read; any other one must be named by the reader, for building an unknown type is running unknown code. A tree
is an array of nodes that name each other: a forged one runs no code, but may crash the process that uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault, ModelRefused, UsageError
from regraft.solvers.decision import Link, Scaler

__all__ = ["TRUSTED", "Kept", "read_estimator", "write_estimator"]

Matrix = NDArray[np.float64]

TRUSTED = (  # of scikit-learn, holding arrays and numbers only, not among those that skops knows
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)
SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1
_KEYS = {"estimators", "task", "units", "activation", "gain", "shift"}


@dataclass(frozen=True)
class Kept:
    """Fitted estimators, and what makes answers of them.

    Attributes:
        estimators: one for all outputs or one an output; a number stands for the decision value of a label
            that is always or never there.
        task: one of `tasks.TASKS`.
        units: how many values an answer has.
        link: from decision values to answers.
    """

    estimators: tuple[Any, ...]
    task: str
    units: int
    link: Link

    def decide(self, data: Matrix) -> Matrix:
        """Decision values, shape (n, units); the logarithms of probabilities or odds where there are such."""
        if len(self.estimators) == 1 and self.units > 1:
            return _decisions(self.estimators[0], data, self.task).reshape(len(data), self.units)
        columns = [
            np.full(len(data), found)
            if isinstance(found, float)
            else _decisions(found, data, "regression" if self.task == "regression" else "binary")
            for found in self.estimators
        ]
        return np.stack(columns, axis=1)

    def predict(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """Answers, shape (n, units), to features (n, d) as the backbone gives them."""
        return self.link(self.decide(features.astype(np.float64)))

    def graph(self, features: Any, scaler: Scaler, link: Link) -> Any:
        """Refused: there are no layers for it."""
        kind = type(self.estimators[0]).__name__
        raise UsageError(
            f"Expected a head that becomes Keras layers. Received: {kind}, which is kept with skops."
        )


def write_estimator(kept: Kept, path: str | PathLike[str]) -> tuple[str, ...]:
    """Write fitted estimators to a skops file.

    Returns:
        The types that a reader has to name in `trusted`: none for scikit-learn's own.

    Raises:
        EnvironmentFault: skops is not installed.
        UsageError: the estimator holds something skops cannot write, such as a lambda.
    """
    skops = _skops()
    state = {
        "estimators": list(kept.estimators),
        "task": kept.task,
        "units": kept.units,
        "activation": kept.link.activation,
        "gain": kept.link.gain,
        "shift": kept.link.shift,
    }
    try:
        skops.dump(state, str(path))
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise UsageError(f"The estimator cannot be kept without pickle: {error}.") from error
    return tuple(sorted(set(skops.get_untrusted_types(file=str(path))) - set(TRUSTED)))


def read_estimator(path: str | PathLike[str], *, trusted: Sequence[str] = ()) -> Kept:
    """Read what `write_estimator` wrote, building only known types.

    Args:
        path: the file.
        trusted: full names of further types to build, as `write_estimator` returned them. Name only types of
            packages that you trust with running code.

    Raises:
        EnvironmentFault: skops is not installed, or there is no such file.
        ModelRefused: the file holds other types, or is no file of estimators.

    Example:
        kept = read_estimator("run/head.skops")
        kept.predict(features)
    """
    skops = _skops()
    try:
        unknown = sorted(set(skops.get_untrusted_types(file=str(path))) - set(TRUSTED) - set(trusted))
        state = None if unknown else skops.load(str(path), trusted=[*TRUSTED, *trusted])
    except OSError as error:
        raise EnvironmentFault(f"{path} cannot be read: {error}.") from error
    except Exception as error:
        raise ModelRefused(f"{path}: expected estimators in a skops file. Received: {error}.") from error
    if unknown:
        names = ", ".join(unknown)
        raise ModelRefused(
            f"{path} holds types that are not known to be harmless: {names}. If you trust where the file "
            "comes from, name them: read_estimator(path, trusted=[...])."
        )
    if not isinstance(state, dict) or set(state) != _KEYS:
        raise ModelRefused(f"{path}: expected a head of regraft's. Received: {type(state).__name__}.")
    link = Link(state["activation"], state["gain"], state["shift"])
    return Kept(tuple(state["estimators"]), state["task"], state["units"], link)


def _skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise EnvironmentFault(
            'Heads of scikit-learn are kept with skops, which is not installed: pip install "regraft[skops]".'
        ) from error
    return skops.io


def _decisions(estimator: Any, data: Matrix, task: str) -> Matrix:
    """Of one estimator: (n, classes) for several classes, (n,) for two, for numbers what `predict` gives."""
    if task == "regression":
        return np.asarray(estimator.predict(data), np.float64)
    if hasattr(estimator, "predict_proba"):
        shares = np.clip(np.asarray(estimator.predict_proba(data), np.float64), SMALLEST, 1 - SMALLEST)
        return np.log(shares) if task == "multiclass" else np.log(shares[:, 1] / shares[:, 0])
    if hasattr(estimator, "decision_function"):
        values = np.asarray(estimator.decision_function(data), np.float64)
        if values.shape[1:] == ((len(estimator.classes_),) if task == "multiclass" else ()):
            return values
    labels = np.asarray(estimator.predict(data)).astype(np.int64)
    one_hot: Matrix = np.eye(len(estimator.classes_))[labels]
    return one_hot if task == "multiclass" else one_hot[:, 1] - one_hot[:, 0]
