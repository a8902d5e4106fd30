"""The content-addressed store: computed tensors on disk, looked up by what they were computed from.

    <root>/features-4/<digest of the key>/key.txt          the key in words
    <root>/features-4/<digest of the key>/<name>.shard     some images: see `features.shard`
    <root>/hints/<digest of the question>                  an answer that saves time

A key names everything that determines a value besides the image itself (network, pixel contract, size,
engine, precision, view), so there is no invalidation: another version has another key. The folder's name
holds the version of the file format: a folder of another version is neither read nor changed, and may be
deleted. A shard is written to a temporary file, renamed into place, and never changes: readers need no lock,
and two processes that compute the same images merely store them twice. Everything has a checksum; damaged
rows count as missing and are computed again.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decoder_name import name_decoder
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.errors import EnvironmentFault, describe_os_error
from regraft.features.openvino import join_batches
from regraft.features.shard import Shard, digests_to_bytes, write_shard
from regraft.system.cache_dir import MemoryFallback, MemoryFile, find_writable_root, get_default_root
from regraft.system.console import TERMINAL, Reporter
from regraft.system.files import make_temporary_file, remove_stale, share_lock

__all__ = ["FORM", "Entries", "ShardWriter", "Store", "pixel_key"]

FORM = "features-4"  # the folder of this file format
SHARD = 256  # images stored at a time
SHARD_BYTES = 64 * 2**20  # or fewer images, if they are large: feature maps near the pixels

Array = NDArray[Any]
Indices = NDArray[np.int64]

_LAST = np.array([b"\xff" * 16])  # sorts behind every digest


def pixel_key(size: int, depth: int = FULL_DEPTH) -> str:
    """Return the key of decoded pixels: one tensor called "pixels", uint8 of shape (size, size, 3).

    `depth` is how many bits of 16-bit samples are used.
    """
    return f"pixels\n{name_decoder(depth)}\nsize {size}"


class Store:
    """A folder of computed tensors, and of hints that save time.

    Args:
        root: the folder, made at the first write; None for the user's cache folder.
        reporter: told what is damaged or cannot be written.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, reporter: Reporter = TERMINAL) -> None:
        self.root = (Path(root) if root is not None else get_default_root()).absolute()
        self._entries: dict[str, Entries] = {}
        self.reporter = reporter
        self.fallback = MemoryFallback(reporter)
        self._is_swept = False

    @classmethod
    def open(cls, root: str | os.PathLike[str] | None = None, reporter: Reporter = TERMINAL) -> Store:
        """Open a store that can be written; see `cache_dir.find_writable_root` for folder and errors."""
        store = cls(find_writable_root(root, reporter=reporter), reporter)
        if (lock := share_lock(store.root)) is not None:  # nobody clears it while this process may need it
            weakref.finalize(store, os.close, lock)
        return store

    def entries(self, key: str) -> Entries:
        """Return the entries of a key, including those that other processes have stored by now.

        It is the same object each time, so that a row is checked once.
        """
        if key not in self._entries:
            folder = self.root / FORM / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
            self._entries[key] = Entries(folder, key, fallback=self.fallback, reporter=self.reporter)
            _note_use(folder)
        self._entries[key].refresh()
        return self._entries[key]

    def folder(self, kind: str, name: str) -> Path:
        """Return the folder for something that is not a tensor, such as a converted network."""
        _note_use(self.root / kind / name)
        return self.root / kind / name

    def remember(self, question: str, answer: str) -> None:
        """Keep a hint: a lost one is computed again, and a wrong one costs time but makes no result wrong."""
        path = self._hint_path(question)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._is_swept:
                remove_stale(path.parent, ".writing-")
                self._is_swept = True
            with make_temporary_file(path.parent, ".writing-") as temporary:
                temporary.write_text(f"{_compute_checksum(answer)} {answer}", "utf-8")
                temporary.replace(path)
        except OSError:
            pass  # the next run is slower, that is all

    def recall(self, question: str) -> str | None:
        """Return the hint kept under a question, or None."""
        try:
            checksum, _, answer = self._hint_path(question).read_text("utf-8").partition(" ")
        except (OSError, UnicodeDecodeError):
            return None
        return answer if checksum == _compute_checksum(answer) else None

    def _hint_path(self, question: str) -> Path:
        return self.root / "hints" / hashlib.blake2b(question.encode(), digest_size=16).hexdigest()


def _note_use(folder: Path) -> None:
    """Set the time at which an entry was used last, by which `regraft cache --clear` chooses."""
    with suppress(OSError):
        os.utime(folder)


def _compute_checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


class _Table(NamedTuple):
    """The shard and the row of each image, sorted by digest; the last entry is no image."""

    digests: NDArray[np.bytes_]
    shards: Indices
    rows: Indices

    def find(self, digests: NDArray[np.bytes_]) -> Indices:
        """Return the index of each digest, the first of several; -1 for those that are missing."""
        indices = np.searchsorted(self.digests, digests)
        return np.where(self.digests[indices] == digests, indices, -1)


class Entries:
    """The rows of one key: named tensors, by image digest.

    float32 tensors come back with eleven significant bits (see `shard.pack`), all others unchanged.
    """

    def __init__(self, folder: Path, key: str, *, fallback: MemoryFallback, reporter: Reporter) -> None:
        self._reporter = reporter
        self.key = key
        self._folder = folder
        self._fallback = fallback
        self._names: set[str] = set()  # of the files that were opened
        self._shards: list[Shard] = []
        self._table: _Table | None = None  # made when it is needed
        self._lock = threading.Lock()
        self._is_swept = False
        self._damaged: set[bytes] = set()  # digests of damaged rows that are not reported yet

    def refresh(self) -> None:
        """Open the shards that another process has stored since."""
        names = sorted(path.name for path in self._folder.glob("*.shard"))
        with self._lock:
            for name in names:
                if name not in self._names:
                    self._add(name, self._folder / name)

    def find_missing(self, digests: Iterable[str]) -> list[str]:
        """Return the images that have no sound row here, once each, in the order of `digests`.

        Every row is checked against its checksum; damaged ones count as missing, and are reported.
        """
        unique = list(dict.fromkeys(digests))
        shards, _ = self._find(unique)
        missing = [unique[index] for index in np.flatnonzero(shards < 0)]
        damaged = self._damaged & set(digests_to_bytes(missing).tolist())
        if damaged:
            self._damaged -= damaged  # reported once
            self._reporter.warn(
                f"{len(damaged):,} entries of the feature store are damaged and are computed again."
            )
        return missing

    def read(self, digests: Sequence[str], name: str) -> Array:
        """Read one named tensor of shape (len(digests), ...), in the order of `digests`.

        Raises:
            KeyError: an image has no sound row, or there is no such tensor.
            EnvironmentFault: the store cannot be read any more.
        """
        shards, rows = self._find(digests)
        if (shards < 0).any():
            raise KeyError(digests[int(shards.argmin())])
        values = np.empty((0,))
        for shard, indices in _group_by_shard(shards, rows):
            try:
                block = self._shards[shard].read(name, rows[indices])
            except OSError as error:
                raise EnvironmentFault(
                    f"The feature store {self._folder} cannot be read any more: {describe_os_error(error)}. "
                    "Run again: what is missing is computed again."
                ) from error
            if not len(values):
                values = np.empty((len(digests), *block.shape[1:]), block.dtype)
            values[indices] = block
        return values

    def put(self, digests: Sequence[str], tensors: Mapping[str, Array]) -> None:
        """Store one shard: `tensors[name]` has a row for each digest.

        If the disk does not take it, it is kept in memory, see `cache_dir.MemoryFallback`. No half-written
        file remains.

        Raises:
            EnvironmentFault: the disk is full or cannot be written, and it is too large to keep in memory.
        """
        name = f"{uuid.uuid4().hex}.shard"
        path: Path | MemoryFile = self._folder / name

        def write(file: IO[bytes]) -> None:
            write_shard(file, digests, tensors)

        try:
            self._write(name, write)
        except OSError as error:
            path = self._fallback.keep(write, self._folder, error)
        with self._lock:
            self._add(name, path)

    def _write(self, name: str, write: Callable[[IO[bytes]], None]) -> None:
        """Write a file of the folder atomically."""
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._is_swept:
            remove_stale(self._folder, ".writing-")
            self._is_swept = True
        (self._folder / "key.txt").write_text(self.key + "\n", "utf-8")
        with make_temporary_file(self._folder, ".writing-") as temporary:
            with temporary.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(self._folder / name)

    def _add(self, name: str, path: Path | MemoryFile) -> None:
        self._names.add(name)
        try:
            self._shards.append(Shard(path))
        except OSError:  # it may be readable another time
            return
        except Exception:  # a damaged file may hold anything; its images are computed again
            self._reporter.warn(
                f"A file of the feature store is damaged; its images are computed again: {name}."
            )
            with suppress(OSError):
                (self._folder / name).unlink()
            return
        self._table = None

    def _find(self, digests: Sequence[str]) -> tuple[Indices, Indices]:
        """Return the shard and the row of each image, -1 for those without a sound row."""
        keys = digests_to_bytes(digests)
        with self._lock:
            while True:
                if self._table is None:
                    self._table = _make_table(self._shards)
                table = self._table
                indices = table.find(keys)
                present = np.unique(indices[indices >= 0])
                shards, rows = table.shards[present], table.rows[present]
                groups = [(self._shards[n], rows[group]) for n, group in _group_by_shard(shards, rows)]
                are_sound = [shard.are_sound(group).all() for shard, group in groups]  # checks every group
                if all(are_sound):
                    return table.shards[indices], table.rows[indices]
                for shard, group in groups:
                    self._damaged |= set(shard.find_damaged(group))
                self._table = None  # leave out damaged rows; another process may have stored them too


def _make_table(shards: Sequence[Shard]) -> _Table:
    """Make a table of all rows except those that are known to be damaged."""
    usable = [shard.usable for shard in shards]
    digests = np.concatenate(
        [*(shard.digests[rows] for shard, rows in zip(shards, usable, strict=True)), _LAST]
    )
    owners = np.append(np.repeat(np.arange(len(shards)), [len(rows) for rows in usable]), -1)
    order = np.argsort(digests, kind="stable")
    return _Table(digests[order], owners[order], np.concatenate([*usable, [-1]])[order])


def _group_by_shard(shards: Indices, rows: Indices) -> Iterator[tuple[int, Indices]]:
    """Yield each shard with the indices that belong to it, in the order of its rows."""
    order = np.lexsort((rows, shards))
    numbers, starts = np.unique(shards[order], return_index=True)
    yield from zip(numbers.tolist(), np.split(order, starts[1:]), strict=False)


class ShardWriter:
    """Gathers rows into shards and writes them in a thread, beside the work that makes the next rows.

    Args:
        entries: where they are stored.
        thread: an executor of one thread, which several writers may share.
    """

    def __init__(self, entries: Entries, thread: ThreadPoolExecutor) -> None:
        self._entries, self._thread = entries, thread
        self._digests: list[str] = []
        self._batches: list[Mapping[str, Array]] = []
        self._bytes = 0
        self._pending: Future[None] | None = None

    def add(self, digests: Sequence[str], tensors: Mapping[str, Array]) -> None:
        """Take rows, as `Entries.put` does.

        Raises:
            EnvironmentFault: earlier rows could not be stored.
        """
        self._digests += digests
        self._batches.append(tensors)
        self._bytes += sum(array.nbytes for array in tensors.values())
        if len(self._digests) >= SHARD or self._bytes >= SHARD_BYTES:
            self._submit()

    def close(self) -> None:
        """Store the remaining rows, and return once all are stored.

        Raises:
            EnvironmentFault: they cannot be stored.
        """
        if self._digests:
            self._submit()
        if self._pending is not None:
            self._pending.result()

    def _submit(self) -> None:
        if self._pending is not None:
            self._pending.result()  # one at a time: a slow disk does not fill the memory
        self._pending = self._thread.submit(_put, self._entries, self._digests, self._batches)
        self._digests, self._batches, self._bytes = [], [], 0


def _put(entries: Entries, digests: list[str], batches: list[Mapping[str, Array]]) -> None:
    entries.put(digests, join_batches(batches))
