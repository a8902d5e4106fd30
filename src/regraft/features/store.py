"""The content-addressed store: what was computed once, found by what it was computed from.

    <root>/<digest of the key>/key.txt                     the key in words
    <root>/<digest of the key>/<shard>/index.json          image digests, facts, a checksum a row
    <root>/<digest of the key>/<shard>/<tensor>.npy        one array a named tensor, a row an image

A key says everything that determines a value besides the image itself (prefix, pixel contract, size,
engine, precision, view), so there is no invalidation: another version is another key. A shard is written
beside and moved into place whole, and never changes: readers need no lock, and two processes that compute
the same images merely store them twice. Arrays are plain .npy without pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import uuid
import zlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import DECODER, Facts
from regraft.errors import EnvironmentFault

__all__ = ["Entries", "Store", "default_root", "pixel_key"]

Array = NDArray[Any]


def default_root() -> Path:
    """$REGRAFT_HOME, else regraft/ in the user's cache folder, else (no home) in the temporary folder."""
    if chosen := os.environ.get("REGRAFT_HOME"):
        return Path(chosen)
    cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(cache) if cache else Path.home() / ".cache") / "regraft"
    except RuntimeError:
        return Path(tempfile.gettempdir()) / "regraft"


def pixel_key(size: int) -> str:
    """The key of decoded pixels: one tensor called "pixels", uint8 of shape (size, size, 3)."""
    return f"pixels\n{DECODER}\nsize {size}"


class Store:
    """A folder of computed tensors. `root` is made when something is first written."""

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root) if root is not None else default_root()

    def entries(self, key: str) -> Entries:
        """Everything stored under a key, with each image's row checked when it is first read."""
        folder = self.root / "features" / hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
        return Entries(folder, key)

    def folder(self, kind: str, name: str) -> Path:
        """A folder of the store for something that is not a tensor, such as a compiled network."""
        return self.root / kind / name

    def remember(self, question: str, answer: str) -> None:
        """Keep a hint. Hints save time and decide nothing: a wrong or lost one changes no result."""
        path = self._hint(question)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
            beside.write_text(answer, "utf-8")
            beside.replace(path)
        except OSError:
            pass  # the next run is slower, that is all

    def recall(self, question: str) -> str | None:
        """The hint kept under a question, or None."""
        try:
            return self._hint(question).read_text("utf-8")
        except (OSError, UnicodeDecodeError):
            return None

    def _hint(self, question: str) -> Path:
        return self.root / "hints" / hashlib.blake2b(question.encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class _Row:
    shard: Path
    number: int
    facts: Facts
    checksums: dict[str, int]


class Entries:
    """The rows of one key: named tensors and facts, by image digest."""

    def __init__(self, folder: Path, key: str) -> None:
        self.key = key
        self._folder = folder
        self._rows: dict[str, list[_Row]] = defaultdict(list)  # more than one where two processes computed it
        self._arrays: dict[tuple[Path, str], Array] = {}
        self._sound: dict[str, _Row] = {}
        for index in sorted(folder.glob("[!.]*/index.json")):  # a shard under way has a dot before its name
            self._add(_read_index(index))

    def __contains__(self, digest: str) -> bool:
        return self._sound_row(digest) is not None

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of the images that have no sound row here, each once, in the order given.

        Every row asked for is checked against its checksum; a damaged one counts as missing.
        """
        return [digest for digest in dict.fromkeys(digests) if digest not in self]

    def facts(self, digest: str) -> Facts:
        """What the decoder learnt of an image when the row was computed."""
        return self._row(digest).facts

    def read(self, digests: Sequence[str], name: str) -> Array:
        """One named tensor of many images: array of shape (len(digests), ...), in the order given."""
        rows = [self._value(self._row(digest), name) for digest in digests]
        self._arrays.clear()  # mapped files count as memory: not longer than they are read
        return np.stack(rows) if rows else np.empty((0,))

    def put(self, digests: Sequence[str], tensors: Mapping[str, Array], facts: Mapping[str, Facts]) -> None:
        """Store one shard: `tensors[name]` has a row for each digest.

        Raises:
            EnvironmentFault: the disk is full or may not be written; nothing is left half-written.
        """
        shard = self._folder / uuid.uuid4().hex
        size = sum(array.nbytes for array in tensors.values())
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / "key.txt").write_text(self.key + "\n", "utf-8")
            beside = Path(tempfile.mkdtemp(prefix=".writing-", dir=self._folder))
            try:
                _write_shard(beside, digests, tensors, facts)
                beside.rename(shard)
            except BaseException:
                shutil.rmtree(beside, ignore_errors=True)
                raise
        except OSError as error:
            raise EnvironmentFault(
                f"The feature store {self._folder} cannot take {size:,} bytes: {error.strerror or error}. "
                "Free some space, or choose another place with --store or REGRAFT_HOME."
            ) from error
        self._add(_read_index(shard / "index.json"))

    def _array(self, shard: Path, name: str) -> Array:
        if (shard, name) not in self._arrays:
            self._arrays[shard, name] = np.load(shard / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return self._arrays[shard, name]

    def _value(self, row: _Row, name: str) -> Array:
        return np.asarray(self._array(row.shard, name)[row.number])

    def _add(self, rows: Mapping[str, _Row]) -> None:
        for digest, row in rows.items():
            self._rows[digest].append(row)

    def _row(self, digest: str) -> _Row:
        if (row := self._sound_row(digest)) is None:
            raise KeyError(digest)
        return row

    def _sound_row(self, digest: str) -> _Row | None:
        """The first row of an image that is what was written; damaged ones are passed over."""
        while digest not in self._sound and self._rows.get(digest):
            row = self._rows[digest].pop(0)
            if self._is_sound(digest, row):
                self._sound[digest] = row
        return self._sound.get(digest)

    def _is_sound(self, digest: str, row: _Row) -> bool:
        try:
            return all(
                _checksum(digest, row.facts, name, self._value(row, name)) == expected
                for name, expected in row.checksums.items()
            )
        except Exception:  # a damaged array's header makes numpy raise whatever it likes
            return False


def _checksum(digest: str, facts: Facts, name: str, row: Array) -> int:
    """Covers all that is said of a row, not only its bytes: another byte order has the same bytes."""
    words = json.dumps([digest, facts.as_json(), name, row.dtype.str, row.shape])
    return zlib.crc32(np.ascontiguousarray(row).view(np.uint8).reshape(-1).data, zlib.crc32(words.encode()))


def _write_shard(
    folder: Path, digests: Sequence[str], tensors: Mapping[str, Array], facts: Mapping[str, Facts]
) -> None:
    for name, array in tensors.items():
        with (folder / f"{name}.npy").open("wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    rows = [
        [
            digest,
            facts[digest].as_json(),
            {name: _checksum(digest, facts[digest], name, array[i]) for name, array in tensors.items()},
        ]
        for i, digest in enumerate(digests)
    ]
    with (folder / "index.json").open("w", encoding="utf-8") as file:
        json.dump(rows, file)
        file.flush()
        os.fsync(file.fileno())


def _read_index(index: Path) -> dict[str, _Row]:
    """The rows of a shard; an index that cannot be read gives none, and its images are computed again."""
    try:
        rows = json.loads(index.read_text("utf-8"))
        return {
            digest: _Row(index.parent, number, Facts.from_json(facts), checksums)
            for number, (digest, facts, checksums) in enumerate(rows)
        }
    except Exception:  # a damaged index may hold anything
        return {}
