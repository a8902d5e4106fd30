"""Results in the store that a repeated run reads instead of computing them again.

    <store>/<kind>/<digest of what the result depends on>.npz     32 bytes of digest, then a checkpoint

Files are written next to their place and renamed; a damaged one counts as missing. The oldest are deleted
once all of a kind take more than `LIMIT` bytes.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.errors import EnvironmentFault
from regraft.features.store import Store
from regraft.system.backend import get_versions
from regraft.system.files import make_temporary_file, remove_stale
from regraft.training.checkpoint import Arrays, pack_checkpoint, unpack_checkpoint

__all__ = ["HEADS", "Result", "StoredResults", "digest_inputs"]

HEADS = "heads-1"  # kind: what was solved on features of the frozen part
LIMIT = 2 * 10**9  # bytes of all results of a kind together
DIGEST = 32  # bytes of a file's digest

Result = tuple[dict[str, Any], Arrays]


def digest_inputs(settings: dict[str, Any], arrays: Iterable[NDArray[Any] | None]) -> str:
    """Return a digest of all that a result depends on: settings, arrays, and the versions of packages.

    Args:
        settings: anything that JSON holds; what it does not hold counts by its text.
        arrays: numbers of any type and shape; None counts as well.
    """
    content = json.dumps([settings, get_versions()], sort_keys=True, default=str)
    digest = hashlib.blake2b(content.encode(), digest_size=16)
    for array in arrays:
        if array is None:
            digest.update(b"none")
        else:
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class StoredResults:
    """Results of one kind in a store, looked up by a digest of their inputs.

    What cannot be written or read is computed again, so no method raises an error because of the disk.

    Args:
        store: of the run.
        kind: the name of their folder.
    """

    def __init__(self, store: Store, kind: str) -> None:
        self._store, self._folder = store, store.folder(kind, "")

    def read(self, inputs: str) -> Result | None:
        """Return state and arrays of the result of these inputs, or None."""
        path = self._folder / f"{inputs}.npz"
        try:
            content = path.read_bytes()
            if hashlib.blake2b(content[DIGEST:], digest_size=DIGEST).digest() != content[:DIGEST]:
                return None
            result = unpack_checkpoint(io.BytesIO(content[DIGEST:]), path)
            os.utime(path)  # what is used is not the oldest
        except (OSError, EnvironmentFault):
            return None
        return result

    def write(self, inputs: str, result: Result) -> None:
        """Store state and arrays of a result; delete the oldest results beyond the limit."""
        file = io.BytesIO()
        pack_checkpoint(file, *result)
        content = file.getvalue()
        if len(content) > LIMIT / 4:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            remove_stale(self._folder, ".writing-")
            with make_temporary_file(self._folder, ".writing-") as temporary:
                digest = hashlib.blake2b(content, digest_size=DIGEST).digest()
                temporary.write_bytes(digest + content)
                temporary.replace(self._folder / f"{inputs}.npz")
            _delete_oldest(self._folder)


def _delete_oldest(folder: Path) -> None:
    files = [(path.stat().st_mtime, path.stat().st_size, path) for path in folder.glob("*.npz")]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LIMIT:
            break
        path.unlink(missing_ok=True)
        total -= size
