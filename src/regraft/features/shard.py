"""One file of the store: tensors of some images, written once, with a checksum an image.

The file is .npy arrays one behind the other, without pickle:

| array | what it holds |
|---|---|
| head | uint8, JSON: name and type of each tensor as it was given |
| index | a record an image: digest, exponents, checksum |
| a tensor each | (n, ...): a row an image; float32 as float16, see `pack` |

An image's checksum covers its rows, its record and the head, and how all of them are to be read.
"""

from __future__ import annotations

import io
import json
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.system.cache_dir import InMemory

__all__ = ["Shard", "as_bytes", "pack", "unpack", "write_shard"]

Array = NDArray[Any]

BLOCK = 8 * 2**20  # bytes of rows that are checked at a time


class Column(NamedTuple):
    """Where in the file a tensor lies: type on disk and as given, shape of a row, bytes before the first."""

    stored: np.dtype[Any]
    given: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def row_bytes(self) -> int:
        return self.stored.itemsize * int(np.prod(self.shape))


def as_bytes(digests: Sequence[str]) -> NDArray[np.bytes_]:
    """Digests of 32 hexadecimal digits as 16 bytes each.

    >>> as_bytes(["61" * 16]).tolist()
    [b'aaaaaaaaaaaaaaaa']
    """
    return np.frombuffer(bytes.fromhex("".join(digests)), "S16", len(digests))


def write_shard(file: IO[bytes], digests: Sequence[str], tensors: Mapping[str, Array]) -> None:
    """Write a shard: `tensors[name]` has a row for each digest.

    Raises:
        ValueError: an array of Python objects.
    """
    records = np.zeros(len(digests), _record(len(tensors)))
    records["digest"] = as_bytes(digests)
    columns = []
    for number, array in enumerate(tensors.values()):
        column = np.ascontiguousarray(array)
        if column.dtype.hasobject:
            raise ValueError("Object arrays are not stored: that would take pickle.")
        if column.dtype == np.float32:
            column, records["exponents"][:, number] = pack(column)
        columns.append(column)
    head = json.dumps([[name, array.dtype.str] for name, array in tensors.items()]).encode()
    begin = _begin(head, [(column.dtype, column.shape[1:]) for column in columns])
    records["checksum"] = _checksums(records, begin, columns)
    for array in (np.frombuffer(head, np.uint8), records, *columns):
        _write(file, array)


class Shard:
    """A shard on disk. Which of its rows are what was written, `sound` tells.

    Args:
        path: its file; not held open.

    Raises:
        Exception: of any kind, where the file is none or damaged outside the rows.
    """

    def __init__(self, path: Path | InMemory) -> None:
        self._path = path
        with path.open("rb") as file:
            head = _read(file).tobytes()
            self._records = _read(file)
            self._columns: dict[str, Column] = {}
            for name, given in json.loads(head):
                (count, *shape), stored = _read_header(file)
                column = Column(stored, np.dtype(given), tuple(shape), file.tell())
                self._columns[name] = column
                file.seek(count * column.row_bytes, os.SEEK_CUR)
                if count != len(self._records):
                    raise ValueError(f"{name} has {count} rows of {len(self._records)}")
            if self._records.dtype != _record(len(self._columns)) or self._records.ndim != 1:
                raise ValueError("the index holds something else")
            if file.tell() != file.seek(0, os.SEEK_END):
                raise ValueError("the file ends elsewhere")
        self._begin = _begin(head, [(column.stored, column.shape) for column in self._columns.values()])
        self._checked = np.zeros(len(self._records), bool)
        self._sound = np.zeros(len(self._records), bool)

    @property
    def digests(self) -> NDArray[np.bytes_]:
        """Of its images, as `as_bytes` gives them."""
        digests: NDArray[np.bytes_] = self._records["digest"]
        return digests

    @property
    def usable(self) -> NDArray[np.int64]:
        """The rows that are not known to be damaged, rising."""
        return np.flatnonzero(self._sound | ~self._checked)

    def sound(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these rows are what was written; each is read and checked the first time it is asked for.

        Args:
            rows: rising numbers.
        """
        todo = rows[~self._checked[rows]]
        size = max(1, BLOCK // max(1, sum(column.row_bytes for column in self._columns.values())))
        for at in range(0, len(todo), size):
            block = todo[at : at + size]
            self._checked[block] = True
            try:
                columns = [self._gather(column, block) for column in self._columns.values()]
            except OSError:
                continue
            found = _checksums(self._records[block], self._begin, columns)
            self._sound[block] = self._records["checksum"][block] == found
        return self._sound[rows]

    def damaged(self, rows: NDArray[np.int64]) -> list[bytes]:
        """The digests of those of these rows that were checked and are not what was written."""
        found: list[bytes] = self.digests[rows[self._checked[rows] & ~self._sound[rows]]].tolist()
        return found

    def read(self, name: str, rows: NDArray[np.int64]) -> Array:
        """One tensor of some images, (len(rows), ...), as it was given but for the rounding.

        Raises:
            KeyError: no such tensor.
            OSError: the file cannot be read.
        """
        column = self._columns[name]
        raw = self._gather(column, rows)
        if column.stored == column.given:
            return raw
        return unpack(raw, self._records["exponents"][rows, list(self._columns).index(name)])

    def _gather(self, column: Column, rows: NDArray[np.int64]) -> Array:
        """Rows of a tensor, those that lie one behind the other in one go.

        Not by mapping the file: what is mapped counts as memory of the process until it is let go.
        """
        raw = np.empty((len(rows), column.row_bytes), np.uint8)
        begins = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
        with self._path.open("rb", buffering=0) as file:
            for begin, end in zip(begins, [*begins[1:], len(rows)], strict=True):
                file.seek(column.start + int(rows[begin]) * column.row_bytes)
                if file.readinto(raw[begin:end].data) != (end - begin) * column.row_bytes:
                    raise OSError(f"{self._path} ends too early")
        return raw.view(column.stored).reshape(len(rows), *column.shape)


def _record(tensors: int) -> np.dtype[Any]:
    """The type of an image's record; the checksum comes last, so that the rest of it can be covered."""
    return np.dtype([("digest", "S16"), ("exponents", "i1", (tensors,)), ("checksum", "<u4")])


def _begin(head: bytes, columns: Iterable[tuple[np.dtype[Any], tuple[int, ...]]]) -> int:
    """Where every row's checksum begins: the same bytes in another byte order or shape are something else."""
    words = json.dumps([[stored.str, shape] for stored, shape in columns])
    return zlib.crc32(words.encode(), zlib.crc32(head))


def _checksums(records: Array, begin: int, columns: Sequence[Array]) -> list[int]:
    said, size = memoryview(records.tobytes()), records.itemsize
    covered = size - records.dtype["checksum"].itemsize
    sums = [zlib.crc32(said[at : at + covered], begin) for at in range(0, len(said), size)]
    for column in columns:
        rows = column.reshape(len(column), -1).view(np.uint8)
        sums = [zlib.crc32(row.data, before) for row, before in zip(rows, sums, strict=True)]
    return sums


def _write(file: IO[bytes], array: Array) -> None:
    """One .npy array. NumPy's own `save` does not say why a disk has not taken it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    file.write(header.getvalue())
    file.write(array.data)


def _read(file: IO[bytes]) -> Array:
    found: Array = np.lib.format.read_array(file, allow_pickle=False)
    return found


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the .npy array that begins here; the file then stands where its values begin."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
    shape, by_columns, kind = np.lib.format.read_array_header_1_0(file)
    if by_columns or kind.hasobject:
        raise ValueError("an array that is never written")
    return shape, kind


Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Exponents = NDArray[np.int8]

_TOP = 15  # the largest value of a divided row lies in 2^14..2^15
_LEAST, _MOST = -112, 15  # exponents with which `unpack` is exact
_EXPONENT_BITS = np.uint16(0x7C00)


def pack(rows: Floats) -> tuple[Halves | Floats, Exponents]:
    """Pack rows as float16 and an exponent a row, for `unpack`: eleven significant bits in half the bytes.

    A row is divided by a power of two, chosen by its largest value, so that float16's range does not limit
    it; what it becomes depends on that row alone. A value then differs from the original by at most 2^-11 of
    itself; one below 2^-28 of the row's largest may become 0, far below the error of float32 sums.

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
