"""What closed forms need of the rows: weighted sums, which add and subtract; and inverses along a path.

The rows a fold trains on are all rows without those it holds out, and so are their sums. The products of all
rows are made once; a fold costs those of the rows it holds out.

Ridge and discriminant analysis solve (a S + shift I) X = B for one S and many a and shift. With S = Q L Q^T,
X = Q (a L + shift)^-1 Q^T B: one decomposition, and where the rows that X is to answer are turned by Q too,
each setting is a division. For a single setting Cholesky's factors are 20 times cheaper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.solvers.cross_validation import Part
from regraft.solvers.decision import Scaler

__all__ = ["Inverse", "Moments", "by_cholesky", "by_eigenvectors", "principal", "principal_axes"]

Matrix = NDArray[Any]
Turn = Callable[[Matrix], Matrix]
Inverse = Callable[[float, Matrix], Matrix]


@dataclass(frozen=True)
class Moments:
    """Weighted sums over rows x with targets y.

    Attributes:
        weight: of all rows.
        first: of x, shape (d,).
        second: of x x^T, (d, d).
        targets: of y, (units,).
        cross: of x y^T, (d, units).
    """

    weight: float
    first: Matrix
    second: Matrix
    targets: Matrix
    cross: Matrix

    @classmethod
    def of(cls, part: Part) -> Moments:
        """The sums over a part, in its precision."""
        data, root = part.data, np.sqrt(part.weights).astype(part.data.dtype)[:, None]
        weighted, targets = root * data, root * part.targets.astype(data.dtype)
        return cls(
            float(part.weights.sum()),
            (root.T @ weighted)[0],
            weighted.T @ weighted,
            part.weights @ part.targets,
            weighted.T @ targets,
        )

    def __sub__(self, other: Moments) -> Moments:
        """The sums over the rows that are in this one and not in the other."""
        return Moments(
            self.weight - other.weight,
            self.first - other.first,
            self.second - other.second,
            self.targets - other.targets,
            self.cross - other.cross,
        )

    def standardised(self, scaler: Scaler) -> Moments:
        """The sums over (x - mean) / scale, where the scaler's mean is that of these rows."""
        kind = self.first.dtype
        scale = scaler.scale.astype(kind)
        return Moments(
            self.weight,
            np.zeros_like(self.first),
            self.covariance * kind.type(self.weight) / np.outer(scale, scale),
            self.targets,
            self.relation * kind.type(self.weight) / scale[:, None],
        )

    @property
    def mean(self) -> Matrix:
        """Of x, (d,)."""
        mean: Matrix = self.first / self.first.dtype.type(self.weight)
        return mean

    @property
    def level(self) -> Matrix:
        """Mean of y, (units,)."""
        return self.targets / self.weight

    @property
    def covariance(self) -> Matrix:
        """Of x with x, (d, d)."""
        found: Matrix = self.second / self.first.dtype.type(self.weight) - np.outer(self.mean, self.mean)
        return found

    @property
    def relation(self) -> Matrix:
        """Covariance of x with y, (d, units)."""
        kind = self.first.dtype
        found: Matrix = self.cross / kind.type(self.weight) - np.outer(self.mean, self.level.astype(kind))
        return found


def by_eigenvectors(matrix: Matrix, right: Matrix) -> tuple[Inverse, Turn]:
    """(a matrix + shift)^-1 right, (d, units), for many a and shifts, one or one a column of the right.

    What comes back is along the eigenvectors, where it costs a division; and so is whatever is to be
    multiplied by it, once it was turned: the second function, of (d, ...).
    """
    squares, axes = _eigen(matrix)
    along = axes.T @ right

    def solve(share: float, shift: Matrix) -> Matrix:
        found: Matrix = (along / (share * np.maximum(squares, 0)[:, None] + shift)).astype(axes.dtype)
        return found

    return solve, lambda values: axes.T @ values


def by_cholesky(matrix: Matrix, right: Matrix) -> tuple[Inverse, Turn]:
    """The same for a few; nothing is turned."""
    from scipy.linalg import cho_factor, cho_solve

    def solve(share: float, shift: Matrix) -> Matrix:
        found = np.empty_like(right)
        shifts = np.broadcast_to(shift, right.shape[1])
        for each in np.unique(shifts):
            shifted = share * matrix
            shifted.flat[:: len(matrix) + 1] += each
            factors = cho_factor(shifted, overwrite_a=True, check_finite=False)
            found[:, shifts == each] = cho_solve(factors, right[:, shifts == each], check_finite=False)
        return found

    return solve, lambda values: values


def principal(data: Matrix) -> tuple[Matrix, Turn]:
    """Rows turned to their principal axes, those of much variance first, and the way back.

    Args:
        data: shape (n, d).

    Returns:
        The rows along r <= min(n, d) axes, (n, r); and a function from weights along the axes, (r, units),
        to weights of the features, (d, units).
    """
    n, d = data.shape
    floor = 1e-10 if data.dtype == np.float64 else 1e-6
    squares, axes = _eigen(data @ data.T if n < d else data.T @ data)
    squares, axes = squares[::-1], axes[:, ::-1]
    kept = squares > max(float(squares[0]), 1e-12) * floor
    squares, axes = squares[kept], np.ascontiguousarray(axes[:, kept])
    if n < d:
        root = np.sqrt(squares)
        return axes * root, lambda weights: data.T @ ((axes / root) @ weights)
    return data @ axes, lambda weights: axes @ weights


def principal_axes(data: Matrix) -> Matrix:
    """The principal axes of rows (n, d), n >= d, as columns (d, d), those of much variance first."""
    return np.ascontiguousarray(_eigen(data.T @ data)[1][:, ::-1])


def _eigen(matrix: Matrix) -> tuple[Matrix, Matrix]:
    from scipy.linalg import eigh

    squares, axes = eigh(matrix, overwrite_a=True, check_finite=False, driver="evd")
    return squares, axes
