"""One file of the store: tensors of some images, written once, with a checksum for each image.

The file is a sequence of .npy arrays, without pickle:

| array | content |
|---|---|
| head | uint8, JSON: the name and original type of each tensor |
| index | a record for each image: digest, exponents, checksum |
| the tensors | (n, ...) each, a row for each image; float32 as float16, see `pack` |

An image's checksum covers its rows, its record, the head, and the types and shapes by which they are read.
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

from regraft.system.cache_dir import MemoryFile

__all__ = ["Shard", "digests_to_bytes", "pack", "unpack", "write_shard"]

Array = NDArray[Any]

BLOCK = 8 * 2**20  # bytes of rows that are checked at a time


class Column(NamedTuple):
    """A tensor of the file: its types on disk and originally, the shape of a row, and where it starts."""

    stored: np.dtype[Any]
    original: np.dtype[Any]
    shape: tuple[int, ...]
    start: int

    @property
    def row_bytes(self) -> int:
        return self.stored.itemsize * int(np.prod(self.shape))


def digests_to_bytes(digests: Sequence[str]) -> NDArray[np.bytes_]:
    """Convert digests of 32 hexadecimal digits to 16 bytes each.

    >>> digests_to_bytes(["61" * 16]).tolist()
    [b'aaaaaaaaaaaaaaaa']
    """
    return np.frombuffer(bytes.fromhex("".join(digests)), "S16", len(digests))


def write_shard(file: IO[bytes], digests: Sequence[str], tensors: Mapping[str, Array]) -> None:
    """Write a shard; `tensors[name]` has a row for each digest.

    Raises:
        ValueError: a tensor holds Python objects.
    """
    records = np.zeros(len(digests), _record_type(len(tensors)))
    records["digest"] = digests_to_bytes(digests)
    columns = []
    for number, array in enumerate(tensors.values()):
        column = np.ascontiguousarray(array)
        if column.dtype.hasobject:
            raise ValueError("Object arrays are not stored: that would take pickle.")
        if column.dtype == np.float32:
            column, records["exponents"][:, number] = pack(column)
        columns.append(column)
    head = json.dumps([[name, array.dtype.str] for name, array in tensors.items()]).encode()
    start = _start_checksum(head, [(column.dtype, column.shape[1:]) for column in columns])
    records["checksum"] = _compute_checksums(records, start, columns)
    for array in (np.frombuffer(head, np.uint8), records, *columns):
        _write(file, array)


class Shard:
    """A shard on disk, whose rows are checked when they are first used.

    Args:
        path: its file, which is not kept open.

    Raises:
        Exception: of any kind, if it is not a shard or damaged outside the rows.
    """

    def __init__(self, path: Path | MemoryFile) -> None:
        self._path = path
        with path.open("rb") as file:
            head = _read(file).tobytes()
            self._records = _read(file)
            self._columns: dict[str, Column] = {}
            for name, original in json.loads(head):
                (count, *shape), stored = _read_header(file)
                column = Column(stored, np.dtype(original), tuple(shape), file.tell())
                self._columns[name] = column
                file.seek(count * column.row_bytes, os.SEEK_CUR)
                if count != len(self._records):
                    raise ValueError(f"{name} has {count} rows of {len(self._records)}")
            if self._records.dtype != _record_type(len(self._columns)) or self._records.ndim != 1:
                raise ValueError("the index has another type or shape")
            if file.tell() != file.seek(0, os.SEEK_END):
                raise ValueError("the file has another length")
        self._start = _start_checksum(
            head, [(column.stored, column.shape) for column in self._columns.values()]
        )
        self._checked = np.zeros(len(self._records), bool)
        self._sound = np.zeros(len(self._records), bool)

    @property
    def digests(self) -> NDArray[np.bytes_]:
        """The digests of its images, 16 bytes each."""
        digests: NDArray[np.bytes_] = self._records["digest"]
        return digests

    @property
    def usable(self) -> NDArray[np.int64]:
        """The rows that are not known to be damaged, in ascending order."""
        return np.flatnonzero(self._sound | ~self._checked)

    def are_sound(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these rows are as they were written; read and check each at its first use.

        Args:
            rows: ascending numbers.
        """
        unchecked = rows[~self._checked[rows]]
        size = max(1, BLOCK // max(1, sum(column.row_bytes for column in self._columns.values())))
        for start in range(0, len(unchecked), size):
            block = unchecked[start : start + size]
            self._checked[block] = True
            try:
                columns = [self._gather(column, block) for column in self._columns.values()]
            except OSError:
                continue
            checksums = _compute_checksums(self._records[block], self._start, columns)
            self._sound[block] = self._records["checksum"][block] == checksums
        return self._sound[rows]

    def find_damaged(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the digests of the rows that were checked and turned out to be damaged."""
        digests: list[bytes] = self.digests[rows[self._checked[rows] & ~self._sound[rows]]].tolist()
        return digests

    def read(self, name: str, rows: NDArray[np.int64]) -> Array:
        """Read one tensor of some images, (len(rows), ...): as it was written, except for the rounding.

        Raises:
            KeyError: there is no such tensor.
            OSError: the file cannot be read.
        """
        column = self._columns[name]
        raw = self._gather(column, rows)
        if column.stored == column.original:
            return raw
        return unpack(raw, self._records["exponents"][rows, list(self._columns).index(name)])

    def _gather(self, column: Column, rows: NDArray[np.int64]) -> Array:
        """Read rows of a tensor, adjacent ones at once.

        The file is not mapped: mapped pages count as memory of the process until they are released.
        """
        raw = np.empty((len(rows), column.row_bytes), np.uint8)
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1).tolist()
        with self._path.open("rb", buffering=0) as file:
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                file.seek(column.start + int(rows[start]) * column.row_bytes)
                if file.readinto(raw[start:end].data) != (end - start) * column.row_bytes:
                    raise OSError(f"{self._path} ends too early")
        return raw.view(column.stored).reshape(len(rows), *column.shape)


def _record_type(tensors: int) -> np.dtype[Any]:
    """Return the type of an image's record; the checksum comes last, since it covers the rest."""
    return np.dtype([("digest", "S16"), ("exponents", "i1", (tensors,)), ("checksum", "<u4")])


def _start_checksum(head: bytes, columns: Iterable[tuple[np.dtype[Any], tuple[int, ...]]]) -> int:
    """Return the value that every row's checksum starts from: it covers the types and the shapes."""
    words = json.dumps([[stored.str, shape] for stored, shape in columns])
    return zlib.crc32(words.encode(), zlib.crc32(head))


def _compute_checksums(records: Array, start: int, columns: Sequence[Array]) -> list[int]:
    content, size = memoryview(records.tobytes()), records.itemsize
    covered = size - records.dtype["checksum"].itemsize
    sums = [zlib.crc32(content[n : n + covered], start) for n in range(0, len(content), size)]
    for column in columns:
        rows = column.reshape(len(column), -1).view(np.uint8)
        sums = [zlib.crc32(row.data, before) for row, before in zip(rows, sums, strict=True)]
    return sums


def _write(file: IO[bytes], array: Array) -> None:
    """Write one .npy array. NumPy's own `save` does not report why a disk refuses it."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    file.write(header.getvalue())
    file.write(array.data)


def _read(file: IO[bytes]) -> Array:
    array: Array = np.lib.format.read_array(file, allow_pickle=False)
    return array


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of the .npy array that starts here; move on to where its values start."""
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("another version of .npy")
    shape, is_by_columns, kind = np.lib.format.read_array_header_1_0(file)
    if is_by_columns or kind.hasobject:
        raise ValueError("an array that is never written")
    return shape, kind


Floats = NDArray[np.float32]
Halves = NDArray[np.float16]
Exponents = NDArray[np.int8]

_TOP = 15  # the largest value of a scaled row lies in 2^14..2^15
_LEAST, _MOST = -112, 15  # exponents for which `unpack` is exact
_EXPONENT_BITS = np.uint16(0x7C00)


def pack(rows: Floats) -> tuple[Halves | Floats, Exponents]:
    """Pack rows as float16 with an exponent for each: eleven significant bits in half the bytes.

    A row is divided by a power of two, chosen by its largest value, so that float16's range does not limit
    it; the result depends on that row alone. A value then differs from the original by at most 2^-11 of
    itself; one below 2^-28 of the row's largest may become 0, far below the error of float32 sums.

    A row keeps all its bits if it has a value that is not finite, or of 2^30 or more. Then all rows are
    float32, the others with exactly the values that `unpack` would give.

    Args:
        rows: (n, ...).

    Example:
        >>> half, exponents = pack(np.array([[0.1, 300_000]], np.float32))
        >>> half.dtype, unpack(half, exponents).tolist()
        (dtype('float16'), [[0.0999755859375, 300032.0]])
    """
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1)
    peak = np.maximum(flat.max(1, initial=0), -flat.min(1, initial=0))
    fits = peak < 2.0 ** (_TOP + _MOST)  # false for NaN
    power = np.frexp(np.where(fits, peak, 0))[1] - _TOP
    exponents = np.clip(power, _LEAST, _MOST).astype(np.int8)
    with np.errstate(over="ignore", invalid="ignore"):  # in rows that do not fit
        half = (flat * _power_of_two(-exponents.astype(np.int32))).astype(np.float16)
    bits = half.view(np.uint16)
    bits *= (bits & _EXPONENT_BITS) != 0  # subnormal numbers have fewer bits, so they become 0
    if fits.all():
        return half.reshape(rows.shape), exponents
    rounded = np.where(fits[:, None], unpack(half, exponents), flat)
    return rounded.reshape(rows.shape), np.zeros_like(exponents)


def unpack(half: Halves, exponents: Exponents) -> Floats:
    """Restore the float32 rows (n, ...) that `pack` has made smaller."""
    # Shift the bits to their places in float32 and multiply the rest of the exponent in: `astype` takes three
    # times as long.
    bits = np.ascontiguousarray(half).reshape(len(half), -1).view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70002000)  # clear the copies of the sign except the first
    rows = bits.view(np.float32)
    rows *= _power_of_two(exponents.astype(np.int32) + 112)
    return rows.reshape(half.shape)


def _power_of_two(exponents: NDArray[np.int32]) -> Floats:
    """Return 2 to the power of each exponent, exactly: (n, 1)."""
    return np.ldexp(np.float32(1), exponents)[:, None]
