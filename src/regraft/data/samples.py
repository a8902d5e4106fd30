"""The samples of a data set, the inspection of their files, and samples with the same bytes."""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar, cast

from regraft.data.images.decode import digest
from regraft.data.images.rejections import HEAD_BYTES, Rejection, sniff
from regraft.errors import DataError, describe_os_error
from regraft.system.console import Reporter, SilentReporter

__all__ = [
    "ImageFile",
    "Listing",
    "RejectedFile",
    "Sample",
    "Target",
    "find_contradictions",
    "find_same_files",
    "inspect_file",
    "inspect_files",
    "report_notes",
    "require_majority_usable",
    "sniff_file",
]

T = TypeVar("T")
Target = int | tuple[int, ...] | tuple[float, ...]
MAX_FILE_BYTES = 100 * 2**20
FILES_PER_TASK = 64  # that a thread inspects before it takes more
MAX_NOTES = 12  # shown on the terminal at a time
MANY_FILES = 5000  # from which progress is shown


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file: its path relative to the root of the catalog, and the digest of its content."""

    path: str
    digest: str


@dataclass(frozen=True, slots=True)
class Sample:
    """A sample: an image, or seldom several, and its target.

    Attributes:
        path, digest: of its image, or of the first of them; see `ImageFile`.
        target: the number of a class; the sorted numbers of labels (multilabel); the values (regression).
        part: "train", "validation" or "test"; "" before the split.
        group: samples of one group stay in one part; "" for no group.
        extra_images: all images after the first.
        cells: of the columns in `Recipe.slice`, in their order; () for data without such columns.
        weight: how much the sample counts in training, from 0; scores do not use it.
    """

    path: str
    target: Target
    digest: str
    part: str = ""
    group: str = ""
    extra_images: tuple[ImageFile, ...] = ()
    cells: tuple[str, ...] = ()
    weight: float = 1.0

    @property
    def images(self) -> tuple[ImageFile, ...]:
        """Return all images."""
        return (ImageFile(self.path, self.digest), *self.extra_images)


@dataclass(frozen=True, slots=True)
class RejectedFile:
    """A file, row or item that is not used, with a code and a detail for the reader."""

    image: str
    code: str
    detail: str


class Listing(NamedTuple):
    """The content of a source: the fields of `Catalog`, in the same order."""

    root: Path
    outputs: tuple[str, ...]
    samples: tuple[Sample, ...]
    refused: tuple[RejectedFile, ...]
    notes: tuple[str, ...]
    task: str
    why: str


def inspect_file(path: Path) -> str | Rejection:
    """Return the digest of a file that may be an image, or the reason why it is not used."""
    return _judge_file(path, _compute_digest)


def sniff_file(path: Path) -> Rejection | None:
    """Return the reason why a file is not used, by its first bytes; None where they may begin an image."""
    return _judge_file(path, lambda head, file: None)


def _judge_file(path: Path, read: Callable[[bytes, BinaryIO], T]) -> T | Rejection:
    """Read a file that begins like an image, or return the reason why it is not used."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return Rejection("not_a_file", "a pipe, socket or device is never opened")
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            return sniff(head) or read(head, file)
    except OSError as error:
        is_dangling = isinstance(error, FileNotFoundError) and path.is_symlink()
        detail = "a link that leads nowhere" if is_dangling else describe_os_error(error)
        return Rejection("unreadable", detail)


def _compute_digest(head: bytes, file: BinaryIO) -> str | Rejection:
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE_BYTES:
        return Rejection("file_too_large", f"{size:,} bytes, at most {MAX_FILE_BYTES:,}")
    return digest(head + file.read())


def inspect_files(files: Sequence[Path], *, reporter: Reporter) -> list[str | Rejection]:
    """Inspect files in eight threads, each as `inspect_file` does; show progress where they are many."""
    chunks = [files[start : start + FILES_PER_TASK] for start in range(0, len(files), FILES_PER_TASK)]
    progress = reporter if len(files) >= MANY_FILES else SilentReporter()
    results: list[str | Rejection] = []
    with progress.track("Listing", len(files), unit="files") as advance, ThreadPoolExecutor(8) as pool:
        for chunk_results in pool.map(lambda chunk: [inspect_file(file) for file in chunk], chunks):
            results += chunk_results
            advance(len(chunk_results))
    return results


def report_notes(reporter: Reporter, notes: Sequence[str]) -> None:
    """Report the first notes on the data, and how many more there are."""
    for note in notes[:MAX_NOTES]:
        reporter.info(note)
    if len(notes) > MAX_NOTES:
        reporter.info(f"... and {len(notes) - MAX_NOTES:,} more notes on the data.")


def require_majority_usable(refused: Sequence[RejectedFile], total: int, where: str, hint: str = "") -> None:
    """Check that at least half of a source can be used; otherwise it was probably misunderstood.

    Raises:
        DataError: more than half of `total` are refused; the message names the first few, and the hint.
    """
    if 2 * len(refused) > total:
        first = "\n".join(f"    {item.image}: {item.code}, {item.detail}" for item in refused[:5])
        raise DataError(
            f"{len(refused):,} of {total:,} {where} cannot be used, more than half. The first:\n{first}"
            + (f"\n{hint}" if hint else "")
        )


def find_contradictions(samples: Sequence[Sample], classes: Sequence[str]) -> dict[int, str]:
    """Return an explanation for each sample, by its number, whose images another class has too.

    Example:
        >>> one, two = Sample("cat/1.png", 0, "61" * 16), Sample("dog/7.png", 1, "61" * 16)
        >>> find_contradictions([one, two], ["cat", "dog"])[0]
        'the same bytes as dog/7.png, which is dog'
    """
    explanations = {}
    for numbers in _group_same_images(samples):
        for number in numbers:
            other = next((n for n in numbers if samples[n].target != samples[number].target), None)
            if other is not None:
                name = classes[cast("int", samples[other].target)]
                explanations[number] = f"the same bytes as {samples[other].path}, which is {name}"
    return explanations


def find_same_files(root: Path, samples: Sequence[Sample]) -> set[int]:
    """Return the numbers of the samples whose file, target and part are those of an earlier sample."""
    repeated = set()
    for numbers in _group_same_images(samples):
        seen = set()
        for number in numbers:
            sample = samples[number]
            if sample.extra_images:
                continue
            try:
                file = (root / sample.path).stat()
            except OSError:  # it has gone: the decoder will say so
                continue
            key = (file.st_dev, file.st_ino, sample.target, sample.part, sample.group, sample.weight)
            if key in seen:
                repeated.add(number)
            seen.add(key)
    return repeated


def _group_same_images(samples: Sequence[Sample]) -> list[list[int]]:
    """Return the numbers of samples with the same images, for each set of images that several have."""
    numbers = defaultdict(list)
    for number, sample in enumerate(samples):
        numbers[tuple(image.digest for image in sample.images)].append(number)
    return [group for group in numbers.values() if len(group) > 1]
