"""Which images, which targets, which classes; a content digest per image.

A catalog is a list made by looking at names and bytes, not at pixels: making one is fast and decodes
nothing. Pixels are the business of `decode`, verdicts on them come with the features.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from regraft.data.decode import EXTENSIONS, digest
from regraft.data.folder import LAYOUT, ClassFolder, class_folders, files_below
from regraft.data.refusal import HEAD, Refusal, sniff
from regraft.errors import DataError

__all__ = ["PARTS", "Catalog", "Refused", "Sample", "list_images"]

PARTS = ("train", "validation", "test")
MAX_FILE_BYTES = 100 * 2**20


@dataclass(frozen=True)
class Sample:
    """One image: `path` relative to the catalog's root, index of its class, digest of its content, its part.

    `part` is "train", "validation" or "test", or "" while nothing has been cut.
    """

    path: str
    label: int
    digest: str
    part: str = ""


@dataclass(frozen=True)
class Refused:
    """A file that is not used, with the code and detail of `data.decode`'s table."""

    image: str
    code: str
    detail: str


@dataclass(frozen=True)
class Catalog:
    """Images with their classes. `samples` are sorted by path; `classes` are sorted names.

    `refused` names the files that are not used, `notes` holds sentences for the report.
    """

    root: Path
    classes: tuple[str, ...]
    samples: tuple[Sample, ...]
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()

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
            >>> Catalog.from_folder(root).classes
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
        rows = sorted(f"{s.digest} {self.classes[s.label]} {s.part}" for s in self.samples)
        return hashlib.blake2b("\n".join(rows).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def part(self, name: str) -> tuple[Sample, ...]:
        """The samples of one part."""
        return tuple(sample for sample in self.samples if sample.part == name)

    def counts(self, part: str) -> list[int]:
        """Images of each class in a part."""
        counter = Counter(sample.label for sample in self.part(part))
        return [counter[label] for label in range(len(self.classes))]

    def without(self, refused: Iterable[Refused]) -> Catalog:
        """The catalog less some files, which join `refused`.

        Raises:
            DataError: no image is left.
        """
        gone = {item.image: item for item in refused}
        samples = [sample for sample in self.samples if sample.path not in gone]
        everything = tuple(sorted((*self.refused, *gone.values()), key=lambda item: item.image))
        return _not_empty(replace(self, samples=tuple(samples), refused=everything))

    def learnable(self) -> Catalog:
        """The catalog, if a classifier can be trained on it; classes without any image are left out.

        Raises:
            DataError: fewer than two classes, or a class with no training image.
        """
        to_learn = {sample.label for sample in self.samples if sample.part in ("", "train")}
        names = [name for label, name in enumerate(self.classes) if label in to_learn]
        unseen = {self.classes[s.label] for s in self.samples if s.label not in to_learn}
        if unseen:
            raise DataError(
                f"Classes without a training image: {', '.join(sorted(unseen))}. "
                "Give each some in train/, or take them out of validation/ and test/."
            )
        if len(names) < 2:
            raise DataError(
                f"Expected at least 2 classes to tell apart. Received: {len(names)} ({', '.join(names)}) "
                f"in {self.root}. {_why_so_few(self)}{LAYOUT}"
            )
        return self if len(names) == len(self.classes) else _without_empty(self, names)


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
    new = {catalog.classes.index(name): label for label, name in enumerate(names)}
    samples = tuple(replace(sample, label=new[sample.label]) for sample in catalog.samples)
    lost = sorted(set(catalog.classes) - set(names))
    notes = (*catalog.notes, *(f"The class {name} has no usable image and was left out." for name in lost))
    return replace(catalog, classes=tuple(names), samples=samples, notes=notes)
