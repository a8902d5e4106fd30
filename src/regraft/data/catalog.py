"""The catalog of a data set: its images, their targets and the digest of each image.

A catalog is made from names and bytes. Nothing is decoded, so this is fast; images that cannot be decoded are
rejected later, when features are extracted.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.data.cells import write_number
from regraft.data.folders import list_folder, suggest_inner_folder
from regraft.data.image_writer import ImageWriter
from regraft.data.images.decoder_pool import Job
from regraft.data.images.rejections import Rejection
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.data.learnable import check_numbers, check_repetition, check_weights
from regraft.data.parts import LAYOUT
from regraft.data.samples import ImageFile, RejectedFile, Sample, Target, report_notes
from regraft.data.sources import Source, require_on_disk
from regraft.data.streams import list_stream, open_arrays, open_source
from regraft.data.table_files import is_table
from regraft.data.tables import Columns, list_rows, to_names
from regraft.data.targets import convert_targets
from regraft.errors import DataError, UsageError
from regraft.recipe import Recipe
from regraft.system.cache_dir import find_writable_root
from regraft.system.console import TERMINAL, Reporter, format_names

__all__ = ["PARTS", "Catalog", "ImageFile", "RejectedFile", "Sample"]

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class Catalog:
    """A list of images with their targets.

    Attributes:
        root: the folder that paths are relative to; made absolute.
        outputs: names of the model's outputs: classes or labels, sorted, or the targets of regression.
        samples: sorted by path where they come from a folder, otherwise in the order of the source.
        refused: the files or rows that are not used.
        notes: sentences for the report.
        task: "multiclass", "binary", "multilabel" or "regression".
        why: the reason for this task, for the reader; "" where it was not inferred.
        depth: how many bits of 16-bit samples are used; see `Recipe.depth`.
        source: where the catalog was read from. A changed copy comes from Python.
    """

    root: Path
    outputs: tuple[str, ...]
    samples: tuple[Sample, ...]
    refused: tuple[RejectedFile, ...] = ()
    notes: tuple[str, ...] = ()
    task: str = "multiclass"
    why: str = ""
    depth: int = FULL_DEPTH
    source: Source = field(default=Source.from_memory("catalog"), init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        # The current folder may change before the files are read.
        object.__setattr__(self, "root", self.root.absolute())

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], *, reporter: Reporter = TERMINAL) -> Catalog:
        """List a folder of class folders, or one with train, validation (val, dev, ...) and test subfolders.

        `reporter` is told which files are not used, and shows progress where there are many.

        Raises:
            UsageError: `path` is not a folder.
            DataError: it has no class folders or no images, or it is unclear which folders are classes.
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
        return _complete(cls(*list_folder(Path(path), reporter=reporter)), Source.from_folder(path), reporter)

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
        weight: str = "",
        separator: str = "",
        slice: str | Sequence[str] = (),  # noqa: A002 - the recipe's name
        task: str = "auto",
        reporter: Reporter = TERMINAL,
    ) -> Catalog:
        """List the images that a table names, one sample for each row.

        Rows that cannot be used are refused by number (the header is row 1): those without an image file or
        label, with text among numbers, with a path out of the folder or a web address, and those that
        contradict another row.

        Args:
            source: path of a CSV or Parquet file, or a data frame (pandas, polars, a dictionary of lists).
            image: column of paths; several columns where a sample has several images.
            target: column of classes, numbers, or lists of labels; several for labels (0 and 1) or numbers.
            root: folder that paths are relative to and may not lead out of; None for the folder of the table.
            group: column of groups, such as patients; a group stays in one part.
            split: column with the part of each row: train, validation (val, dev, ...) or test.
            weight: column with how much each row counts in training, from 0; scores count all alike.
            separator: text between the labels of a cell, such as "|"; lists need none.
            slice: columns that divide the images; see `Recipe.slice`.
            task: see `data.targets`; "auto" to infer it, with the reason in `why`.
            reporter: is told which rows are not used, and shows progress where there are many.

        Raises:
            UsageError: no such file or column, or the targets cannot be of this task.
            DataError: most rows cannot be used, the split divides a group, or there is only one group.
            EnvironmentFault: a file cannot be read, or a package for Parquet is missing.

        Example:
            >>> import tempfile; from PIL import Image
            >>> root = Path(tempfile.mkdtemp())
            >>> for name in ("a", "b"):
            ...     Image.new("RGB", (8, 8), name == "a" and "red" or "blue").save(root / f"{name}.png")
            >>> table = {"file": ["a.png", "b.png"], "size": [1.5, 2.25]}
            >>> Catalog.from_table(table, image="file", target="size", root=root).task
            'regression'
        """
        columns = Columns(to_names(image), to_names(target), group, split, separator, to_names(slice), weight)
        listing = list_rows(source, columns, root=root, task=task, reporter=reporter)
        return _complete(cls(*listing), Source.from_table(source, columns, root), reporter)

    @classmethod
    def from_arrays(
        cls,
        images: Any,
        targets: Any,
        *,
        names: Sequence[str] = (),
        task: str = "auto",
        groups: Any = None,
        weights: Any = None,
        store: str | os.PathLike[str] | None = None,
        scale: float = 1.0,
        reporter: Reporter = TERMINAL,
    ) -> Catalog:
        """Write images from memory into the store, without loss, as one file each.

        Args:
            images: (n, h, w, 3), (n, h, w, 1) or (n, h, w) in 0..255, or a list of images: such arrays of
                different sizes, or Pillow images. Values are rounded to 8 bits. With a fourth channel, which
                is opacity, (n, h, w, 4), images are laid on white.
            targets: (n,) classes or numbers; (n, k) one-hot rows, 0 and 1 for each label, or numbers; n
                lists, tuples, sets or arrays of labels.
            names: of the classes that 0, 1, 2, ... stand for, or of the k columns.
            task: see `data.targets`; "auto" to infer it, with the reason in `why`.
            groups: (n,) names or numbers of groups; all samples of a group stay in one part.
            weights: (n,) how much each image counts in training, from 0; scores count all alike.
            store: as for `train`; None for the user's cache folder.
            scale: factor of the pixels of arrays and of 16-bit Pillow images, such as 255 where they are in
                0..1, or 255/4095 where they have 12 bits.
            reporter: is told which images are not used, and shows progress.

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
        writer = ImageWriter(find_writable_root(store, reporter=reporter) / "spool", scale=scale)
        stream = open_arrays(images, targets)
        listing = list_stream(
            stream, writer, names=names, task=task, groups=groups, weights=weights, reporter=reporter
        )
        return _complete(cls(*listing), Source.from_memory("arrays"), reporter)

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
        """Read a data set once, image by image, into files of the store. It is never in memory as a whole.

        Args:
            source: a `tf.data.Dataset`, a Keras `PyDataset`, a Hugging Face data set, a PyTorch loader or
                data set, or any iterable of (image, target), in batches or not: all items are batches, or
                none. Images are arrays, channels first or last, Pillow images, or the bytes of image files.
                An item that is no image with a target, or that the source cannot read, is refused.
            columns: names of image and target where rows are dictionaries.
            limit: number of images to take; needed where a stream has no end.
            names, task, store, scale, reporter: as for `from_arrays`.

        Raises:
            UsageError, DataError, EnvironmentFault: as for `from_arrays`.

        Example:
            >>> import tempfile
            >>> rows = ({"image": np.full((4, 4, 3), 9 * n), "label": n / 7} for n in range(5))
            >>> Catalog.from_stream(rows, store=tempfile.mkdtemp()).task
            'regression'
        """
        writer = ImageWriter(find_writable_root(store, reporter=reporter) / "spool", scale=scale)
        stream = open_source(source, columns, limit)
        listing = list_stream(stream, writer, names=names, task=task, reporter=reporter)
        return _complete(cls(*listing), Source.from_memory("stream"), reporter)

    @classmethod
    def open(cls, data: Catalog | str | os.PathLike[str], recipe: Recipe) -> Catalog:
        """List a folder, or a table whose columns the recipe names; a catalog is used as it is.

        The recipe also sets `depth`.

        Raises:
            UsageError, DataError, EnvironmentFault: see `from_folder` and `from_table`.
        """
        catalog = data.as_task(recipe.task) if isinstance(data, Catalog) else cls._list(data, recipe)
        return _set_source(replace(catalog, depth=recipe.depth), catalog.source)

    @classmethod
    def _list(cls, data: str | os.PathLike[str], recipe: Recipe) -> Catalog:
        """List a folder or a table; see `open`."""
        require_on_disk(data)
        path = Path(data)
        columns = {"image": recipe.image, "target": recipe.target}
        if is_table(path):
            missing = [f"--{name} COLUMN" for name, value in columns.items() if not value]
            if missing:
                raise UsageError(f"{path} is a table: say {' and '.join(missing)}.")
            names = ("image", "target", "group", "split", "weight", "separator", "slice", "task")
            return cls.from_table(path, root=recipe.root or None, **{n: getattr(recipe, n) for n in names})
        options = [f"--{name}" for name in (*columns, "weight", "root", "slice") if getattr(recipe, name)]
        if options:
            raise UsageError(f"{', '.join(options)}: expected a table. Received: {path}, which is no table.")
        return cls.from_folder(path).as_task(recipe.task)

    def as_task(self, task: str) -> Catalog:
        """Return the catalog with its targets converted to another task.

        "auto" only makes two classes binary, with the class that means "no" first.

        Raises:
            UsageError: the targets cannot be converted, such as three classes to binary.

        Example:
            >>> sample = Sample("1.png", 1, "0" * 32)
            >>> Catalog(Path(), ("no", "yes"), (sample,)).as_task("multilabel").samples[0].target
            (1,)
        """
        targets = convert_targets([sample.target for sample in self.samples], self.outputs, self.task, task)
        pairs = zip(self.samples, targets.values, strict=True)
        samples = tuple(replace(sample, target=value) for sample, value in pairs if value is not None)
        why = targets.why or self.why
        converted = replace(self, outputs=targets.outputs, samples=samples, task=targets.task, why=why)
        return _set_source(converted, self.source)

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def digest(self) -> str:
        """Return one digest of the contents, targets, parts and weights of all samples, wherever they lie."""
        rows = sorted(
            f"{' '.join(image.digest for image in s.images)} {self.describe_target(s)} {s.part}"
            + ("" if s.weight == 1 else f" weight {s.weight!r}")
            for s in self.samples
        )
        return hashlib.blake2b("\n".join(rows).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    @property
    def images(self) -> Iterator[ImageFile]:
        """Yield the image files of all samples in order; a file of several samples comes several times."""
        return (image for sample in self.samples for image in sample.images)

    @property
    def digests(self) -> list[str]:
        """Return the digests of all images, each once, in the order of the samples."""
        return list(dict.fromkeys(image.digest for image in self.images))

    def make_jobs(self, digests: Sequence[str]) -> list[Job]:
        """Return a file to decode for each digest."""
        paths = {image.digest: image.path for image in self.images}
        return [Job(self.root / paths[digest], digest) for digest in digests]

    def find_rejected_files(self, rejections: Mapping[str, Rejection]) -> list[RejectedFile]:
        """Return an entry for every file with a rejected content, copies included; `rejections` by digest."""
        return [
            RejectedFile(image.path, rejection.code, rejection.detail)
            for image in dict.fromkeys(self.images)
            if (rejection := rejections.get(image.digest)) is not None
        ]

    def describe_target(self, sample: Sample) -> str:
        """Return the target of a sample as text: its class, its labels, or its values."""
        if self.task == "regression":
            return ", ".join(write_number(value) for value in cast("tuple[float, ...]", sample.target))
        return ", ".join(self.outputs[label] for label in _get_labels(sample))

    def part(self, name: str) -> tuple[Sample, ...]:
        """Return the samples of a part."""
        return tuple(sample for sample in self.samples if sample.part == name)

    def targets(self, samples: Sequence[Sample]) -> NDArray[Any]:
        """Return the targets of samples as an array.

        Returns:
            int64 (n,) class numbers for multiclass and binary; float32 (n, labels) of 0 and 1 for multilabel;
            float64 (n, targets) for regression.
        """
        if self.task in ("multiclass", "binary"):
            return np.array([sample.target for sample in samples], np.int64)
        if self.task == "regression":
            values = [sample.target for sample in samples]
            return np.array(values, np.float64).reshape(len(samples), len(self.outputs))
        targets = np.zeros((len(samples), len(self.outputs)), np.float32)
        for row, sample in zip(targets, samples, strict=True):
            row[list(cast("tuple[int, ...]", sample.target))] = 1
        return targets

    def count_samples(self, part: str) -> list[int]:
        """Return the number of samples of each class or label in a part."""
        counter = Counter(label for sample in self.part(part) for label in _get_labels(sample))
        return [counter[label] for label in range(len(self.outputs))]

    def exclude(self, refused: Iterable[RejectedFile]) -> Catalog:
        """Return the catalog without the samples of some files, which join `refused`.

        Raises:
            DataError: no image is left.
        """
        excluded = {item.image: item for item in refused}
        samples = tuple(s for s in self.samples if not any(image.path in excluded for image in s.images))
        all_refused = tuple(sorted((*self.refused, *excluded.values()), key=lambda item: item.image))
        return _require_samples(replace(self, samples=samples, refused=all_refused))

    def require_learnable(self) -> Catalog:
        """Check that a model can be trained on it; return it without classes and labels that have no image.

        Raises:
            DataError: there are fewer than two classes, almost every image has a class of its own, no
                training sample has some class or label, or a target is the same number in all training
                samples, or the weights of all training samples are 0.
        """
        training = [sample for sample in self.samples if sample.part in ("", "train")]
        check_weights(sample.weight for sample in training)
        if self.task == "regression":
            notes = check_numbers(self.targets(training), self.outputs)
            return replace(self, notes=(*self.notes, *notes)) if notes else self
        if self.task != "multilabel" and self.why:  # inferred from values, not from folders
            check_repetition([_get_labels(sample)[0] for sample in self.samples], self.outputs)
        trained = {label for s in training if s.weight > 0 for label in _get_labels(s)}
        names = [name for label, name in enumerate(self.outputs) if label in trained]
        unseen = {
            self.outputs[label] for s in self.samples for label in _get_labels(s) if label not in trained
        }
        if unseen:
            raise DataError(
                f"{'Labels' if self.task == 'multilabel' else 'Classes'} without a training image: "
                f"{', '.join(sorted(unseen))}. Give each {'label' if self.task == 'multilabel' else 'class'} "
                "some to train on (of a weight above 0), or take them out of validation and test."
            )
        if len(names) < (1 if self.task == "multilabel" else 2):
            raise DataError(
                f"Expected at least 2 classes to tell apart. Received: {len(names)} ({', '.join(names)}) "
                f"in {self.root}. {_explain_too_few(self)}"
            )
        return self if len(names) == len(self.outputs) else _drop_other_outputs(self, names)

    learnable = require_learnable  # the name in programs that were written before it became a verb


def _complete(catalog: Catalog, source: Source, reporter: Reporter) -> Catalog:
    """Check that a new catalog has samples, report its notes, and record where it was read from."""
    _require_samples(catalog)
    report_notes(reporter, catalog.notes)
    return _set_source(catalog, source)


def _set_source(catalog: Catalog, source: Source) -> Catalog:
    """Record where a catalog that was just made was read from, and return it."""
    object.__setattr__(catalog, "source", source)
    return catalog


def _require_samples(catalog: Catalog) -> Catalog:
    if catalog.samples:
        return catalog
    notes = "".join(f"{note} " for note in catalog.notes)
    raise DataError(f"No images in {catalog.root}. {notes}{_explain_too_few(catalog)}")


def _explain_too_few(catalog: Catalog) -> str:
    """Tell what was refused, and for a folder, whose task is not inferred, which layout is expected."""
    refused = ""
    if catalog.refused:
        first = catalog.refused[0]
        reason = f"{first.code}, {first.detail}" if first.detail else first.code
        were = "were" if len(catalog.refused) > 1 else "was"
        refused = f"{len(catalog.refused):,} {were} refused, the first: {first.image} ({reason}). "
    return refused if catalog.why else refused + suggest_inner_folder(catalog.root) + LAYOUT


def _drop_other_outputs(catalog: Catalog, names: list[str]) -> Catalog:
    new_numbers = {catalog.outputs.index(name): label for label, name in enumerate(names)}
    samples = tuple(replace(s, target=_renumber(s.target, new_numbers)) for s in catalog.samples)
    dropped = sorted(set(catalog.outputs) - set(names))
    one, many = ("label", "labels") if catalog.task == "multilabel" else ("class", "classes")
    kind, have, were = (one, "has", "was") if len(dropped) == 1 else (many, "have", "were")
    note = f"The {kind} {format_names(dropped)} {have} no usable image and {were} left out."
    return replace(catalog, outputs=tuple(names), samples=samples, notes=(*catalog.notes, note))


def _get_labels(sample: Sample) -> tuple[int, ...]:
    """Return the class or the labels of a sample, as indices into `Catalog.outputs`."""
    return (sample.target,) if isinstance(sample.target, int) else cast("tuple[int, ...]", sample.target)


def _renumber(target: Target, new_numbers: Mapping[int, int]) -> Target:
    if isinstance(target, int):
        return new_numbers[target]
    return tuple(new_numbers[int(label)] for label in target)
