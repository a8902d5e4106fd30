"""Heads that stay scikit-learn estimators, and their file: skops, never pickle.

A file names the types it holds. Types of scikit-learn and NumPy that skops knows, and those listed here, are
read; the reader has to name any other type, because building an unknown type runs unknown code. A tree is an
array of nodes that refer to each other: a forged one runs no code, but may crash the process that uses it.
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

__all__ = ["TRUSTED", "EstimatorHead", "read_estimator", "write_estimator"]

Matrix = NDArray[np.float64]

TRUSTED = (  # types of scikit-learn that skops does not know, and that hold only arrays and numbers
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)
SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1
_KEYS = {"estimators", "task", "units", "activation", "gain", "shift"}


@dataclass(frozen=True)
class EstimatorHead:
    """Fitted estimators and the link that turns their decision values into answers.

    Attributes:
        estimators: one for all outputs, or one per output; a number is the constant decision value of a label
            that every image has or none has.
        task: one of `tasks.TASKS`.
        units: number of values in an answer.
        link: from decision values to answers.
    """

    estimators: tuple[Any, ...]
    task: str
    units: int
    link: Link

    def decide(self, data: Matrix) -> Matrix:
        """Return decision values, shape (n, units): log probabilities or log odds if there are any."""
        if len(self.estimators) == 1 and self.units > 1:
            return _decide(self.estimators[0], data, self.task).reshape(len(data), self.units)
        columns = [
            np.full(len(data), estimator)
            if isinstance(estimator, float)
            else _decide(estimator, data, "regression" if self.task == "regression" else "binary")
            for estimator in self.estimators
        ]
        return np.stack(columns, axis=1)

    def predict(self, features: NDArray[np.floating[Any]]) -> Matrix:
        """Return the answers, shape (n, units), to raw features (n, d)."""
        return self.link(self.decide(features.astype(np.float64)))

    def build_layers(self, features: Any, scaler: Scaler, link: Link) -> Any:
        """Raise: an estimator has no layers."""
        kind = type(self.estimators[0]).__name__
        raise UsageError(
            f"Expected a head that becomes Keras layers. Received: {kind}, which is kept with skops."
        )


def write_estimator(head: EstimatorHead, path: str | PathLike[str]) -> tuple[str, ...]:
    """Write fitted estimators to a skops file.

    Returns:
        The types that a reader has to name in `trusted`: none for scikit-learn's own estimators.

    Raises:
        EnvironmentFault: skops is not installed.
        UsageError: skops cannot write a part of the estimator, such as a lambda.
    """
    skops = _import_skops()
    state = {
        "estimators": list(head.estimators),
        "task": head.task,
        "units": head.units,
        "activation": head.link.activation,
        "gain": head.link.gain,
        "shift": head.link.shift,
    }
    try:
        skops.dump(state, str(path))
    except (TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise UsageError(f"The estimator cannot be kept without pickle: {error}.") from error
    return tuple(sorted(set(skops.get_untrusted_types(file=str(path))) - set(TRUSTED)))


def read_estimator(path: str | PathLike[str], *, trusted: Sequence[str] = ()) -> EstimatorHead:
    """Read a file of `write_estimator`, building only known types.

    Args:
        path: the file.
        trusted: full names of further types to build, as `write_estimator` returned them. Name only types of
            packages whose code you would run.

    Raises:
        EnvironmentFault: skops is not installed, or there is no such file.
        ModelRefused: the file holds other types, or is not a file of estimators.

    Example:
        head = read_estimator("run/head.skops")
        head.predict(features)
    """
    skops = _import_skops()
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
    return EstimatorHead(tuple(state["estimators"]), state["task"], state["units"], link)


def _import_skops() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise EnvironmentFault(
            'Heads of scikit-learn are kept with skops, which is not installed: pip install "regraft[skops]".'
        ) from error
    return skops.io


def _decide(estimator: Any, data: Matrix, task: str) -> Matrix:
    """Return one estimator's decision values: (n, classes) or (n,); for numbers the result of `predict`."""
    if task == "regression":
        return np.asarray(estimator.predict(data), np.float64)
    if hasattr(estimator, "predict_proba"):
        probabilities = np.asarray(estimator.predict_proba(data), np.float64)
        probabilities = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
        if task == "multiclass":
            return np.log(probabilities)
        return np.log(probabilities[:, 1] / probabilities[:, 0])
    if hasattr(estimator, "decision_function"):
        values = np.asarray(estimator.decision_function(data), np.float64)
        if values.shape[1:] == ((len(estimator.classes_),) if task == "multiclass" else ()):
            return values
    labels = np.asarray(estimator.predict(data)).astype(np.int64)
    one_hot: Matrix = np.eye(len(estimator.classes_))[labels]
    return one_hot if task == "multiclass" else one_hot[:, 1] - one_hot[:, 0]
