"""One thing to learn from: its image files, its target; a first look at files; samples of the same bytes."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

from regraft.data.images.decode import digest
from regraft.data.images.rejections import HEAD, Refusal, sniff
from regraft.errors import DataError
from regraft.system.console import Reporter, SilentReporter

__all__ = [
    "Listing",
    "Photo",
    "Refused",
    "Sample",
    "Target",
    "contradictions",
    "expect_most",
    "look",
    "look_at_all",
    "same_files",
]

Target = int | tuple[int, ...] | tuple[float, ...]
MAX_FILE_BYTES = 100 * 2**20
TOGETHER = 64  # files that a thread looks at before it is given more
MANY = 5000  # files from which progress is shown


@dataclass(frozen=True, slots=True)
class Photo:
    """One image file: its path relative to the catalog's root, and the digest of its content."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One thing to learn from: an image, seldom several, and its target.

    Attributes:
        path, digest: of its image, or of the first of them; see `Photo`.
        target: a class's number; for multilabel the sorted numbers of its labels; for regression its values.
        part: "train", "validation" or "test", or "" while nothing has been cut.
        group: what must not be torn apart between parts; "" for none.
        more: its further images.
    """

    path: str
    target: Target
    digest: str
    part: str = ""
    group: str = ""
    more: tuple[Photo, ...] = ()

    @property
    def photos(self) -> tuple[Photo, ...]:
        """All its images."""
        return (Photo(self.path, self.digest), *self.more)


@dataclass(frozen=True, slots=True)
class Refused:
    """A file, row or item that is not used, with a code and what a person reads."""

    image: str
    code: str
    detail: str


class Listing(NamedTuple):
    """What a source holds: the fields of `Catalog`, in its order."""

    root: Path
    outputs: tuple[str, ...]
    samples: tuple[Sample, ...]
    refused: tuple[Refused, ...]
    notes: tuple[str, ...]
    task: str
    why: str


def look(path: Path) -> str | Refusal:
    """The digest of a file that may be an image, or why it is not used."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Refusal("not_a_file", "a pipe, socket or device is never opened")
        with path.open("rb") as file:
            head = file.read(HEAD)
            size = os.fstat(file.fileno()).st_size
            if (verdict := sniff(head)) is not None:
                return verdict
            if size > MAX_FILE_BYTES:
                return Refusal("file_too_large", f"{size:,} bytes, at most {MAX_FILE_BYTES:,}")
            return digest(head + file.read())
    except OSError as error:
        nowhere = isinstance(error, FileNotFoundError) and path.is_symlink()
        return Refusal("unreadable", "a link that leads nowhere" if nowhere else error.strerror or str(error))


def look_at_all(files: Sequence[Path], *, reporter: Reporter) -> list[str | Refusal]:
    """`look` at many files, eight at a time; where it takes a while, progress is shown."""
    some = [files[at : at + TOGETHER] for at in range(0, len(files), TOGETHER)]
    shown = reporter if len(files) >= MANY else SilentReporter()
    verdicts: list[str | Refusal] = []
    with shown.track("Listing", len(files), unit="files") as advance, ThreadPoolExecutor(8) as pool:
        for part in pool.map(lambda files: [look(file) for file in files], some):
            verdicts += part
            advance(len(part))
    return verdicts


def expect_most(refused: Sequence[Refused], total: int, where: str) -> None:
    """Most of a source can be used, or the source was misunderstood.

    Raises:
        DataError: more than half of `total` are refused; the message names the first few.
    """
    if 2 * len(refused) > total:
        listed = "\n".join(f"    {item.image}: {item.code}, {item.detail}" for item in refused[:5])
        raise DataError(
            f"{len(refused):,} of {total:,} {where} cannot be used, more than half. The first:\n{listed}"
        )


def contradictions(samples: Sequence[Sample], classes: Sequence[str]) -> dict[int, str]:
    """Place of each sample whose pictures another sample has with another class -> what to say of it.

    Example:
        >>> one, two = Sample("cat/1.png", 0, "61" * 16), Sample("dog/7.png", 1, "61" * 16)
        >>> contradictions([one, two], ["cat", "dog"])[0]
        'the same bytes as dog/7.png, which is dog'
    """
    found = {}
    for places in _alike(samples):
        for at in places:
            other = next((n for n in places if samples[n].target != samples[at].target), None)
            if other is not None:
                name = classes[cast("int", samples[other].target)]
                found[at] = f"the same bytes as {samples[other].path}, which is {name}"
    return found


def same_files(root: Path, samples: Sequence[Sample]) -> set[int]:
    """Places of the samples whose file is that of an earlier one, of the same target and part, too."""
    found = set()
    for places in _alike(samples):
        seen = set()
        for at in places:
            sample = samples[at]
            if sample.more:
                continue
            try:
                file = (root / sample.path).stat()
            except OSError:  # gone by now: the decoder will say so
                continue
            name = (file.st_dev, file.st_ino, sample.target, sample.part, sample.group)
            if name in seen:
                found.add(at)
            seen.add(name)
    return found


def _alike(samples: Sequence[Sample]) -> list[list[int]]:
    """The places of samples of the same pictures, where there are several."""
    places = defaultdict(list)
    for at, sample in enumerate(samples):
        places[sample.digest, *(photo.digest for photo in sample.more)].append(at)
    return [found for found in places.values() if len(found) > 1]
