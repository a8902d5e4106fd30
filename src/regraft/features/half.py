"""float32 rows -> float16 and an exponent a row, and back: eleven significant bits in half the bytes.

A row is divided by a power of two, chosen by its largest value, so that float16's range does not limit it.
What a row becomes depends on that row alone. A value then differs from the original by at most 2^-11 of
itself; one below 2^-28 of the row's largest may become 0, far below the error of the float32 sums it is from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["pack", "unpack"]

Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Exponents = NDArray[np.int8]

_TOP = 15  # the largest value of a divided row lies in 2^14..2^15
_LEAST, _MOST = -112, 15  # exponents with which `unpack` is exact
_EXPONENT_BITS = np.uint16(0x7C00)


def pack(rows: Floats) -> tuple[Halves | Floats, Exponents]:
    """Rows as float16 and exponents, for `unpack`.

    A row that has a value not finite, or of 2^30 or more, keeps all its bits. Then the result is float32 for
    all, the other rows with the very values that `unpack` would give.

    Args:
        rows: (n, ...).

    Example:
        >>> half, exponents = pack(np.array([[0.1, 300_000]], np.float32))
        >>> half.dtype, unpack(half, exponents).tolist()
        (dtype('float16'), [[0.0999755859375, 300032.0]])
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    peak = np.maximum(flat.max(1, initial=0), -flat.min(1, initial=0))
    fits = peak < 2.0 ** (_TOP + _MOST)  # not so where it is not a number
    found = np.frexp(np.where(fits, peak, 0))[1] - _TOP
    exponents = np.clip(found, _LEAST, _MOST).astype(np.int8)
    with np.errstate(over="ignore", invalid="ignore"):  # in rows that do not fit
        half = (flat * _power(-exponents.astype(np.int32))).astype(np.float16)
    bits = half.view(np.uint16)
    bits *= (bits & _EXPONENT_BITS) != 0  # no subnormal numbers: they have fewer bits
    if fits.all():
        return half.reshape(rows.shape), exponents
    rounded = np.where(fits[:, None], unpack(half, exponents), flat)
    return rounded.reshape(rows.shape), np.zeros_like(exponents)


def unpack(half: Halves, exponents: Exponents) -> Floats:
    """The float32 rows that `pack` has made smaller: (n, ...)."""
    # The bits are moved to float32's places and the rest of its exponent is multiplied in: `astype` takes
    # three times as long.
    bits = np.ascontiguousarray(half).reshape(len(half), -1).view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # the copies of the sign go, but for the first
    rows = bits.view(np.float32)
    rows *= _power(exponents.astype(np.int32) + 112)
    return rows.reshape(half.shape)


def _power(exponents: NDArray[np.int32]) -> Floats:
    """2 to the power of each, exactly: (n, 1)."""
    return np.ldexp(np.float32(1), exponents)[:, None]
