"""The content-addressed store: what was computed once, found by what it was computed from.

    <root>/features-4/<digest of the key>/key.txt          the key in words
    <root>/features-4/<digest of the key>/<name>.shard     some images: see `features.shard`

A key says everything that determines a value besides the image itself (prefix, pixel contract, size,
engine, precision, view), so there is no invalidation: another version is another key. The form of the files
is part of the folder's name: a folder of another version is neither read nor touched, and may be deleted. A
shard is written beside and moved into place whole, and never changes: readers need no lock, and two processes
that compute the same images merely store them twice. Everything has a checksum; what is damaged counts as not
there, and is computed again.

Rows on their way into the store: gathered into shards, written beside the work that makes the next.
"""

from __future__ import annotations

import hashlib
import os
import threading
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decoder_name import DECODER
from regraft.errors import EnvironmentFault
from regraft.features.shard import Shard, as_bytes, write_shard
from regraft.system.atomic import new_file, sweep
from regraft.system.cache_dir import InMemory, Spare, default_root, writable_root
from regraft.system.console import TERMINAL, Reporter

__all__ = ["FORM", "Entries", "Store", "Writer", "pixel_key"]


FORM = "features-4"  # of the files; another form is another folder

Array = NDArray[Any]
Places = NDArray[np.int64]

_NONE = np.array([b"\xff" * 16])  # sorts behind every digest


def pixel_key(size: int) -> str:
    """The key of decoded pixels: one tensor called "pixels", uint8 of shape (size, size, 3)."""
    return f"pixels\n{DECODER}\nsize {size}"


class Store:
    """A folder of computed tensors. `root` is made when something is first written.

    `reporter` shows what is damaged or cannot be written.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None, reporter: Reporter = TERMINAL) -> None:
        self.root = Path(root) if root is not None else default_root()
        self._entries: dict[str, Entries] = {}
        self.reporter = reporter
        self._spare = Spare(reporter)
        self._swept = False

    @classmethod
    def open(cls, root: str | os.PathLike[str] | None = None, reporter: Reporter = TERMINAL) -> Store:
        """A store to work with; see `home.writable_root` for its place, and for errors."""
        return cls(writable_root(root, reporter=reporter), reporter)

    def entries(self, key: str) -> Entries:
        """Everything stored under a key, with what other processes have stored by now.

        The same object each time: a row is checked once.
        """
        if key not in self._entries:
            folder = self.root / FORM / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
            self._entries[key] = Entries(folder, key, self._spare, self.reporter)
        self._entries[key].refresh()
        return self._entries[key]

    def folder(self, kind: str, name: str) -> Path:
        """A folder of the store for something that is not a tensor, such as a compiled network."""
        return self.root / kind / name

    def remember(self, question: str, answer: str) -> None:
        """Keep a hint. Hints save time: a lost one is found again, and of a wrong one no result is wrong."""
        path = self._hint(question)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not self._swept:
                sweep(path.parent, ".writing-")
                self._swept = True
            with new_file(path.parent, ".writing-") as beside:
                beside.write_text(f"{_checksum(answer)} {answer}", "utf-8")
                beside.replace(path)
        except OSError:
            pass  # the next run is slower, that is all

    def recall(self, question: str) -> str | None:
        """The hint kept under a question, or None."""
        try:
            checksum, _, answer = self._hint(question).read_text("utf-8").partition(" ")
        except (OSError, UnicodeDecodeError):
            return None
        return answer if checksum == _checksum(answer) else None

    def _hint(self, question: str) -> Path:
        return self.root / "hints" / hashlib.blake2b(question.encode(), digest_size=16).hexdigest()


def _checksum(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


class _Table(NamedTuple):
    """Shard and row of each image, sorted by digest; the last entry is none."""

    digests: NDArray[np.bytes_]
    shards: Places
    rows: Places

    def places(self, wanted: NDArray[np.bytes_]) -> Places:
        """Where each digest stands, the first of several; -1 for those that are not here."""
        at = np.searchsorted(self.digests, wanted)
        return np.where(self.digests[at] == wanted, at, -1)


class Entries:
    """The rows of one key: named tensors, by image digest.

    float32 tensors come back with eleven significant bits (see `shard.pack`), all others as they were put.
    """

    def __init__(self, folder: Path, key: str, spare: Spare, reporter: Reporter) -> None:
        self._reporter = reporter
        self.key = key
        self._folder = folder
        self._spare = spare
        self._names: set[str] = set()  # of the files that were looked at
        self._shards: list[Shard] = []
        self._table: _Table | None = None  # made when it is needed
        self._lock = threading.Lock()
        self._swept = False
        self._damaged: set[bytes] = set()  # digests of damaged rows, whose images are to be computed again

    def refresh(self) -> None:
        """Find what was stored since, by this process or another."""
        names = sorted(path.name for path in self._folder.glob("*.shard"))
        with self._lock:
            for name in names:
                if name not in self._names:
                    self._add(name, self._folder / name)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of the images that have no sound row here, each once, in the order given.

        Every row asked for is checked against its checksum; a damaged one counts as missing, and that is
        said.
        """
        wanted = list(dict.fromkeys(digests))
        shards, _ = self._find(wanted)
        missing = [wanted[at] for at in np.flatnonzero(shards < 0)]
        damaged = self._damaged & set(as_bytes(missing).tolist())
        if damaged:
            self._damaged -= damaged  # said once
            self._reporter.warn(
                f"{len(damaged):,} entries of the feature store are damaged and are computed again."
            )
        return missing

    def read(self, digests: Sequence[str], name: str) -> Array:
        """One named tensor of many images: array of shape (len(digests), ...), in the order given.

        Raises:
            KeyError: one of them has no sound row, or there is no such tensor.
            EnvironmentFault: the store cannot be read any more.
        """
        shards, rows = self._find(digests)
        if (shards < 0).any():
            raise KeyError(digests[int(shards.argmin())])
        values = np.empty((0,))
        for shard, places in _by_shard(shards, rows):
            try:
                found = self._shards[shard].read(name, rows[places])
            except OSError as error:
                raise EnvironmentFault(
                    f"The feature store {self._folder} cannot be read any more: {error.strerror or error}. "
                    "Run again: what is missing is computed again."
                ) from error
            if not len(values):
                values = np.empty((len(digests), *found.shape[1:]), found.dtype)
            values[places] = found
        return values

    def put(self, digests: Sequence[str], tensors: Mapping[str, Array]) -> None:
        """Store one shard: `tensors[name]` has a row for each digest.

        Where the disk does not take it, it is kept in memory, see `home.Spare`; nothing is left
        half-written.

        Raises:
            EnvironmentFault: the disk is full or may not be written, and it is too much for the memory.
        """
        name = f"{uuid.uuid4().hex}.shard"
        place: Path | InMemory = self._folder / name

        def write(file: IO[bytes]) -> None:
            write_shard(file, digests, tensors)

        try:
            self._write(name, write)
        except OSError as error:
            place = self._spare.keep(write, self._folder, error)
        with self._lock:
            self._add(name, place)

    def _write(self, name: str, write: Callable[[IO[bytes]], None]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            sweep(self._folder, ".writing-")
            self._swept = True
        (self._folder / "key.txt").write_text(self.key + "\n", "utf-8")
        with new_file(self._folder, ".writing-") as beside:
            with beside.open("wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            beside.rename(self._folder / name)

    def _add(self, name: str, place: Path | InMemory) -> None:
        self._names.add(name)
        try:
            self._shards.append(Shard(place))
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

    def _find(self, digests: Sequence[str]) -> tuple[Places, Places]:
        """The shard and the row of each image, -1 for those without a sound row."""
        wanted = as_bytes(digests)
        with self._lock:
            while True:
                if self._table is None:
                    self._table = _tabled(self._shards)
                table = self._table
                at = table.places(wanted)
                found = np.unique(at[at >= 0])
                shards, rows = table.shards[found], table.rows[found]
                sound = [self._shards[n].sound(rows[places]).all() for n, places in _by_shard(shards, rows)]
                if all(sound):
                    return table.shards[at], table.rows[at]
                for shard, places in _by_shard(shards, rows):
                    self._damaged |= set(self._shards[shard].damaged(rows[places]))
                self._table = None  # what is damaged goes; another process may have stored it too


def _tabled(shards: Sequence[Shard]) -> _Table:
    """A table of all rows but those known to be damaged."""
    usable = [shard.usable for shard in shards]
    digests = np.concatenate(
        [*(shard.digests[rows] for shard, rows in zip(shards, usable, strict=True)), _NONE]
    )
    owners = np.append(np.repeat(np.arange(len(shards)), [len(rows) for rows in usable]), -1)
    order = np.argsort(digests, kind="stable")
    return _Table(digests[order], owners[order], np.concatenate([*usable, [-1]])[order])


def _by_shard(shards: Places, rows: Places) -> Iterator[tuple[int, Places]]:
    """Each shard, and the places in `rows` that are its, in the order of its rows."""
    order = np.lexsort((rows, shards))
    found, begins = np.unique(shards[order], return_index=True)
    yield from zip(found.tolist(), np.split(order, begins[1:]), strict=False)


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
