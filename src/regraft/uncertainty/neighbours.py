"""How far images are from training images, in the features of a network.

Features are vectors of length 1. Two measurements tell different things:

- outside: which share of the vector, from the mean of the training images, lies outside their principal axes:
  high for images of another kind (Wang et al., ViM: out-of-distribution with virtual-logit matching, 2022);
- far: the distance by the cosine to the k-th nearest training image, with a k of half a class. Directions in
  which the images of one class differ from each other count less, as in a discriminant analysis, so what is
  left tells classes apart: high for a class that training did not show.

References are stored as float16; wide ones are reduced to their principal axes. Copies of an image are no
neighbours of it: they would make every other image look strange.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_GROUP", "Distances", "Metric", "ReferenceVectors", "fit_metric", "scale_to_unit_length"]

NO_GROUP = -1  # the group of an image that has no copy among the references
CHUNK = 1024  # images measured at a time
MAX_SAMPLE = 512  # images that principal axes are computed from
MAX_AXES = 128  # principal axes of all images; of those within a class, half as many
ROWS_PER_AXIS, WIDTHS_PER_AXIS = 4, 10  # images and features that an axis needs; within a class, twice
MAX_AXIS_BYTES = 600_000
CALM = 16.0  # a direction counts half if it varies this many times as much within classes as the others
ALMOST_NONE = 1e-6  # length below which a vector has no direction, and variance of an axis

Floats = NDArray[np.float32]
Groups = NDArray[np.int64]


class Distances(NamedTuple):
    """Measurements of images, each (n,): outside, in 0..1, and far, in 0..2."""

    outside: Floats
    far: Floats


@dataclass(frozen=True)
class Metric:
    """What distances are measured by, learnt from training images.

    Attributes:
        centre: mean of their vectors, (d,).
        axes: principal axes of all images, (d, k).
        inner: principal axes of the images within their classes, in the space of the references, (r, j).
        factors: what is added to 1 for the square of a length along each of these, (j,), in -1..0.
    """

    centre: Floats
    axes: Floats
    inner: Floats
    factors: Floats


def fit_metric(unit: Floats, vectors: Floats, classes: Groups | None) -> Metric:
    """Learn the metric from images.

    Args:
        unit: features of length 1, (n, d).
        vectors: the same in the space of the references, (n, r).
        classes: class numbers, (n,); None if the images have none: all directions then count alike.
    """
    count, width = unit.shape
    centre = unit.mean(0)
    most = min(MAX_AXES, count // ROWS_PER_AXIS, width // WIDTHS_PER_AXIS, MAX_AXIS_BYTES // (2 * width))
    axes = _find_axes(unit - centre, most)[0].astype(np.float16)
    inner, factors = np.zeros((vectors.shape[1], 0), np.float16), np.zeros(0, np.float32)
    if classes is not None:
        numbers = np.unique(classes, return_inverse=True)[1]
        sizes, order = np.bincount(numbers), np.argsort(numbers, kind="stable")
        sums = np.add.reduceat(vectors[order], np.cumsum(sizes) - sizes, axis=0, dtype=np.float64)
        differences = vectors - (sums / sizes[:, None]).astype(np.float32)[numbers]
        axes_within, variances = _find_axes(differences, most // 2)
        rest = float((differences**2).sum()) / count - float(variances.sum())
        calm = CALM * max(rest, 0.0) / (vectors.shape[1] - len(variances)) + ALMOST_NONE**2
        inner, factors = axes_within.astype(np.float16), calm / (variances + calm) - 1
    return Metric(centre, axes.astype(np.float32), inner.astype(np.float32), factors.astype(np.float32))


@dataclass(frozen=True)
class ReferenceVectors:
    """Vectors of training images, and the metric that distances from them are measured by.

    Attributes:
        vectors: float16 (n, r); of length 1, or a little shorter if they were reduced.
        axes: principal axes, float16 (d, r); of shape (0, 0) if nothing was reduced.
        rank: which neighbour the far distance is to, from 1.
        metric: of the distances.
    """

    vectors: NDArray[np.float16]
    axes: NDArray[np.float16]
    rank: int
    metric: Metric

    @classmethod
    def from_features(
        cls, features: NDArray[np.floating[Any]], classes: Groups | None, *, rank: int, max_bytes: int
    ) -> ReferenceVectors:
        """Store features (n, d) in at most so many bytes; see `fit_metric`.

        Example:
            >>> references = ReferenceVectors.from_features(np.eye(3), None, rank=1, max_bytes=99)
            >>> references.measure(np.array([[2.0, 0, 0], [1, 1, 0]])).far.astype(float).round(2).tolist()
            [0.0, 0.54]
        """
        unit = scale_to_unit_length(features)
        count, width = unit.shape
        axes: NDArray[np.float16] = np.zeros((0, 0), np.float16)
        vectors = unit.astype(np.float16)
        if 2 * count * width > max_bytes:
            axes = _find_axes(unit, max(1, max_bytes // (2 * (count + width))))[0].astype(np.float16)
            vectors = (unit @ axes.astype(np.float32)).astype(np.float16)
        return cls(vectors, axes, rank, fit_metric(unit, vectors.astype(np.float32), classes))

    @cached_property
    def _matrix(self) -> Floats:
        return self.vectors.astype(np.float32)

    @cached_property
    def _axes(self) -> Floats:
        return self.axes.astype(np.float32)

    @cached_property
    def _centre(self) -> Floats:
        centre: Floats = self._matrix.mean(0)
        return centre

    @cached_property
    def _along_inner(self) -> Floats:
        centred: Floats = self._matrix - self._centre
        return centred @ self.metric.inner

    @cached_property
    def _lengths(self) -> Floats:
        centred: Floats = self._matrix - self._centre
        return _measure_lengths(centred, self._along_inner, self.metric.factors)

    def find_nearest(
        self, features: NDArray[np.floating[Any]], count: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """Return the rows of the nearest references, (n, count), the nearest first, and their cosines.

        Args:
            features: of new images, (n, d).
            count: how many to find; of fewer references, all.
        """
        cosines = self._project(features) @ self._matrix.T
        rows = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        return rows, np.take_along_axis(cosines, rows, axis=1)

    def measure(
        self,
        features: NDArray[np.floating[Any]],
        *,
        groups: Groups | None = None,
        reference_groups: Groups | None = None,
    ) -> Distances:
        """Return the distances of images.

        Args:
            features: of the images, (n, d).
            groups: the group of each image, (n,); references of the same group do not count.
            reference_groups: the group of each reference, with `groups`.
        """
        parts = []
        for start in range(0, max(1, len(features)), CHUNK):
            rows = slice(start, start + CHUNK)
            is_copy = None
            if groups is not None and reference_groups is not None:
                is_copy = groups[rows, None] == reference_groups
            unit = scale_to_unit_length(features[rows])
            parts.append((self._measure_outside(unit), self._measure_far(self._reduce(unit), is_copy)))
        return Distances(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _project(self, features: NDArray[np.floating[Any]]) -> Floats:
        return self._reduce(scale_to_unit_length(features))

    def _reduce(self, unit: Floats) -> Floats:
        return unit @ self._axes if self.axes.size else unit

    def _measure_outside(self, unit: Floats) -> Floats:
        centred: Floats = unit - self.metric.centre
        lengths = np.linalg.norm(centred, axis=1)
        inside = np.linalg.norm(centred @ self.metric.axes, axis=1)
        outside: Floats = np.where(lengths > ALMOST_NONE, 1 - inside / np.maximum(lengths, ALMOST_NONE), 0)
        return np.maximum(outside, 0)

    def _measure_far(self, vectors: Floats, is_copy: NDArray[np.bool_] | None) -> Floats:
        centred: Floats = vectors - self._centre
        along = centred @ self.metric.inner
        # (z - c).(y - c) is (z - c).y less (z - c).c: no second matrix of centred references
        cosines = centred @ self._matrix.T - (centred @ self._centre)[:, None]
        cosines += (along * self.metric.factors) @ self._along_inner.T
        lengths = _measure_lengths(centred, along, self.metric.factors)
        cosines /= np.maximum(lengths[:, None] * self._lengths, ALMOST_NONE)
        if is_copy is not None:
            cosines[is_copy] = -1
        position = len(self.vectors) - self.rank
        far: Floats = 1 - np.partition(cosines, position, axis=1)[:, position]
        return far


def _measure_lengths(vectors: Floats, along: Floats, factors: Floats) -> Floats:
    """Return the lengths of vectors (n, r) whose squares along the inner axes, (n, j), have factors."""
    lengths: Floats = np.sqrt(np.maximum((vectors**2).sum(1) + along**2 @ factors, 0))
    return lengths


def scale_to_unit_length(features: NDArray[np.floating[Any]]) -> Floats:
    """Return rows of length 1; a row of zeros stays as it is.

    >>> scale_to_unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).round(2).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    values = np.asarray(features, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Floats = (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def _find_axes(vectors: Floats, count: int) -> tuple[Floats, Floats]:
    """Return the first principal axes (d, count) of vectors (n, d) around zero, and the variance along each.

    Fewer vectors have fewer axes.
    """
    sample = vectors[:: -(-len(vectors) // MAX_SAMPLE)]  # a decomposition of thousands would take seconds
    values, sides = np.linalg.eigh((sample @ sample.T).astype(np.float64))
    is_axis = values > max(ALMOST_NONE * values[-1], ALMOST_NONE**2 * len(sample))
    axes = sample.T @ (sides[:, is_axis] / np.sqrt(values[is_axis])).astype(np.float32)
    variances = (values[is_axis] / len(sample)).astype(np.float32)
    return np.ascontiguousarray(axes[:, ::-1][:, :count]), variances[::-1][:count]
