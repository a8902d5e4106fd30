"""The arrays of an HDF5 file: no link is followed, nothing is read that lies outside, all of it is finite."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault, ModelRefused
from regraft.model_scan.archive import quoted, refused

__all__ = ["Array", "held", "read_arrays"]

MOST_OBJECTS = 100_000
DEEPEST = 64
AT_ONCE = 1 << 20  # values looked at together
EXPANSION = 8  # compressed weights are at least an eighth of what they become
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@dataclass(frozen=True)
class Array:
    """One array of weights: its path in the file, lengths, type and number of bytes in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int

    @property
    def size(self) -> int:
        """How many numbers."""
        return math.prod(self.shape)

    @property
    def learned(self) -> bool:
        """Whether it belongs to a layer, not to an optimizer or a source of random numbers."""
        return not self.name.startswith("optimizer") and "/seed_generator/" not in self.name


def held(arrays: tuple[Array, ...]) -> int:
    """How many numbers all layers have in a file."""
    return sum(array.size for array in arrays if array.learned)


def read_arrays(path: Path, *, offset: int = 0, size: int | None = None) -> tuple[Array, ...]:
    """Look at every array of an HDF5 file, or of one that is a part of another file.

    Args:
        path: the file.
        offset: where the HDF5 file begins in it.
        size: how long it is; None for the rest.

    Raises:
        ModelRefused: it is damaged, points outside itself, declares more than it holds, or has values that
            are no finite numbers; the array is named.
        EnvironmentFault: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = path.stat().st_size - offset if size is None else size
            with h5py.File(_Part(file, offset, length), "r") as store:
                return tuple(_look(path, name, dataset) for name, dataset in _datasets(path, store))
    except ModelRefused:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as fault:
        if isinstance(fault, OSError) and not path.is_file():
            raise EnvironmentFault(f"{path} cannot be read: {fault}.") from fault
        raise refused(path, f"its weights are no sound HDF5 file ({fault}).") from fault


class _Part(io.RawIOBase):
    """A stretch of a file as a file, for h5py."""

    def __init__(self, file: Any, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence] + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._offset + self._at)
        count: int = self._file.readinto(view[: max(min(len(view), self._size - self._at), 0)])
        self._at += count
        return count


def _datasets(path: Path, store: Any) -> Iterator[tuple[str, Any]]:
    """Every dataset with its path. Nothing but ordinary links is looked behind."""
    waiting: list[tuple[str, Any, int]] = [("", store, 0)]
    seen: set[int] = set()
    while waiting:
        place, group, depth = waiting.pop()
        for name in group:
            at = f"{place}/{name}" if place else str(name)
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise refused(path, f"its weights have a {type(link).__name__} at {quoted(at)}.")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise refused(path, f"its weights have {quoted(at)} under two names.")
            seen.add(address)
            if len(seen) > MOST_OBJECTS or depth > DEEPEST:
                raise refused(
                    path, f"its weights have more than {MOST_OBJECTS:,} parts, or nested too deeply."
                )
            if isinstance(item, h5py.Group):
                waiting.append((at, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                yield at, item
            else:
                raise refused(path, f"its weights have no array at {quoted(at)}.")


def _look(path: Path, name: str, dataset: Any) -> Array:
    if dataset.is_virtual or dataset.external:
        raise refused(path, f"array {quoted(name)} lies in another file.")
    kind = dataset.dtype
    bfloat16 = kind.kind == "V" and kind.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16"
    if kind.kind not in "fiub" and not bfloat16:
        raise refused(path, f"array {quoted(name)} holds no numbers but {kind}.")
    if dataset.shape is None:
        raise refused(path, f"array {quoted(name)} is empty.")
    filters = dataset.id.get_create_plist()
    used = {filters.get_filter(number)[0] for number in range(filters.get_nfilters())}
    if used - _FILTERS:
        raise refused(path, f"array {quoted(name)} is compressed in a way that needs a plug-in.")
    array = Array(name, dataset.shape, "bfloat16" if bfloat16 else str(kind), dataset.size * kind.itemsize)
    stored = dataset.id.get_storage_size()
    if array.bytes > (EXPANSION if used else 1) * stored:
        raise refused(path, f"array {quoted(name)} says {array.bytes:,} bytes, and {stored:,} are stored.")
    if not all(_finite(values, bfloat16) for values in _pieces(dataset)):
        raise refused(path, f"array {quoted(name)} has values that are not finite numbers.")
    return array


def _pieces(dataset: Any) -> Iterator[NDArray[Any]]:
    """The values, so many rows at a time."""
    if dataset.ndim == 0:
        yield dataset[()].reshape(1)
        return
    rows = max(1, AT_ONCE // max(math.prod(dataset.shape[1:]), 1))
    for at in range(0, dataset.shape[0], rows):
        yield dataset[at : at + rows]


def _finite(values: NDArray[Any], bfloat16: bool) -> bool:
    if bfloat16:
        return not bool(np.any((values.view(np.uint16) & 0x7F80) == 0x7F80))
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
