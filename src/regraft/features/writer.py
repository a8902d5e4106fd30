"""Rows on their way into the store: gathered into shards, written beside the work that makes the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.features.store import Entries

__all__ = ["Writer"]

SHARD = 256  # images stored at a time
SHARD_BYTES = 64 * 2**20  # or fewer, where each of them is large: a feature map near the pixels


class Writer:
    """Takes rows of some entries and stores them, many at a time.

    Args:
        entries: where they are stored.
        thread: an executor of one thread, which several writers may share.
    """

    def __init__(self, entries: Entries, thread: ThreadPoolExecutor) -> None:
        self._entries, self._thread = entries, thread
        self._digests: list[str] = []
        self._parts: list[Mapping[str, NDArray[Any]]] = []
        self._bytes = 0
        self._written: Future[None] | None = None

    def add(self, digests: Sequence[str], tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take some rows, as `Entries.put` does.

        Raises:
            EnvironmentFault: those before could not be stored.
        """
        self._digests += digests
        self._parts.append(tensors)
        self._bytes += sum(array.nbytes for array in tensors.values())
        if len(self._digests) >= SHARD or self._bytes >= SHARD_BYTES:
            self._hand_over()

    def close(self) -> None:
        """Return once everything is in the store.

        Raises:
            EnvironmentFault: it cannot be stored.
        """
        if self._digests:
            self._hand_over()
        if self._written is not None:
            self._written.result()

    def _hand_over(self) -> None:
        if self._written is not None:
            self._written.result()  # one at a time: a slow disk does not fill the memory
        self._written = self._thread.submit(_put, self._entries, self._digests, self._parts)
        self._digests, self._parts, self._bytes = [], [], 0


def _put(entries: Entries, digests: list[str], parts: list[Mapping[str, NDArray[Any]]]) -> None:
    tensors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    entries.put(digests, tensors)
