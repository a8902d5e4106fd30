"""Decision rules: what a solved head computes, once in NumPy and once as plain Keras layers.

| rule | decision values of standardised features z |
|---|---|
| `Linear` | z W + b |
| `Kernel` | exp(-gamma |z - s|^2) of support vectors s, times dual coefficients; classes vote in pairs |
| `Neighbours` | the weighted mean of the targets of the k nearest training images |

The graph is float32 and made of Keras' own layers and operations: a saved model holds no class of regraft's.

A head that is one Dense layer, as arrays: what it answers, without Keras.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "OUTPUT",
    "Kernel",
    "Linear",
    "LinearHead",
    "Link",
    "Neighbours",
    "Rule",
    "Scaler",
    "decisions_of_pairs",
]


Matrix = NDArray[np.float64]

OUTPUT = "head_output"  # name of the Dense layer that answers

SAME = 1e-6  # squared distance, in parts of the squared lengths, below which two float32 vectors are one
CLOSEST = 1e-10  # squared distance that stands for none, so that such a neighbour outvotes all others


@dataclass(frozen=True)
class Scaler:
    """Standardises features: (features - mean) / scale, both of shape (d,)."""

    mean: Matrix
    scale: Matrix

    @classmethod
    def of(cls, features: Matrix, blocks: Sequence[int] = ()) -> Scaler:
        """Mean and standard deviation of each column; 1 for one that is constant, which says nothing.

        Args:
            features: shape (n, d).
            blocks: columns of each block of features, where there are several: all get the same variance in
                sum, so that a wide one does not outweigh the others. That of all together stays d.
        """
        return cls.from_spread(features.mean(0), features.std(0), blocks)

    @classmethod
    def from_spread(cls, mean: Matrix, deviation: Matrix, blocks: Sequence[int] = ()) -> Scaler:
        """The same from the mean and standard deviation of each column, (d,)."""
        scale = deviation.copy()
        widths = np.array(blocks or [len(scale)])
        for block in np.split(scale, np.cumsum(widths)[:-1]):  # views of it
            block[block < 1e-6 * max(float(block.max()), 1e-12)] = 1.0
            block[:] *= np.sqrt(len(block) * len(widths) / widths.sum())
        return cls(mean, scale)

    @classmethod
    def none(cls, width: int) -> Scaler:
        """Leaves `width` features as they are."""
        return cls(np.zeros(width), np.ones(width))

    def __call__(self, features: NDArray[np.floating[Any]]) -> Matrix:
        scaled: Matrix = (features.astype(np.float64) - self.mean) / self.scale
        return scaled

    def graph(self, features: Any) -> Any:
        """The same on a Keras tensor."""
        import keras

        mean, variance = self.mean.tolist(), (self.scale**2).tolist()
        return keras.layers.Normalization(mean=mean, variance=variance, dtype="float32", name="head_scale")(
            features
        )


@dataclass(frozen=True)
class Link:
    """Answers from decision values: activation(decisions * gain + shift).

    Attributes:
        activation: "softmax", "sigmoid" or "linear".
        gain: one over the temperature, or the standard deviation of a regression's targets; shape (units,).
        shift: the mean of a regression's targets; shape (units,).
    """

    activation: str
    gain: Matrix
    shift: Matrix

    @classmethod
    def none(cls, units: int) -> Link:
        """Leaves decision values as they are."""
        return cls("linear", np.ones(units), np.zeros(units))

    def __call__(self, decisions: Matrix) -> Matrix:
        from scipy.special import expit, softmax

        values = decisions * self.gain + self.shift
        if self.activation == "linear":
            return values
        found: Matrix = softmax(values, axis=1) if self.activation == "softmax" else expit(values)
        return found

    def graph(self, decisions: Any) -> Any:
        """The same on a Keras tensor."""
        import keras

        scale, offset = self.gain.tolist(), self.shift.tolist()
        values = keras.layers.Rescaling(scale, offset, dtype="float32", name="head_gain")(decisions)
        return keras.layers.Activation(self.activation, dtype="float32", name=OUTPUT)(values)


class Rule(Protocol):
    """What a solver finds."""

    def decide(self, data: Matrix) -> Matrix:
        """Decision values (n, units) of standardised features (n, d)."""

    def graph(self, features: Any, scaler: Scaler, link: Link) -> Any:
        """The answers as a Keras tensor, of a Keras tensor (n, d) of features as the backbone gives them."""


@dataclass(frozen=True)
class Linear:
    """data @ weights + bias: weights (d, units), bias (units,)."""

    weights: Matrix
    bias: Matrix

    def decide(self, data: Matrix) -> Matrix:
        found: Matrix = data @ self.weights + self.bias
        return found

    def folded(self, scaler: Scaler, link: Link) -> Linear:
        """The same rule on features as they are, the link's gain and shift in it."""
        weights = self.weights / scaler.scale[:, None]
        return Linear(weights * link.gain, (self.bias - scaler.mean @ weights) * link.gain + link.shift)

    def graph(self, features: Any, scaler: Scaler, link: Link) -> Any:

        whole = self.folded(scaler, link)
        return _dense(features, whole.weights, whole.bias, name=OUTPUT, activation=link.activation)


@dataclass(frozen=True)
class Kernel:
    """Radial kernels at support vectors.

    Attributes:
        gamma: of exp(-gamma |z - s|^2).
        support: shape (s, d), standardised.
        dual: shape (s, units), or (s, pairs) where pairs of classes vote.
        intercept: shape (units,) or (pairs,).
        classes: how many vote in pairs; 0 for none.
    """

    gamma: float
    support: Matrix
    dual: Matrix
    intercept: Matrix
    classes: int = 0

    def decide(self, data: Matrix) -> Matrix:
        from sklearn.metrics.pairwise import rbf_kernel

        found: Matrix = rbf_kernel(data, self.support, gamma=self.gamma) @ self.dual + self.intercept
        return decisions_of_pairs(found, self.classes) if self.classes else found

    def graph(self, features: Any, scaler: Scaler, link: Link) -> Any:
        from keras import ops

        data = scaler.graph(features)
        lengths = -self.gamma * (self.support**2).sum(1)
        crossed = _dense(data, 2 * self.gamma * self.support.T, lengths, name="head_support", trainable=False)
        powers = crossed - self.gamma * ops.sum(ops.square(data), axis=-1, keepdims=True)
        near = ops.exp(ops.minimum(powers, 0.0))
        if self.classes:
            pairs = _dense(near, self.dual, self.intercept, name="head_pairs", trainable=False)
            return link.graph(_votes(pairs, self.classes))
        dual, bias = self.dual * link.gain, self.intercept * link.gain + link.shift
        return _dense(near, dual, bias, name=OUTPUT, activation=link.activation, trainable=False)


@dataclass(frozen=True)
class Neighbours:
    """The k nearest training images.

    Attributes:
        stored: shape (n, d), standardised, or of length 1 each where `metric` is "cosine".
        table: shape (n, units + 1): weight times targets, and the weight, of each stored image.
        k: how many neighbours answer.
        weights: "uniform", or "distance" for one over the distance.
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
        distances, places = finder.kneighbors(normalize(data) if self.metric == "cosine" else data)
        near = (
            np.ones_like(distances) if self.weights == "uniform" else 1 / np.maximum(distances, CLOSEST**0.5)
        )
        votes = (near[:, :, None] * self.table[places]).sum(1)
        found: Matrix = votes[:, :-1] / votes[:, -1:]
        return found

    def graph(self, features: Any, scaler: Scaler, link: Link) -> Any:
        import keras
        from keras import ops

        data = scaler.graph(features)
        if self.metric == "cosine":
            squares = ops.sum(ops.square(data), axis=-1, keepdims=True)  # a saved ops.norm fails on JAX
            data = data * ops.rsqrt(ops.maximum(squares, 1e-24))
        lengths, own = (self.stored**2).sum(1), ops.sum(ops.square(data), axis=-1, keepdims=True)
        closeness = _dense(data, 2 * self.stored.T, -lengths, name="head_stored", trainable=False)
        nearest, places = ops.top_k(closeness, self.k)
        squares = own - nearest  # |z|^2 + |s|^2 - 2 z.s
        look_up = keras.layers.Embedding(
            *self.table.shape, trainable=False, dtype="float32", name="head_table"
        )
        look_up.build(places.shape)
        look_up.set_weights([self.table])
        votes = look_up(places)
        if self.weights == "distance":
            apart = ops.where(squares < SAME * own, CLOSEST, ops.maximum(squares, CLOSEST))
            votes = votes * ops.expand_dims(ops.rsqrt(apart), -1)
        votes = ops.sum(votes, axis=1)
        return link.graph(votes[:, :-1] / votes[:, -1:])


def decisions_of_pairs(pairs: Matrix, classes: int) -> Matrix:
    """One decision value a class from one a pair of classes, shape (n, pairs) to (n, classes).

    The votes of the pairs, and a fraction in (-1/3, 1/3) made of their confidences that breaks ties:
    `decision_function_shape="ovr"` of scikit-learn's `SVC`. The pairs are (0, 1), (0, 2), ... (1, 2), ...
    """
    sides, second = _sides(classes)
    votes = (pairs >= 0) @ sides + second
    confidence = pairs @ sides
    found: Matrix = votes + confidence / (3 * (np.abs(confidence) + 1))
    return found


def _votes(pairs: Any, classes: int) -> Any:
    """`decisions_of_pairs` on a Keras tensor."""
    from keras import ops

    sides, second = _sides(classes)
    won = ops.cast(ops.greater_equal(pairs, 0.0), "float32")
    votes = _dense(won, sides, second, name="head_votes", trainable=False)
    confidence = _dense(pairs, sides, np.zeros(classes), name="head_confidence", trainable=False)
    return votes + confidence / (3.0 * (ops.abs(confidence) + 1.0))


def _sides(classes: int) -> tuple[Matrix, Matrix]:
    """+1 for a pair's first class, -1 for its second, (pairs, classes); how often each is the second."""
    first, second = np.triu_indices(classes, 1)
    sides = np.eye(classes)[first] - np.eye(classes)[second]
    return sides, np.eye(classes)[second].sum(0)


def _dense(
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


Floats = NDArray[np.float32]


@dataclass(frozen=True)
class LinearHead:
    """activation(features @ kernel + bias), then * scale + offset where targets have units.

    Attributes:
        kernel, bias: float32 of shapes (d, units) and (units,), as the Dense layer holds them.
        activation: "softmax", "sigmoid" or "linear".
        scale, offset: of shape (units,); None for answers as they are.

    Example:
        >>> LinearHead(np.eye(2, dtype=np.float32), np.zeros(2, np.float32), "softmax").answers(
        ...     [np.array([[0.0, 0.0]], np.float32)]
        ... ).tolist()
        [[0.5, 0.5]]
    """

    kernel: Floats
    bias: Floats
    activation: str
    scale: Floats | None = None
    offset: Floats | None = None

    @classmethod
    def solved(
        cls,
        kernel: NDArray[np.floating[Any]],
        bias: NDArray[np.floating[Any]],
        activation: str,
        units: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> LinearHead:
        """From weights that answer in the targets' own units.

        Args:
            kernel, bias: of shapes (d, units) and (units,).
            activation: see above.
            units: scale and offset that a layer behind the Dense one puts back, each (units,).
        """
        if units is None:
            return cls(kernel.astype(np.float32), bias.astype(np.float32), activation)
        scale, offset = (np.asarray(each, np.float32) for each in units)
        return cls(
            (kernel / scale).astype(np.float32),
            ((bias - offset) / scale).astype(np.float32),
            activation,
            scale,
            offset,
        )

    def answers(self, inputs: Sequence[NDArray[Any]]) -> Floats:
        """Answers (n, units), float32, to features: arrays (n, ...), side by side."""
        features = np.concatenate([np.asarray(block, np.float32) for block in inputs], 1)
        values: Floats = features @ self.kernel + self.bias
        if self.activation == "softmax":
            values = np.exp(values - values.max(1, keepdims=True))
            values /= values.sum(1, keepdims=True)
        elif self.activation == "sigmoid":
            values = (0.5 + 0.5 * np.tanh(0.5 * values)).astype(np.float32)  # no overflow
        return values if self.scale is None or self.offset is None else values * self.scale + self.offset
