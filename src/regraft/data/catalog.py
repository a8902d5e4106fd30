"""Which images, which targets, which classes; a content digest per image.

A catalog is a list made by looking at names and bytes, not at pixels: making one is fast and decodes
nothing. Pixels are the business of `decode`, verdicts on them come with the features.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.data.decode import EXTENSIONS, digest
from regraft.data.folder import LAYOUT, ClassFolder, class_folders, files_below
from regraft.data.refusal import HEAD, Refusal, sniff
from regraft.errors import DataError

__all__ = ["PARTS", "Catalog", "Photo", "Refused", "Sample", "list_images"]

Target = int | tuple[int, ...] | tuple[float, ...]
PARTS = ("train", "validation", "test")
MAX_FILE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Photo:
    """One image file: its path relative to the catalog's root, and the digest of its content."""

    path: str
    digest: str


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Refused:
    """A file that is not used, with the code and detail of `data.decode`'s table."""

    image: str
    code: str
    detail: str


@dataclass(frozen=True)
class Catalog:
    """Images with their targets.

    Attributes:
        root: the folder that paths are relative to.
        outputs: names of what a model answers: classes or labels, sorted, or the targets of regression.
        samples: sorted by path where they come from a folder, in the source's order otherwise.
        refused: the files, or rows, that are not used.
        notes: sentences for the report.
        task: "multiclass", "binary", "multilabel" or "regression".
    """

    root: Path
    outputs: tuple[str, ...]
    samples: tuple[Sample, ...]
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()
    task: str = "multiclass"

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str]) -> Catalog:
        """List a folder of class folders, or one with train, validation (val, valid) and test subfolders.

        Raises:
            UsageError: `path` is no folder.
            DataError: it has no class folders, or no images.
            EnvironmentFault: it cannot be read.

        Example:
            >>> import tempfile; from PIL import Image
            >>> root = Path(tempfile.mkdtemp())
            >>> for name in ("cat", "dog"):
            ...     (root / name).mkdir()
            ...     Image.new("RGB", (8, 8), name == "cat" and "red" or "blue").save(root / name / "1.png")
            >>> Catalog.from_folder(root).outputs
            ('cat', 'dog')
        """
        notes: list[str] = []
        found = class_folders(Path(path), notes)
        return _assemble(Path(path), found, notes)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def digest(self) -> str:
        """One digest of what is in the catalog: every image's content and class, wherever the files lie."""
        rows = sorted(
            f"{' '.join(photo.digest for photo in sample.photos)} {self.words(sample)} {sample.part}"
            for sample in self.samples
        )
        return hashlib.blake2b("\n".join(rows).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def words(self, sample: Sample) -> str:
        """A sample's target for the eye: its class, its labels, or its values."""
        if self.task == "regression":
            return ", ".join(f"{value:g}" for value in cast("tuple[float, ...]", sample.target))
        return ", ".join(self.outputs[label] for label in _numbers(sample))

    def part(self, name: str) -> tuple[Sample, ...]:
        """The samples of one part."""
        return tuple(sample for sample in self.samples if sample.part == name)

    def targets(self, samples: Sequence[Sample]) -> NDArray[Any]:
        """The targets of samples, in their order.

        Returns:
            int64 (n,) class numbers for multiclass and binary; float32 (n, labels) of 0 and 1 for multilabel;
            float32 (n, targets) for regression.
        """
        if self.task in ("multiclass", "binary"):
            return np.array([sample.target for sample in samples], np.int64)
        found = np.zeros((len(samples), len(self.outputs)), np.float32)
        for row, sample in zip(found, samples, strict=True):
            if self.task == "regression":
                row[:] = sample.target
            else:
                row[list(cast("tuple[int, ...]", sample.target))] = 1
        return found

    def counts(self, part: str) -> list[int]:
        """Samples of each class or label in a part."""
        counter = Counter(label for sample in self.part(part) for label in _numbers(sample))
        return [counter[label] for label in range(len(self.outputs))]

    def without(self, refused: Iterable[Refused]) -> Catalog:
        """The catalog less some files, which join `refused`.

        Raises:
            DataError: no image is left.
        """
        gone = {item.image: item for item in refused}
        samples = [s for s in self.samples if not any(photo.path in gone for photo in s.photos)]
        everything = tuple(sorted((*self.refused, *gone.values()), key=lambda item: item.image))
        return _not_empty(replace(self, samples=tuple(samples), refused=everything))

    def learnable(self) -> Catalog:
        """The catalog, if a classifier can be trained on it; classes without any image are left out.

        Raises:
            DataError: fewer than two classes, or a class with no training image.
        """
        if self.task == "regression":
            return self
        learnt = {label for s in self.samples if s.part in ("", "train") for label in _numbers(s)}
        names = [name for label, name in enumerate(self.outputs) if label in learnt]
        unseen = {self.outputs[label] for s in self.samples for label in _numbers(s) if label not in learnt}
        if unseen:
            raise DataError(
                f"Classes without a training image: {', '.join(sorted(unseen))}. "
                "Give each some in train/, or take them out of validation/ and test/."
            )
        if len(names) < (1 if self.task == "multilabel" else 2):
            raise DataError(
                f"Expected at least 2 classes to tell apart. Received: {len(names)} ({', '.join(names)}) "
                f"in {self.root}. {_why_so_few(self)}{LAYOUT}"
            )
        return self if len(names) == len(self.outputs) else _without_empty(self, names)


def list_images(path: Path) -> Iterator[Path]:
    """Every file below a folder that may be an image, junk left out, sorted; a file gives itself."""
    if path.is_dir():
        yield from (file for file in files_below(path, []) if file.suffix.lower() in EXTENSIONS)
    else:
        yield path


def _assemble(root: Path, found: list[ClassFolder], notes: list[str]) -> Catalog:
    classes = tuple(sorted({folder.name for folder in found if folder.files}))
    empty = sorted({folder.name for folder in found} - set(classes))
    notes += [f"The class folder {name} is empty and was left out." for name in empty]
    index = {name: label for label, name in enumerate(classes)}
    jobs = [(folder, file) for folder in found for file in folder.files]
    with ThreadPoolExecutor(8) as pool:
        verdicts = list(pool.map(look, (file for _, file in jobs)))
    samples, refused, ignored = [], [], Counter[str]()
    for (folder, file), verdict in zip(jobs, verdicts, strict=True):
        name = file.relative_to(root).as_posix()
        if isinstance(verdict, str):
            samples.append(Sample(name, index[folder.name], verdict, folder.part))
        elif _is_bystander(file, verdict):
            ignored[file.suffix.lower()] += 1
        else:
            refused.append(Refused(name, verdict.code, verdict.detail))
    notes += [f"{n} {kind} file{'s' * (n > 1)} ignored: not images." for kind, n in sorted(ignored.items())]
    samples.sort(key=lambda sample: sample.path)
    refused.sort(key=lambda item: item.image)
    return _not_empty(Catalog(root, classes, tuple(samples), tuple(refused), tuple(notes)))


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
        return Refusal("unreadable", error.strerror or str(error))


def _is_bystander(file: Path, verdict: Refusal) -> bool:
    """A file that nobody meant as an image: notes.txt, labels.csv. Not so a text called photo.jpg."""
    named_otherwise = bool(file.suffix) and file.suffix.lower() not in EXTENSIONS
    return named_otherwise and verdict.code in ("not_an_image", "empty")


def _not_empty(catalog: Catalog) -> Catalog:
    if catalog.samples:
        return catalog
    raise DataError(f"No images in {catalog.root}. {_why_so_few(catalog)}{LAYOUT}")


def _why_so_few(catalog: Catalog) -> str:
    if not catalog.refused:
        return ""
    first = catalog.refused[0]
    return f"{len(catalog.refused)} files were refused, the first: {first.image} ({first.code}). "


def _without_empty(catalog: Catalog, names: list[str]) -> Catalog:
    new = {catalog.outputs.index(name): label for label, name in enumerate(names)}
    samples = tuple(replace(sample, target=_renumbered(sample.target, new)) for sample in catalog.samples)
    lost = sorted(set(catalog.outputs) - set(names))
    notes = (*catalog.notes, *(f"The class {name} has no usable image and was left out." for name in lost))
    return replace(catalog, outputs=tuple(names), samples=samples, notes=notes)


def _numbers(sample: Sample) -> tuple[int, ...]:
    """The class or the labels of a sample, as places in `Catalog.outputs`."""
    return (sample.target,) if isinstance(sample.target, int) else cast("tuple[int, ...]", sample.target)


def _renumbered(target: Target, new: dict[int, int]) -> Target:
    return new[target] if isinstance(target, int) else tuple(new[int(label)] for label in target)
