"""The kinds of target: what a model answers to each, what counts as loss, and the one score that sums it up.

| task | targets | answers | loss of a sample | score |
|---|---|---|---|---|
| multiclass | class number, (n,) | softmax, (n, classes) | -ln(probability of the class) | top-1 |
| binary | 0 or 1, (n,) | sigmoid, (n, 1): probability of class 1 | binary cross-entropy | top-1 |
| multilabel | 0 or 1, (n, labels) | sigmoid, (n, labels) | mean binary cross-entropy | mAP |
| regression | numbers, (n, targets) | linear, (n, targets) | mean squared error over the variance | R2 |

Losses are for comparing epochs and penalties on held-out samples: lower is better; scores: higher is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.metrics.ranking import average_precision, mean_of

__all__ = ["TASKS", "Task"]

Floats = NDArray[np.floating[Any]]
SMALLEST = 1e-7  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True)
class Task:
    """One row of the table above.

    Attributes:
        name: as in a recipe.
        activation: of the output layer, a name of Keras.
        loss: name of the Keras loss on encoded targets.
        score_name: what `score` is called.
    """

    name: str
    activation: str
    loss: str
    score_name: str
    _losses: Callable[[Floats, Floats], Floats]
    _score: Callable[[Floats, Floats], float]

    def units(self, outputs: int) -> int:
        """Width of the output layer for so many classes, labels or targets."""
        return 1 if self.name == "binary" else outputs

    def encode(self, targets: NDArray[Any], outputs: int) -> NDArray[np.float32]:
        """Targets in the shape of answers, float32 (n, units): one-hot for classes.

        >>> TASKS["multiclass"].encode(np.array([2, 0]), 3).tolist()
        [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
        """
        if self.name == "multiclass":
            one_hot: NDArray[np.float32] = np.eye(outputs, dtype=np.float32)[targets]
            return one_hot
        return np.asarray(targets, np.float32).reshape(len(targets), self.units(outputs))

    def complete(self, answers: NDArray[Any]) -> NDArray[Any]:
        """Answers with a column an output: of two classes told apart by one probability, that of both.

        >>> TASKS["binary"].complete(np.array([[0.25]])).tolist()
        [[0.75, 0.25]]
        """
        return np.concatenate([1 - answers, answers], axis=1) if self.name == "binary" else answers

    def balanced_weights(self, encoded: NDArray[Any]) -> NDArray[np.float32]:
        """Weights of n samples by which rare answers count as much as frequent ones; their mean is 1.

        Classes: n / (classes * samples of the class), shape (n, 1). Labels: the same for yes and no of each
        label by itself, shape (n, labels); one weight a sample would not do, a sample has rare and frequent
        labels at once. Regression: all 1.

        >>> one_in_four = np.array([[0.0], [0.0], [0.0], [1.0]])
        >>> TASKS["binary"].balanced_weights(one_in_four).astype(float).round(2).tolist()
        [[0.67], [0.67], [0.67], [2.0]]
        """
        n = len(encoded)
        if self.name == "regression":
            return np.ones((n, 1), np.float32)
        if self.name == "multiclass":
            counts = encoded.sum(0)
            share = counts * np.count_nonzero(counts)
            weights: NDArray[np.float32] = (encoded @ (n / np.maximum(share, 1)))[:, None].astype(np.float32)
            return weights
        yes = encoded.sum(0)
        weight = np.where(encoded > 0.5, n / np.maximum(2 * yes, 1), n / np.maximum(2 * (n - yes), 1))
        return np.where((yes > 0) & (yes < n), weight, 1.0).astype(np.float32)

    def losses(
        self, answers: NDArray[Any], encoded: NDArray[Any], spread: NDArray[Any] | float = 1.0
    ) -> Floats:
        """The loss of each sample, shape (n,).

        Args:
            answers: of a model, shape (n, units).
            encoded: from `encode`.
            spread: for regression, the training targets' standard deviation, (units,); otherwise left at 1.
        """
        return self._losses(
            np.asarray(answers, np.float64) / spread, np.asarray(encoded, np.float64) / spread
        )

    def score(self, answers: NDArray[Any], encoded: NDArray[Any]) -> float:
        """The headline score of n samples; see the table.

        >>> TASKS["binary"].score(np.array([[0.9], [0.2]]), np.array([[1.0], [1.0]]))
        0.5
        """
        return self._score(np.asarray(answers, np.float64), np.asarray(encoded, np.float64))


def _cross_entropy(answers: Floats, encoded: Floats) -> Floats:
    chosen: Floats = -np.log(np.maximum((answers * encoded).sum(1), SMALLEST))
    return chosen


def _binary_cross_entropy(answers: Floats, encoded: Floats) -> Floats:
    safe = np.clip(answers, SMALLEST, 1 - SMALLEST)
    losses: Floats = -(encoded * np.log(safe) + (1 - encoded) * np.log(1 - safe)).mean(1)
    return losses


def _squared_error(answers: Floats, encoded: Floats) -> Floats:
    errors: Floats = ((answers - encoded) ** 2).mean(1)
    return errors


def _top1(answers: Floats, encoded: Floats) -> float:
    return float((answers.argmax(1) == encoded.argmax(1)).mean())


def _right(answers: Floats, encoded: Floats) -> float:
    return float(((answers > 0.5) == (encoded > 0.5)).mean())


def _mean_precision(answers: Floats, encoded: Floats) -> float:
    found = mean_of(average_precision, encoded, answers)
    return found.value if found else math.nan


def _determination(answers: Floats, encoded: Floats) -> float:
    """Share of the variance that the answers account for, mean over targets; 0 for a constant one."""
    left = ((answers - encoded) ** 2).sum(0)
    whole = ((encoded - encoded.mean(0)) ** 2).sum(0)
    return float(np.where(whole > 0, 1 - left / np.where(whole > 0, whole, 1), 0.0).mean())


TASKS = {
    task.name: task
    for task in (
        Task("multiclass", "softmax", "categorical_crossentropy", "top-1", _cross_entropy, _top1),
        Task("binary", "sigmoid", "binary_crossentropy", "top-1", _binary_cross_entropy, _right),
        Task("multilabel", "sigmoid", "binary_crossentropy", "mAP", _binary_cross_entropy, _mean_precision),
        Task("regression", "linear", "mean_squared_error", "R2", _squared_error, _determination),
    )
}
