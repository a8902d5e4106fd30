"""The arrays of an HDF5 file, read without following links out of it; every value must be finite."""

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
from regraft.model_scan.archive import make_refusal, quote_name

__all__ = ["Array", "count_numbers", "is_weight_name", "read_arrays"]

MOST_OBJECTS = 100_000
DEEPEST = 64
CHUNK = 1 << 20  # values checked together
EXPANSION = 8  # compressed weights take at least an eighth of their size in memory
_FILTERS = {h5py.h5z.FILTER_DEFLATE, h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_FLETCHER32}


@dataclass(frozen=True)
class Array:
    """An array of weights: its path in the file, shape, type and number of bytes in memory."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int

    @property
    def size(self) -> int:
        """Return how many numbers the array holds."""
        return math.prod(self.shape)

    @property
    def is_learned(self) -> bool:
        """Return whether the array is a weight of a layer."""
        return is_weight_name(self.name)


def is_weight_name(name: str) -> bool:
    """Return whether an array of this path belongs to a layer, not to an optimizer or to random numbers."""
    return not name.startswith("optimizer") and "/seed_generator/" not in name


def count_numbers(arrays: tuple[Array, ...]) -> int:
    """Return how many numbers the layers have in a file."""
    return sum(array.size for array in arrays if array.is_learned)


def read_arrays(path: Path, *, offset: int = 0, size: int | None = None) -> tuple[Array, ...]:
    """Check every array of an HDF5 file, or of one inside another file, and return their descriptions.

    Args:
        path: the file.
        offset: where in it the HDF5 file begins.
        size: length of the HDF5 file in bytes; None for the rest of the file.

    Raises:
        ModelRefused: the HDF5 file is damaged, points outside itself, declares more than it holds, or has
            values that are not finite numbers; the message names the array.
        EnvironmentFault: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            length = path.stat().st_size - offset if size is None else size
            with h5py.File(_FileSection(file, offset, length), "r") as store:
                return tuple(_check_array(path, name, data) for name, data in _iterate_datasets(path, store))
    except ModelRefused:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError) as fault:
        if isinstance(fault, OSError) and not path.is_file():
            raise EnvironmentFault(f"{path} cannot be read: {fault}.") from fault
        raise make_refusal(path, f"its weights are not a sound HDF5 file ({fault}).") from fault


class _FileSection(io.RawIOBase):
    """A section of a file that h5py can read as a file."""

    def __init__(self, file: Any, offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        origin = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        self._file.seek(self._offset + self._position)
        count: int = self._file.readinto(view[: max(min(len(view), self._size - self._position), 0)])
        self._position += count
        return count


def _iterate_datasets(path: Path, store: Any) -> Iterator[tuple[str, Any]]:
    """Yield every dataset with its path; refuse any link that is not a hard link of this file."""
    waiting: list[tuple[str, Any, int]] = [("", store, 0)]
    seen: set[int] = set()
    while waiting:
        parent, group, depth = waiting.pop()
        for name in group:
            location = f"{parent}/{name}" if parent else str(name)
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise make_refusal(
                    path, f"its weights have a {type(link).__name__} at {quote_name(location)}."
                )
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise make_refusal(path, f"its weights have {quote_name(location)} under two names.")
            seen.add(address)
            if len(seen) > MOST_OBJECTS or depth > DEEPEST:
                raise make_refusal(
                    path, f"its weights have more than {MOST_OBJECTS:,} parts, or nested too deeply."
                )
            if isinstance(item, h5py.Group):
                waiting.append((location, item, depth + 1))
            elif isinstance(item, h5py.Dataset):
                yield location, item
            else:
                raise make_refusal(path, f"its weights have no array at {quote_name(location)}.")


def _check_array(path: Path, name: str, dataset: Any) -> Array:
    if dataset.is_virtual or dataset.external:
        raise make_refusal(path, f"array {quote_name(name)} lies in another file.")
    kind = dataset.dtype
    is_bfloat16 = kind.kind == "V" and kind.itemsize == 2 and dataset.attrs.get("dtype") == "bfloat16"
    if kind.kind not in "fiub" and not is_bfloat16:
        raise make_refusal(path, f"array {quote_name(name)} holds {kind}, not numbers.")
    if dataset.shape is None:
        raise make_refusal(path, f"array {quote_name(name)} is empty.")
    filters = dataset.id.get_create_plist()
    used = {filters.get_filter(number)[0] for number in range(filters.get_nfilters())}
    if used - _FILTERS:
        raise make_refusal(path, f"array {quote_name(name)} is compressed in a way that needs a plug-in.")
    array = Array(name, dataset.shape, "bfloat16" if is_bfloat16 else str(kind), dataset.size * kind.itemsize)
    stored = dataset.id.get_storage_size()
    if array.bytes > (EXPANSION if used else 1) * stored:
        raise make_refusal(
            path, f"array {quote_name(name)} says {array.bytes:,} bytes, and {stored:,} are stored."
        )
    if not all(_is_finite(values, is_bfloat16) for values in _iterate_chunks(dataset)):
        raise make_refusal(path, f"array {quote_name(name)} has values that are not finite numbers.")
    return array


def _iterate_chunks(dataset: Any) -> Iterator[NDArray[Any]]:
    """Yield the values, a limited number of rows at a time."""
    if dataset.ndim == 0:
        yield dataset[()].reshape(1)
        return
    rows = max(1, CHUNK // max(math.prod(dataset.shape[1:]), 1))
    for start in range(0, dataset.shape[0], rows):
        yield dataset[start : start + rows]


def _is_finite(values: NDArray[Any], is_bfloat16: bool) -> bool:
    if is_bfloat16:
        return not bool(np.any((values.view(np.uint16) & 0x7F80) == 0x7F80))
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())
