"""Distances of images from training images, in the features of a network.

Features are vectors of length 1 and stored as float16; wide ones are reduced to their principal axes. Three
distances, all by the cosine, tell different things:

- near, to the nearest training image: high for images of another kind;
- local and far, to the k-th nearest for two k, after the mean of all training images was subtracted, so that
  what all of them share does not count: high for images of another kind, and, with a k of half a class, for
  those of a class that training did not show.

Copies of an image are no neighbours of it: they would make every other image look strange.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["NO_GROUP", "Distances", "ReferenceVectors", "scale_to_unit_length"]

NO_GROUP = -1  # the group of an image that has no copy among the references
CHUNK = 1024  # images measured at a time
MAX_SAMPLE = 512  # images that principal axes are computed from
ALMOST_NONE = 1e-6  # length below which a vector has no direction, and variance of an axis

Floats = NDArray[np.float32]
Groups = NDArray[np.int64]


class Distances(NamedTuple):
    """Distances of images, each (n,), in 0..2: to the nearest reference, and to two farther ones, centred."""

    near: Floats
    local: Floats
    far: Floats


@dataclass(frozen=True)
class ReferenceVectors:
    """Vectors of training images.

    Attributes:
        vectors: float16 (n, r); of length 1, or a little shorter if they were reduced.
        axes: principal axes, float16 (d, r); of shape (0, 0) if nothing was reduced.
        ranks: which neighbours the local and the far distance are to, from 1.
    """

    vectors: NDArray[np.float16]
    axes: NDArray[np.float16]
    ranks: tuple[int, int]

    @classmethod
    def from_features(
        cls, features: NDArray[np.floating[Any]], *, ranks: tuple[int, int], max_bytes: int
    ) -> ReferenceVectors:
        """Store features (n, d) in at most so many bytes.

        Example:
            >>> references = ReferenceVectors.from_features(np.eye(3), ranks=(1, 2), max_bytes=99)
            >>> references.measure(np.array([[2.0, 0, 0], [1, 1, 0]])).near.astype(float).round(2).tolist()
            [0.0, 0.29]
        """
        unit = scale_to_unit_length(features)
        count, width = unit.shape
        if 2 * count * width <= max_bytes:
            return cls(unit.astype(np.float16), np.zeros((0, 0), np.float16), ranks)
        axes = _find_axes(unit, max(1, max_bytes // (2 * (count + width)))).astype(np.float16)
        return cls((unit @ axes.astype(np.float32)).astype(np.float16), axes, ranks)

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
    def _centred_lengths(self) -> Floats:
        lengths: Floats = np.linalg.norm(self._matrix - self._centre, axis=1)
        return lengths

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
            parts.append(self._measure_chunk(self._project(features[rows]), is_copy))
        return Distances(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _project(self, features: NDArray[np.floating[Any]]) -> Floats:
        unit = scale_to_unit_length(features)
        return unit @ self._axes if self.axes.size else unit

    def _measure_chunk(self, vectors: Floats, is_copy: NDArray[np.bool_] | None) -> Distances:
        cosines = vectors @ self._matrix.T
        centre = self._centre
        # (z - c).(y - c) from z.y: no second product of matrices
        from_centre = vectors @ centre
        products = cosines - from_centre[:, None] - self._matrix @ centre + centre @ centre
        lengths = np.linalg.norm(vectors - centre, axis=1)
        centred = products / np.maximum(lengths[:, None] * self._centred_lengths, ALMOST_NONE)
        if is_copy is not None:
            cosines[is_copy] = centred[is_copy] = -1
        positions = [len(self.vectors) - rank for rank in self.ranks]
        ordered = np.partition(centred, sorted(set(positions)), axis=1)
        return Distances(1 - cosines.max(1), *(1 - ordered[:, position] for position in positions))


def scale_to_unit_length(features: NDArray[np.floating[Any]]) -> Floats:
    """Return rows of length 1; a row of zeros stays as it is.

    >>> scale_to_unit_length(np.array([[3.0, 4.0], [0.0, 0.0]])).round(2).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    values = np.asarray(features, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    unit: Floats = (values / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit


def _find_axes(vectors: Floats, count: int) -> Floats:
    """Return the first principal axes (d, count) of vectors (n, d) around zero; fewer of fewer vectors."""
    sample = vectors[:: -(-len(vectors) // MAX_SAMPLE)]  # a decomposition of thousands would take seconds
    values, sides = np.linalg.eigh((sample @ sample.T).astype(np.float64))
    is_axis = values > ALMOST_NONE * values[-1]
    axes = sample.T @ (sides[:, is_axis] / np.sqrt(values[is_axis])).astype(np.float32)
    return np.ascontiguousarray(axes[:, ::-1][:, :count])
