"""The kinds of target, with a model's answers, the loss and one headline score for each.

| task | targets | answers | loss of a sample | score |
|---|---|---|---|---|
| multiclass | class number, (n,) | softmax, (n, classes) | -ln(probability of the class) | top-1 |
| binary | 0 or 1, (n,) | sigmoid, (n, 1): probability of class 1 | binary cross-entropy | top-1 |
| multilabel | 0 or 1, (n, labels) | sigmoid, (n, labels) | mean binary cross-entropy | mAP |
| regression | numbers, (n, targets) | linear, (n, targets) | mean squared error over the variance | R2 |

Losses compare epochs and penalties on held-out samples, and lower is better; with scores higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.metrics.intervals import Interval
from regraft.metrics.paired import compare_scores
from regraft.metrics.ranking import average_over_columns, average_precision

__all__ = ["TASKS", "Task"]

Floats = NDArray[np.floating[Any]]
_COMPARED = {"top-1": "top1", "mAP": "mAP", "R2": "r2"}  # `score_name` -> its name in `metrics.paired`
MARGIN = 1e-7  # probabilities are clipped to this distance from 0 and 1


@dataclass(frozen=True)
class Task:
    """A kind of target: one row of the table above.

    Attributes:
        name: the name in a recipe.
        activation: Keras' name of the output layer's activation.
        loss: Keras' name of the loss on encoded targets.
        score_name: the name of `score`.
    """

    name: str
    activation: str
    loss: str
    score_name: str
    _losses: Callable[[Floats, Floats], Floats]
    _score: Callable[[Floats, Floats], float]

    def count_units(self, outputs: int) -> int:
        """Return the width of the output layer for this number of classes, labels or targets."""
        return 1 if self.name == "binary" else outputs

    def encode(self, targets: NDArray[Any], outputs: int) -> Floats:
        """Return targets in the shape of answers, (n, units): one-hot for classes.

        They are float32, and float64 for regression: a date in seconds has ten digits.

        >>> TASKS["multiclass"].encode(np.array([2, 0]), 3).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        """
        if self.name == "multiclass":
            one_hot: NDArray[np.float32] = np.eye(outputs, dtype=np.float32)[targets]
            return one_hot
        dtype: Any = np.float64 if self.name == "regression" else np.float32
        encoded: Floats = np.asarray(targets, dtype).reshape(len(targets), self.count_units(outputs))
        return encoded

    def expand_binary(self, answers: NDArray[Any]) -> NDArray[Any]:
        """Return answers with one column for each output: both probabilities where a binary model gives one.

        >>> TASKS["binary"].expand_binary(np.array([[0.25]])).tolist()
        [[0.75, 0.25]]
        """
        return np.concatenate([1 - answers, answers], axis=1) if self.name == "binary" else answers

    def compute_balanced_weights(
        self, encoded: NDArray[Any], weights: NDArray[Any] | None = None
    ) -> NDArray[np.float32]:
        """Return weights of n samples that make rare targets count as much as frequent ones; their mean is 1.

        Classes: n / (classes * samples of the class), shape (n, 1). Labels: likewise for yes and no of each
        label on its own, shape (n, labels), since one sample has rare and frequent labels at once.
        Regression: all 1. With `weights`, (n, 1), of the samples, a sample counts that many times, and the
        product with them balances.

        >>> one_in_four = np.array([[0.0], [0.0], [0.0], [1.0]])
        >>> TASKS["binary"].compute_balanced_weights(one_in_four).astype(float).round(2).tolist()
        [[0.67], [0.67], [0.67], [2.0]]
        """
        if self.name == "regression":
            return np.ones((len(encoded), 1), np.float32)
        n = len(encoded) if weights is None else float(weights.sum())
        yes = encoded.sum(0) if weights is None else (encoded * weights).sum(0)
        if self.name == "multiclass":
            divisor = np.where(yes > 0, yes * np.count_nonzero(yes), 1)
            factors: NDArray[np.float32] = (encoded @ (n / divisor))[:, None].astype(np.float32)
            return factors
        no = n - yes if weights is None else ((1 - encoded) * weights).sum(0)
        is_mixed = (yes > 0) & (no > 0)
        balance = np.where(
            encoded > 0.5, n / np.where(is_mixed, 2 * yes, 1), n / np.where(is_mixed, 2 * no, 1)
        )
        return np.where(is_mixed, balance, 1.0).astype(np.float32)

    def compute_losses(
        self, answers: NDArray[Any], encoded: NDArray[Any], spread: NDArray[Any] | float = 1.0
    ) -> Floats:
        """Return the loss of each sample, shape (n,).

        Args:
            answers: answers of a model, shape (n, units).
            encoded: targets from `encode`.
            spread: standard deviation of the training targets, (units,), for regression; 1 otherwise.
        """
        return self._losses(
            np.asarray(answers, np.float64) / spread, np.asarray(encoded, np.float64) / spread
        )

    def score(self, answers: NDArray[Any], encoded: NDArray[Any]) -> float:
        """Return the headline score of n samples; see the table above.

        >>> TASKS["binary"].score(np.array([[0.9], [0.2]]), np.array([[1.0], [1.0]]))
        0.5
        """
        return self._score(np.asarray(answers, np.float64), np.asarray(encoded, np.float64))

    def compare(
        self, first: NDArray[Any], second: NDArray[Any], encoded: NDArray[Any], *, seed: int = 0
    ) -> Interval | None:
        """Return by how much the headline score of other answers to the same samples is higher.

        Args:
            first, second: answers of two models, (n, units).
            encoded: targets from `encode`.
            seed: of the paired bootstrap that gives the 95 % interval.

        Returns:
            The score of `second` minus that of `first`; None where it is undefined.

        >>> truth = np.array([[1.0], [1.0], [1.0]])
        >>> TASKS["binary"].compare(np.array([[0.9], [0.2], [0.1]]), np.array([[0.8], [0.7], [0.9]]), truth)
        Interval(value=0.6666666666666667, low=0.0, high=1.0)
        """
        truth = {"multiclass": encoded.argmax(1), "binary": encoded[:, 0].astype(np.int64)}
        differences = compare_scores(self.name, truth.get(self.name, encoded), first, second, seed=seed)
        return differences.get(_COMPARED[self.score_name])


def _cross_entropy(answers: Floats, encoded: Floats) -> Floats:
    losses: Floats = -np.log(np.maximum((answers * encoded).sum(1), MARGIN))
    return losses


def _binary_cross_entropy(answers: Floats, encoded: Floats) -> Floats:
    safe = np.clip(answers, MARGIN, 1 - MARGIN)
    losses: Floats = -(encoded * np.log(safe) + (1 - encoded) * np.log(1 - safe)).mean(1)
    return losses


def _squared_error(answers: Floats, encoded: Floats) -> Floats:
    errors: Floats = ((answers - encoded) ** 2).mean(1)
    return errors


def _top1(answers: Floats, encoded: Floats) -> float:
    return float((answers.argmax(1) == encoded.argmax(1)).mean())


def _accuracy(answers: Floats, encoded: Floats) -> float:
    return float(((answers > 0.5) == (encoded > 0.5)).mean())


def _map(answers: Floats, encoded: Floats) -> float:
    mean = average_over_columns(average_precision, encoded, answers)
    return mean.value if mean else math.nan


def _r2(answers: Floats, encoded: Floats) -> float:
    """Return the share of variance that the answers explain, averaged over targets; 0 for a constant one."""
    residual = ((answers - encoded) ** 2).sum(0)
    total = ((encoded - encoded.mean(0)) ** 2).sum(0)
    return float(np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), 0.0).mean())


TASKS = {
    task.name: task
    for task in (
        Task("multiclass", "softmax", "categorical_crossentropy", "top-1", _cross_entropy, _top1),
        Task("binary", "sigmoid", "binary_crossentropy", "top-1", _binary_cross_entropy, _accuracy),
        Task("multilabel", "sigmoid", "binary_crossentropy", "mAP", _binary_cross_entropy, _map),
        Task("regression", "linear", "mean_squared_error", "R2", _squared_error, _r2),
    )
}
