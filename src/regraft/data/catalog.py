"""Which images, which targets, which classes; a content digest per image.

A catalog is a list made by looking at names and bytes, not at pixels: making one is fast and decodes
nothing. Pixels are the business of `decode`, verdicts on them come with the features.

The units that a head for numbers works in.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.data.folders import LAYOUT, list_folder, list_images
from regraft.data.image_writer import Spool
from regraft.data.images.decoder_pool import Job
from regraft.data.images.rejections import Refusal
from regraft.data.samples import Photo, Refused, Sample, Target
from regraft.data.streams import list_stream, open_arrays, open_source
from regraft.data.tables import Columns, list_rows
from regraft.data.targets import retarget
from regraft.errors import DataError, UsageError
from regraft.recipe import Recipe
from regraft.system.cache_dir import writable_root
from regraft.system.console import TERMINAL, Reporter

__all__ = ["PARTS", "TABLES", "Catalog", "Photo", "Refused", "Sample", "list_images", "units_of"]


PARTS = ("train", "validation", "test")
TABLES = (".csv", ".tsv", ".txt", ".parquet")  # suffixes of tables


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
        why: what the task was told from, for a person to read; "" where nothing was inferred.
    """

    root: Path
    outputs: tuple[str, ...]
    samples: tuple[Sample, ...]
    refused: tuple[Refused, ...] = ()
    notes: tuple[str, ...] = ()
    task: str = "multiclass"
    why: str = ""

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, reporter: Reporter = TERMINAL) -> Catalog:
        """List a folder of class folders, or one with train, validation (val, valid) and test subfolders.

        `reporter` shows how far it is, where the files are many.

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
        return _not_empty(cls(*list_folder(Path(path), reporter=reporter)))

    @classmethod
    def from_table(
        cls,
        source: Any,
        *,
        image: str | Sequence[str],
        target: str | Sequence[str],
        root: str | os.PathLike[str] | None = None,
        group: str = "",
        split: str = "",
        separator: str = "",
        task: str = "auto",
        reporter: Reporter = TERMINAL,
    ) -> Catalog:
        """List the images that a table names, a row a sample.

        Rows that cannot be used are refused by number (the header is row 1): without image file or label,
        with a text among numbers, a path out of the folder, a web address, or contradicted by another row.

        Args:
            source: path of a CSV or Parquet file, or a data frame (pandas, polars, a dictionary of lists).
            image: column of paths; several columns where a sample has several images.
            target: column of classes, labels or numbers; several for several labels (0 and 1) or numbers.
            root: folder that paths are relative to, and that none may leave; None for the table's own.
            group: column of what must not be torn apart, such as a patient.
            split: column that says train, validation (val, valid) or test.
            separator: what stands between the labels of a cell, such as "|".
            task: see `data.targets`; "auto" to infer it, and say so in `why`.
            reporter: shows how far it is, where the files are many.

        Raises:
            UsageError: no such file or column, or the targets cannot be of this task.
            DataError: most rows cannot be used; groups are torn apart by the split, or there is only one.
            EnvironmentFault: a file cannot be read, or Parquet needs a package.

        Example:
            >>> import tempfile; from PIL import Image
            >>> root = Path(tempfile.mkdtemp())
            >>> for name in ("a", "b"):
            ...     Image.new("RGB", (8, 8), name == "a" and "red" or "blue").save(root / f"{name}.png")
            >>> table = {"file": ["a.png", "b.png"], "size": [1.5, 2.25]}
            >>> Catalog.from_table(table, image="file", target="size", root=root).task
            'regression'
        """
        columns = Columns(_names(image), _names(target), group, split, separator)
        return _not_empty(cls(*list_rows(source, columns, root=root, task=task, reporter=reporter)))

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        targets: Any,
        *,
        names: Sequence[str] = (),
        task: str = "auto",
        groups: Any = None,
        store: str | os.PathLike[str] | None = None,
        scale: float = 1.0,
        reporter: Reporter = TERMINAL,
    ) -> Catalog:
        """Keep images in memory as files of the store, one each, without loss.

        Args:
            images: (n, h, w, 3), (n, h, w, 1) or (n, h, w) in 0..255, or a list of such pictures of different
                sizes or of Pillow images. Values are rounded to 8 bits.
            targets: (n,) classes or numbers; (n, k) one-hot rows, 0 and 1 a label, or numbers.
            names: of the classes that 0, 1, 2, ... stand for, or of the k columns.
            task: see `data.targets`; "auto" to infer it, and say so in `why`.
            groups: (n,) names or numbers of what must not be torn apart.
            store: as for `train`; None for the user's cache.
            scale: what pixels are multiplied by, such as 255 where they are in 0..1.
            reporter: shows how far it is.

        Raises:
            UsageError: lengths differ, or the targets cannot be of this task.
            DataError: pixels are not in 0..255, or most images cannot be used.
            EnvironmentFault: the store cannot be written.

        Example:
            >>> import tempfile
            >>> pixels = np.arange(96, dtype=np.uint8).reshape(2, 4, 4, 3)
            >>> Catalog.from_arrays(pixels, [0, 1], names=["cat", "dog"], store=tempfile.mkdtemp()).outputs
            ('cat', 'dog')
        """
        spool = Spool(writable_root(store, reporter=reporter) / "spool", scale=scale)
        stream = open_arrays(images, targets)
        found = list_stream(stream, spool, names=names, task=task, groups=groups, reporter=reporter)
        return _not_empty(cls(*found))

    @classmethod
    def from_stream(
        cls,
        source: Any,
        *,
        columns: tuple[str, str] = ("image", "label"),
        names: Sequence[str] = (),
        task: str = "auto",
        limit: int | None = None,
        store: str | os.PathLike[str] | None = None,
        scale: float = 1.0,
        reporter: Reporter = TERMINAL,
    ) -> Catalog:
        """Read a data set once, picture by picture, into files of the store; never all of it is in memory.

        Args:
            source: a `tf.data.Dataset`, a Keras `PyDataset`, a Hugging Face data set, a PyTorch loader or
                data set, or any iterable of (image, target), batched or not. Images are arrays, channels
                first or last, Pillow images, or the bytes of image files.
            columns: names of image and target where rows are dictionaries.
            limit: how many images to take; needed where a stream has no end.
            names, task, store, scale, reporter: as for `from_arrays`.

        Raises:
            UsageError, DataError, EnvironmentFault: as for `from_arrays`.

        Example:
            >>> import tempfile
            >>> rows = ({"image": np.full((4, 4, 3), 9 * n), "label": n / 7} for n in range(5))
            >>> Catalog.from_stream(rows, store=tempfile.mkdtemp()).task
            'regression'
        """
        spool = Spool(writable_root(store, reporter=reporter) / "spool", scale=scale)
        stream = open_source(source, columns, limit)
        return _not_empty(cls(*list_stream(stream, spool, names=names, task=task, reporter=reporter)))

    @classmethod
    def open(cls, data: Catalog | str | os.PathLike[str], recipe: Recipe) -> Catalog:
        """Return the catalog of a folder or of a table, whose columns the recipe names; or `data` itself.

        Raises:
            UsageError, DataError, EnvironmentFault: see `from_folder` and `from_table`.
        """
        if isinstance(data, Catalog):
            return data.as_task(recipe.task)
        path = Path(data)
        columns = {"image": recipe.image, "target": recipe.target}
        if path.suffix.lower() in TABLES and not path.is_dir():
            missing = [f"--{name} COLUMN" for name, value in columns.items() if not value]
            if missing:
                raise UsageError(f"{path} is a table: say {' and '.join(missing)}.")
            return cls.from_table(
                path,
                image=recipe.image,
                target=recipe.target,
                group=recipe.group,
                split=recipe.split,
                separator=recipe.separator,
                task=recipe.task,
            )
        named = [f"--{name}" for name, value in columns.items() if value]
        if named:
            raise UsageError(
                f"{', '.join(named)} name columns of a table. Received: {path}, which is no table."
            )
        return cls.from_folder(path).as_task(recipe.task)

    def as_task(self, task: str) -> Catalog:
        """The catalog with its targets read as another task's.

        "auto" makes two classes binary, with the class that means "no" first, and leaves all else.

        Raises:
            UsageError: they cannot be, such as binary with three classes.

        Example:
            >>> photo = Sample("1.png", 1, "0" * 32)
            >>> Catalog(Path(), ("no", "yes"), (photo,)).as_task("multilabel").samples[0].target
            (1,)
        """
        values = [sample.target for sample in self.samples]
        found = retarget(values, self.outputs, self.task, task)
        samples = (
            replace(s, target=v) for s, v in zip(self.samples, found.values, strict=True) if v is not None
        )
        why = found.why or self.why
        return replace(self, outputs=found.outputs, samples=tuple(samples), task=found.task, why=why)

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

    @property
    def photos(self) -> Iterator[Photo]:
        """The image files of all samples, in their order; one that several samples name, as often."""
        return (photo for sample in self.samples for photo in sample.photos)

    @property
    def contents(self) -> list[str]:
        """The digests of all images, each once, in the order of the samples."""
        return list(dict.fromkeys(photo.digest for photo in self.photos))

    def jobs(self, digests: Sequence[str]) -> list[Job]:
        """Return the files to decode for some contents, one for each."""
        where = {photo.digest: photo.path for photo in self.photos}
        return [Job(self.root / where[digest], digest) for digest in digests]

    def refused_for(self, refusals: Mapping[str, Refusal]) -> list[Refused]:
        """An entry for every file of a content that is refused, copies included; `refusals` by digest."""
        return [
            Refused(photo.path, found.code, found.detail)
            for photo in dict.fromkeys(self.photos)
            if (found := refusals.get(photo.digest)) is not None
        ]

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
        """The catalog, if a model can be trained on it; classes and labels without any image are left out.

        Raises:
            DataError: fewer than two classes; a class or label that no training sample has; a target that is
                the same number in all of them.
        """
        if self.task == "regression":
            return _varying(self)
        learnt = {label for s in self.samples if s.part in ("", "train") for label in _numbers(s)}
        names = [name for label, name in enumerate(self.outputs) if label in learnt]
        unseen = {self.outputs[label] for s in self.samples for label in _numbers(s) if label not in learnt}
        if unseen:
            raise DataError(
                f"{'Labels' if self.task == 'multilabel' else 'Classes'} without a training image: "
                f"{', '.join(sorted(unseen))}. "
                "Give each some to train on, or take them out of validation and test."
            )
        if len(names) < (1 if self.task == "multilabel" else 2):
            raise DataError(
                f"Expected at least 2 classes to tell apart. Received: {len(names)} ({', '.join(names)}) "
                f"in {self.root}. {_why_so_few(self)}"
            )
        return self if len(names) == len(self.outputs) else _without_empty(self, names)


def _not_empty(catalog: Catalog) -> Catalog:
    if catalog.samples:
        return catalog
    raise DataError(f"No images in {catalog.root}. {_why_so_few(catalog)}")


def _why_so_few(catalog: Catalog) -> str:
    """What was refused; and the layout expected, for a folder, where no task is inferred from values."""
    first = next(iter(catalog.refused), None)
    refused = (
        f"{len(catalog.refused)} were refused, the first: {first.image} ({first.code}). " if first else ""
    )
    return refused + ("" if catalog.why else LAYOUT)


def _varying(catalog: Catalog) -> Catalog:
    """The catalog, if every target of a regression has at least two values to learn from."""
    training = catalog.targets([s for s in catalog.samples if s.part in ("", "train")])
    for name, values in zip(catalog.outputs, training.T, strict=True):
        if len(set(values.tolist())) < 2:
            what = f"{values[0]:g} in every training sample" if len(values) else "no training sample"
            raise DataError(f"Expected different numbers of {name} to learn from. Received: {what}.")
    return catalog


def _names(columns: str | Sequence[str]) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(columns)


def _without_empty(catalog: Catalog, names: list[str]) -> Catalog:
    new = {catalog.outputs.index(name): label for label, name in enumerate(names)}
    samples = tuple(replace(sample, target=_renumbered(sample.target, new)) for sample in catalog.samples)
    lost = sorted(set(catalog.outputs) - set(names))
    kind = "label" if catalog.task == "multilabel" else "class"
    notes = tuple(f"The {kind} {name} has no usable image and was left out." for name in lost)
    return replace(catalog, outputs=tuple(names), samples=samples, notes=(*catalog.notes, *notes))


def _numbers(sample: Sample) -> tuple[int, ...]:
    """The class or the labels of a sample, as places in `Catalog.outputs`."""
    return (sample.target,) if isinstance(sample.target, int) else cast("tuple[int, ...]", sample.target)


def _renumbered(target: Target, new: dict[int, int]) -> Target:
    return new[target] if isinstance(target, int) else tuple(new[int(label)] for label in target)


def units_of(catalog: Catalog) -> tuple[list[float], list[float]] | None:
    """Deviation and mean of each target of regression where nothing is held out by the user."""
    if catalog.task != "regression":
        return None
    targets = catalog.targets([s for s in catalog.samples if s.part in ("", "train")]).astype(np.float64)
    deviation = targets.std(0)
    return np.where(deviation > 0, deviation, 1.0).tolist(), targets.mean(0).tolist()
