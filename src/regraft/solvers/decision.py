"""Decision rules: what a solved head computes, in NumPy and as plain Keras layers.

| rule | decision values of standardised features z |
|---|---|
| `Linear` | z W + b |
| `Kernel` | exp(-gamma |z - s|^2) of support vectors s, times dual coefficients; classes vote in pairs |
| `Neighbours` | the weighted mean of the targets of the k nearest training images |

A scaler stands in front of the rule and a link behind it. The layers are float32 and Keras' own, so a saved
model holds no class of regraft's. `LinearHead` answers as a single Dense layer does, without Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "HEAD_OUTPUT", "Kernel", "Linear", "LinearHead", "Link", "Neighbours", "Rule", "Scaler", "vote_pairs",
]  # fmt: skip

Matrix = NDArray[np.float64]
Floats = NDArray[np.float32]

HEAD_OUTPUT = "head_output"  # name of the Dense layer that answers
SAME = 1e-6  # squared distance, relative to the squared lengths, below which two float32 vectors are equal
CLOSEST = 1e-10  # least squared distance: a neighbour at distance 0 outvotes all others


@dataclass(frozen=True)
class Scaler:
    """Standardise features: (features - mean) / scale, both of shape (d,)."""

    mean: Matrix
    scale: Matrix

    @classmethod
    def from_features(
        cls, features: Matrix, blocks: Sequence[int] = (), weights: Matrix | None = None
    ) -> Scaler:
        """Take the mean and standard deviation of each column; a constant column has scale 1.

        Args:
            features: shape (n, d).
            blocks: columns of each block of features, if there are several: each block gets the same total
                variance, so that a wide one does not outweigh the others. The sum over all blocks is d.
            weights: how often each row counts, (n,); None for once.
        """
        if weights is not None and np.ptp(weights) > 0:
            mean = np.average(features, 0, weights)
            return cls.from_moments(mean, np.sqrt(np.average((features - mean) ** 2, 0, weights)), blocks)
        return cls.from_moments(features.mean(0), features.std(0), blocks)

    @classmethod
    def from_moments(cls, mean: Matrix, deviation: Matrix, blocks: Sequence[int] = ()) -> Scaler:
        """Do the same with a known mean and standard deviation of each column, (d,)."""
        scale = deviation.copy()
        widths = np.array(blocks or [len(scale)])
        for block in np.split(scale, np.cumsum(widths)[:-1]):  # views of `scale`
            block[block < 1e-6 * max(float(block.max()), 1e-12)] = 1.0
            block[:] *= np.sqrt(len(block) * len(widths) / widths.sum())
        return cls(mean, scale)

    @classmethod
    def identity(cls, width: int) -> Scaler:
        """Return a scaler that leaves `width` features unchanged."""
        return cls(np.zeros(width), np.ones(width))

    def __call__(self, features: NDArray[np.floating[Any]]) -> Matrix:
        scaled: Matrix = (features.astype(np.float64) - self.mean) / self.scale
        return scaled

    def build_layers(self, features: Any) -> Any:
        """Standardise a Keras tensor."""
        import keras

        mean, variance = self.mean.tolist(), (self.scale**2).tolist()
        return keras.layers.Normalization(mean=mean, variance=variance, dtype="float32", name="head_scale")(
            features
        )


@dataclass(frozen=True)
class Link:
    """Turn decision values into answers: activation(decisions * gain + shift).

    Attributes:
        activation: "softmax", "sigmoid" or "linear".
        gain: 1 / temperature, or the standard deviation of a regression's targets; shape (units,).
        shift: mean of a regression's targets, else 0; shape (units,).
    """

    activation: str
    gain: Matrix
    shift: Matrix

    @classmethod
    def identity(cls, units: int) -> Link:
        """Return a link that leaves decision values unchanged."""
        return cls("linear", np.ones(units), np.zeros(units))

    def __call__(self, decisions: Matrix) -> Matrix:
        from scipy.special import expit, softmax

        values = decisions * self.gain + self.shift
        if self.activation == "linear":
            return values
        answers: Matrix = softmax(values, axis=1) if self.activation == "softmax" else expit(values)
        return answers

    def build_layers(self, decisions: Any) -> Any:
        """Turn a Keras tensor of decision values into answers."""
        import keras

        scale, offset = self.gain.tolist(), self.shift.tolist()
        values = keras.layers.Rescaling(scale, offset, dtype="float32", name="head_gain")(decisions)
        return keras.layers.Activation(self.activation, dtype="float32", name=HEAD_OUTPUT)(values)


class Rule(Protocol):
    """A solution: a function from features to decision values."""

    def decide(self, data: Matrix) -> Matrix:
        """Return the decision values (n, units) of standardised features (n, d)."""

    def build_layers(self, features: Any, scaler: Scaler, link: Link) -> Any:
        """Return the answers to a Keras tensor (n, d) of raw features, as a Keras tensor."""


@dataclass(frozen=True)
class Linear:
    """A linear rule: data @ weights + bias, with weights (d, units) and bias (units,)."""

    weights: Matrix
    bias: Matrix

    def decide(self, data: Matrix) -> Matrix:
        decisions: Matrix = data @ self.weights + self.bias
        return decisions

    def absorb(self, scaler: Scaler, link: Link) -> Linear:
        """Return the same rule for raw features, with the link's gain and shift included."""
        weights = self.weights / scaler.scale[:, None]
        return Linear(weights * link.gain, (self.bias - scaler.mean @ weights) * link.gain + link.shift)

    def build_layers(self, features: Any, scaler: Scaler, link: Link) -> Any:
        rule = self.absorb(scaler, link)
        return _apply_dense(features, rule.weights, rule.bias, name=HEAD_OUTPUT, activation=link.activation)


@dataclass(frozen=True)
class Kernel:
    """A sum of radial kernels at support vectors.

    Attributes:
        gamma: width of the kernel exp(-gamma |z - s|^2).
        support: support vectors, shape (s, d), standardised.
        dual: coefficients, shape (s, units), or (s, pairs) if pairs of classes vote.
        intercept: shape (units,) or (pairs,).
        classes: number of classes that vote in pairs; 0 if none do.
    """

    gamma: float
    support: Matrix
    dual: Matrix
    intercept: Matrix
    classes: int = 0

    def decide(self, data: Matrix) -> Matrix:
        from sklearn.metrics.pairwise import rbf_kernel

        decisions: Matrix = rbf_kernel(data, self.support, gamma=self.gamma) @ self.dual + self.intercept
        return vote_pairs(decisions, self.classes) if self.classes else decisions

    def build_layers(self, features: Any, scaler: Scaler, link: Link) -> Any:
        from keras import ops

        data = scaler.build_layers(features)
        kernel, lengths = 2 * self.gamma * self.support.T, -self.gamma * (self.support**2).sum(1)
        products = _apply_dense(data, kernel, lengths, name="head_support", trainable=False)
        powers = products - self.gamma * ops.sum(ops.square(data), axis=-1, keepdims=True)
        near = ops.exp(ops.minimum(powers, 0.0))
        if self.classes:
            pairs = _apply_dense(near, self.dual, self.intercept, name="head_pairs", trainable=False)
            return link.build_layers(_vote_pairs_in_layers(pairs, self.classes))
        dual, bias = self.dual * link.gain, self.intercept * link.gain + link.shift
        return _apply_dense(near, dual, bias, name=HEAD_OUTPUT, activation=link.activation, trainable=False)


@dataclass(frozen=True)
class Neighbours:
    """A vote of the k nearest training images.

    Attributes:
        stored: features of the training images, shape (n, d), standardised; scaled to length 1 if `metric` is
            "cosine".
        table: weight times targets, and the weight, of each stored image; shape (n, units + 1).
        k: number of neighbours that answer.
        weights: "uniform", or "distance" for 1 / distance.
        metric: "euclidean", or "cosine": the Euclidean distance of vectors scaled to length 1.
    """

    stored: Matrix
    table: Matrix
    k: int
    weights: str
    metric: str

    def decide(self, data: Matrix) -> Matrix:
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import normalize

        finder = NearestNeighbors(n_neighbors=self.k, algorithm="brute").fit(self.stored)
        distances, rows = finder.kneighbors(normalize(data) if self.metric == "cosine" else data)
        near = (
            np.ones_like(distances) if self.weights == "uniform" else 1 / np.maximum(distances, CLOSEST**0.5)
        )
        votes = (near[:, :, None] * self.table[rows]).sum(1)
        decisions: Matrix = votes[:, :-1] / votes[:, -1:]
        return decisions

    def build_layers(self, features: Any, scaler: Scaler, link: Link) -> Any:
        import keras
        from keras import ops

        data = scaler.build_layers(features)
        if self.metric == "cosine":
            squares = ops.sum(ops.square(data), axis=-1, keepdims=True)  # a saved ops.norm fails on JAX
            data = data * ops.rsqrt(ops.maximum(squares, 1e-24))
        lengths, own = (self.stored**2).sum(1), ops.sum(ops.square(data), axis=-1, keepdims=True)
        closeness = _apply_dense(data, 2 * self.stored.T, -lengths, name="head_stored", trainable=False)
        nearest, rows = ops.top_k(closeness, self.k)
        squares = own - nearest  # |z|^2 + |s|^2 - 2 z.s
        look_up = keras.layers.Embedding(
            *self.table.shape, trainable=False, dtype="float32", name="head_table"
        )
        look_up.build(rows.shape)
        look_up.set_weights([self.table])
        votes = look_up(rows)
        if self.weights == "distance":
            apart = ops.where(squares < SAME * own, CLOSEST, ops.maximum(squares, CLOSEST))
            votes = votes * ops.expand_dims(ops.rsqrt(apart), -1)
        votes = ops.sum(votes, axis=1)
        return link.build_layers(votes[:, :-1] / votes[:, -1:])


@dataclass(frozen=True)
class LinearHead:
    """A head of one Dense layer: activation(features @ kernel + bias), then * scale + offset for numbers.

    Attributes:
        kernel, bias: weights of the Dense layer, float32 of shapes (d, units) and (units,).
        activation: "softmax", "sigmoid" or "linear".
        scale, offset: the targets' unit, shape (units,); None to leave answers unchanged.

    Example:
        >>> LinearHead(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), "softmax").predict(
        ...     [np.array([[0.0, 0.0]], np.float32)]
        ... ).tolist()
        [[0.5, 0.5]]
    """

    kernel: Floats
    bias: Floats
    activation: str
    scale: Matrix | None = None
    offset: Matrix | None = None

    @classmethod
    def from_weights(
        cls,
        kernel: NDArray[np.floating[Any]],
        bias: NDArray[np.floating[Any]],
        activation: str,
        units: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> LinearHead:
        """Make the head from weights that answer in the targets' own units.

        Args:
            kernel, bias: shapes (d, units) and (units,).
            activation: see above.
            units: scale and offset of a layer behind the Dense layer, each of shape (units,).
        """
        if units is None:
            return cls(kernel.astype(np.float32), bias.astype(np.float32), activation)
        scale, offset = (np.asarray(values, np.float64) for values in units)
        return cls(
            (kernel / scale).astype(np.float32),
            ((bias - offset) / scale).astype(np.float32),
            activation,
            scale,
            offset,
        )

    def predict(self, inputs: Sequence[NDArray[Any]]) -> NDArray[np.floating[Any]]:
        """Return the answers (n, units) to features: arrays (n, ...) side by side.

        They are float32, and float64 in the targets' own units.
        """
        features = np.concatenate([np.asarray(block, np.float32) for block in inputs], 1)
        values: Floats = features @ self.kernel + self.bias
        if self.activation == "softmax":
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        elif self.activation == "sigmoid":
            values = (0.5 + 0.5 * np.tanh(0.5 * values)).astype(np.float32)  # no overflow
        return values if self.scale is None or self.offset is None else values * self.scale + self.offset


def vote_pairs(pairs: Matrix, classes: int) -> Matrix:
    """Turn decision values of pairs of classes, (n, pairs), into one value per class, (n, classes).

    The value is the number of votes, plus a fraction in (-1/3, 1/3) of the pairs' confidences that breaks
    ties, as `decision_function_shape="ovr"` of scikit-learn's `SVC`. The pairs are (0, 1), (0, 2), ...
    (1, 2), ...
    """
    signs, second_counts = _make_pair_signs(classes)
    votes = (pairs >= 0) @ signs + second_counts
    confidence = pairs @ signs
    decisions: Matrix = votes + confidence / (3 * (np.abs(confidence) + 1))
    return decisions


def _vote_pairs_in_layers(pairs: Any, classes: int) -> Any:
    """Do what `vote_pairs` does to a Keras tensor."""
    from keras import ops

    signs, second_counts = _make_pair_signs(classes)
    is_won = ops.cast(ops.greater_equal(pairs, 0.0), "float32")
    votes = _apply_dense(is_won, signs, second_counts, name="head_votes", trainable=False)
    confidence = _apply_dense(pairs, signs, np.zeros(classes), name="head_confidence", trainable=False)
    return votes + confidence / (3.0 * (ops.abs(confidence) + 1.0))


def _make_pair_signs(classes: int) -> tuple[Matrix, Matrix]:
    """Return +1 for the first class of a pair and -1 for the second, (pairs, classes).

    The second array counts how often each class is the second of a pair, (classes,).
    """
    first, second = np.triu_indices(classes, 1)
    signs = np.eye(classes)[first] - np.eye(classes)[second]
    return signs, np.eye(classes)[second].sum(0)


def _apply_dense(
    values: Any,
    kernel: Matrix,
    bias: Matrix,
    *,
    name: str,
    activation: str = "linear",
    trainable: bool = True,
) -> Any:
    import keras

    layer = keras.layers.Dense(
        kernel.shape[1], activation=activation, name=name, trainable=trainable, dtype="float32"
    )
    layer.build(values.shape)  # before the first call: a real tensor is answered at once
    layer.set_weights([kernel, bias])
    return layer(values)
