"""How many labels are wrong, and how probably each is: a model of the noise in labels.

An image that is hard to tell and an image with a wrong label both contradict a model. What tells them apart
is how strongly: the scores z of an image (of a model that was solved without it) say softmax(g z) for its
true class c, and the label y is then c with probability N[c, c], another class with N[c, y]. The gain g and
the noise N are fitted together by expectation maximisation, so a hard image is explained by its scores and
only a contradiction that no calibrated scores explain counts as noise. This is the noise channel of
Sukhbaatar et al. (Training convolutional networks with noisy labels, 2015) behind out-of-fold scores, as in
confident learning (Northcutt, Jiang and Chuang, 2021), with one rate of errors that classes share unless
their own counts say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LabelNoise", "fit_label_noise"]

ROUNDS = 40  # of expectation maximisation
START_RATE = 0.02  # of wrong labels
RIGHT_LABELS = 20.0  # prior: as many right labels were seen before the data
SHARED_ERRORS = 3.0  # prior of a class's rate: as many errors at the rate of all classes
SPREAD_ERRORS = 1.0  # prior of a class's confusions: as many errors, spread over the other classes
MAX_NUMBERS = 400_000  # scores that the noise is fitted to; of more rows, every k-th of each class
GAIN_STEP = 0.5  # largest change of the logarithm of the gain in a round
MAX_LOG_GAIN = 3.0
TINY = 1e-300

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LabelNoise:
    """The noise of labels.

    Attributes:
        gain: factor of the scores that makes them logarithms of probabilities, > 0.
        channel: probability of each label (column) for images of each true class (row), shape (classes,
            classes); rows sum to 1.
    """

    gain: float
    channel: Floats

    def predict(self, scores: NDArray[np.floating[Any]]) -> Floats:
        """Return the probabilities of the true class by the scores alone, (n, classes)."""
        return _softmax(self.gain * np.asarray(scores, np.float64))

    def compute_error_probabilities(
        self, scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]
    ) -> Floats:
        """Return the probability that each label is wrong, shape (n,), in 0..1.

        Args:
            scores: shape (n, classes), as for `fit_label_noise`.
            labels: class numbers, shape (n,).
        """
        joint = self.predict(scores) * self.channel[:, labels].T
        right = np.take_along_axis(joint, labels[:, None], 1)[:, 0]
        wrong: Floats = 1 - right / np.maximum(joint.sum(1), TINY)
        return wrong


def fit_label_noise(scores: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]]) -> LabelNoise:
    """Fit the gain of scores and the noise of labels together.

    Args:
        scores: logarithms of probabilities up to a factor and a constant per row, shape (n, classes), of a
            model that was not trained on the row.
        labels: class numbers as they stand, shape (n,).

    Example:
        >>> rng = np.random.default_rng(0)
        >>> truth = np.arange(600) % 3
        >>> labels = np.where(np.arange(600) < 30, (truth + 1) % 3, truth)  # 5 % are wrong
        >>> scores = 3 * np.eye(3)[truth] + rng.normal(size=(600, 3))
        >>> noise = fit_label_noise(scores, labels)
        >>> round(noise.compute_error_probabilities(scores, labels).sum())
        30
    """
    values, labels = _thin_out(np.asarray(scores, np.float64), labels)
    classes = values.shape[1]
    log_gain, channel = 0.0, _make_channel(np.full(classes, START_RATE), np.ones((classes, classes)))
    for _ in range(ROUNDS):
        posterior = _softmax(np.exp(log_gain) * values) * channel[:, labels].T
        posterior /= np.maximum(posterior.sum(1, keepdims=True), TINY)
        counts = np.zeros((classes, classes))  # of images by true class and label, as expected
        np.add.at(counts.T, labels, posterior)
        channel = _update_channel(counts)
        log_gain = _fit_log_gain(values, channel[:, labels].T, log_gain)
    return LabelNoise(float(np.exp(log_gain)), channel)


def _thin_out(values: Floats, labels: NDArray[np.integer[Any]]) -> tuple[Floats, NDArray[np.integer[Any]]]:
    """Return every k-th row of each class, so that there are no more than MAX_NUMBERS scores."""
    step = -(-values.size // MAX_NUMBERS)
    rows = np.argsort(labels, kind="stable")[::step] if step > 1 else slice(None)
    return values[rows], labels[rows]


def _update_channel(counts: Floats) -> Floats:
    """Return the most probable channel for counts of images by true class and label."""
    wrong = counts - np.diag(np.diag(counts))
    rate = wrong.sum() / (counts.sum() + RIGHT_LABELS)
    rates = (wrong.sum(1) + SHARED_ERRORS) / (counts.sum(1) + SHARED_ERRORS / max(float(rate), 1e-6))
    return _make_channel(rates, wrong + SPREAD_ERRORS / max(1, len(counts) - 1))


def _make_channel(rates: Floats, confusions: Floats) -> Floats:
    """Return the channel with these error rates (classes,) and errors spread as confusions are."""
    spread = confusions - np.diag(np.diag(confusions))
    channel: Floats = rates[:, None] * spread / spread.sum(1, keepdims=True) + np.diag(1 - rates)
    return channel


def _fit_log_gain(values: Floats, of_labels: Floats, start: float) -> float:
    """Return the logarithm of the gain that makes the labels most probable.

    Args:
        values: scores, shape (n, classes).
        of_labels: probability of each row's label for each true class, shape (n, classes).
        start: the gain before, from which a round does not move far.
    """
    from scipy.optimize import minimize_scalar

    def measure_loss(log_gain: float) -> float:
        likelihood = (_softmax(np.exp(log_gain) * values) * of_labels).sum(1)
        return -float(np.log(np.maximum(likelihood, TINY)).mean())

    low, high = max(start - GAIN_STEP, -MAX_LOG_GAIN), min(start + GAIN_STEP, MAX_LOG_GAIN)
    return float(minimize_scalar(measure_loss, bounds=(low, high), options={"xatol": 0.01}).x)


def _softmax(values: Floats) -> Floats:
    powers = np.exp(values - values.max(1, keepdims=True))
    answers: Floats = powers / powers.sum(1, keepdims=True)
    return answers
