"""Turn what users pass in into samples of files to decode, and number targets like a model's outputs."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog
from regraft.data.folders import list_images
from regraft.data.image_inputs import (
    EXPECTED,
    describe,
    has_fractions,
    inspect_image,
    inspect_path,
    is_image,
    is_path,
    list_items,
)
from regraft.data.image_writer import ImageWriter
from regraft.data.images.rejections import Rejection
from regraft.data.samples import ImageFile
from regraft.data.table_files import is_table
from regraft.errors import DataError, UsageError, wrap_os_errors
from regraft.recipe import Recipe, TaskChoice
from regraft.system.console import Reporter, format_names

__all__ = ["InputImage", "list_samples", "name_sample", "number_targets", "open_labelled", "open_samples"]


class InputImage(NamedTuple):
    """An image as the user passed it in: its name for the answer, and an absolute path, or the image."""

    name: str
    source: Any


def list_samples(images: Any, images_per_sample: int, reporter: Reporter) -> list[tuple[InputImage, ...]]:
    """Return the images of each sample. A folder stands for every image in it.

    Args:
        images: the argument of `Bundle.predict`.
        images_per_sample: how many images a sample has. If several, an item is a list of them.
        reporter: shows how many files of a folder are left out.

    Raises:
        UsageError: an item is no image, a path does not exist, or a sample has the wrong number of images.
    """
    samples: list[tuple[InputImage, ...]] = []
    for number, item in enumerate(list_items(images)):
        if images_per_sample == 1 and not isinstance(item, list | tuple):
            samples += [(image,) for image in _list_images(item, number, reporter)]
            continue
        parts = _list_parts(item)
        if len(parts) != images_per_sample:
            count = f"{images_per_sample} images" if images_per_sample > 1 else "one image"
            raise UsageError(f"Expected {count} per sample, in a list. Received: {describe(item)}.")
        first = number * images_per_sample
        samples.append(
            tuple(image for k, part in enumerate(parts) for image in _list_images(part, first + k, reporter))
        )
    return samples


@contextmanager
def open_samples(
    samples: Sequence[Sequence[InputImage]], *, scale: float
) -> Iterator[list[list[ImageFile] | Rejection]]:
    """Yield the files of each sample, or why it is refused.

    Images in memory are files of a temporary folder, which is removed with the block.

    Args:
        samples: what `list_samples` returned.
        scale: factor that brings the pixels of arrays to 0..255.

    Raises:
        DataError: an array is no image with pixels in 0..255.
        EnvironmentFault: images in memory cannot be written to the temporary folder.
    """
    sources = [image.source for sample in samples for image in sample]
    with ExitStack() as stack:
        root = Path()
        if not all(isinstance(source, Path) for source in sources):
            with wrap_os_errors("No temporary folder can be made for images in memory"):
                root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="regraft-")))
        writer = ImageWriter(root, scale=scale)
        verdicts = [_inspect_sample(sample, writer) for sample in samples]
        if any(has_fractions(source) for source in sources):
            writer.check_scale()  # only for fractions: a dark image of whole numbers is no mistake
        yield verdicts


def _inspect_sample(sample: Sequence[InputImage], writer: ImageWriter) -> list[ImageFile] | Rejection:
    files = []
    for _, source in sample:
        file = inspect_path(source) if isinstance(source, Path) else inspect_image(source, writer)
        if isinstance(file, Rejection):
            return file
        files.append(file)
    return files


def name_sample(sample: Sequence[InputImage]) -> str:
    """Return the names of a sample's images."""
    return ", ".join(image.name for image in sample)


def _list_parts(item: Any) -> Sequence[Any]:
    """Return the images of one sample, a list or an array of them; nothing if the item is neither."""
    return list(item) if isinstance(item, list | tuple) or getattr(item, "ndim", 0) == 4 else ()


def _list_images(item: Any, number: int, reporter: Reporter) -> Iterator[InputImage]:
    """Yield an image in memory, a file, or every image in a folder."""
    if is_image(item):
        yield InputImage(f"image {number}", item)
        return
    if not is_path(item):
        raise UsageError(f"{EXPECTED}Received: {describe(item)}, as image {number}.")
    path = Path(item)
    if not path.exists():
        raise UsageError(f"Expected an image file or a folder. There is nothing at {path}.")
    yield from (InputImage(os.fspath(file), file.absolute()) for file in list_images(path, reporter=reporter))


_list_names = partial(format_names, most=10)

Names = str | Sequence[str]


def open_labelled(
    data: Catalog | str | os.PathLike[str],
    manifest: Mapping[str, Any],
    columns: tuple[Names, Names, str],
    *,
    root: str | os.PathLike[str] | None = None,
) -> Catalog:
    """List samples with targets of the task of a run.

    Args:
        data: a folder, a table or a catalog.
        manifest: that of the run.
        columns: those of images and of targets, and the separator; empty ones are the run's, for a table.
        root: folder that the paths of a table are relative to; None for the folder of the table.

    Raises:
        UsageError: see `Catalog.open`; or samples have another number of images than the run's.
    """
    image, target = (_to_names(names) for names in columns[:2])
    separator = columns[2]
    if not isinstance(data, Catalog) and is_table(Path(data)):
        own = manifest["columns"]
        image, target = image or tuple(own["image"]), target or tuple(own["target"])
        separator = separator or (own["separator"] if len(target) == 1 else "")
        if not image or not target:
            raise UsageError(
                f"{data} is a table, and the model was trained without one: name its column of images with "
                "--image and that of targets with --target."
            )
    # A part of the data may hold one class, so the model's task decides only whether there are classes.
    task = "multiclass" if manifest["task"] == "binary" else manifest["task"]
    recipe = Recipe(
        image=image,
        target=target,
        separator=separator,
        root=os.fspath(root or ""),
        task=cast("TaskChoice", task),
    )
    catalog = Catalog.open(data, recipe)
    missing = [name for name in manifest["outputs"] if name not in catalog.outputs]
    if task == "multilabel" and len(target) > 1 and missing:
        raise UsageError(f"--target: expected a column of each label. Missing: {_list_names(missing)}.")
    counts = {len(sample.images) for sample in catalog.samples} - {manifest["photos"]}
    if counts:
        raise UsageError(
            f"Expected {manifest['photos']} images per sample, a column of a table for each (--image A,B). "
            f"Received: {counts.pop()}."
            if manifest["photos"] > 1
            else f"Expected one image per sample. Received: {counts.pop()}. Name one column with --image."
        )
    return catalog


def number_targets(catalog: Catalog, outputs: Sequence[str]) -> NDArray[Any]:
    """Return the targets of a catalog, numbered like the outputs of a model.

    Raises:
        DataError: an image has a class or label that the model does not know, or a target is missing.
    """
    targets = catalog.targets(catalog.samples)
    if catalog.task == "regression":
        return targets[:, _order_targets(catalog.outputs, outputs)]
    used = np.flatnonzero(targets.any(0)) if targets.ndim > 1 else np.unique(targets)
    names = [catalog.outputs[number] for number in used.tolist()]
    _require_known(catalog, names, outputs)
    numbers = [outputs.index(name) if name in outputs else 0 for name in catalog.outputs]
    if targets.ndim == 1:
        return np.asarray(np.array(numbers)[targets])
    renumbered = np.zeros((len(targets), len(outputs)), np.float32)
    renumbered[:, np.array(numbers)[used]] = targets[:, used]
    return renumbered


def _require_known(catalog: Catalog, names: Sequence[str], outputs: Sequence[str]) -> None:
    unknown = [name for name in names if name not in outputs]
    if not unknown:
        return
    kind = "labels" if catalog.task == "multilabel" else "classes"
    if len(unknown) < len(names):
        received = f"Received also: {_list_names(unknown)}. Take out their images, or train a model on them."
    else:
        received = (
            f"Received none of them, but {_list_names(unknown)}. Give the folder whose subfolders are these "
            f"{kind}, or name the table's column with --target."
        )
    raise DataError(f"Expected {kind} that the model knows: {_list_names(outputs)}. {received}")


def _order_targets(names: Sequence[str], outputs: Sequence[str]) -> list[int]:
    """Return the column of each output. A single number is the model's, whatever it is called."""
    if len(names) == len(outputs) == 1:
        return [0]
    missing = [name for name in outputs if name not in names]
    if missing:
        raise DataError(
            f"Expected a column of each target of the model: {_list_names(outputs)}. "
            f"Missing: {_list_names(missing)}. Received: {_list_names(names)}."
        )
    return [names.index(name) for name in outputs]


def _to_names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) and names else tuple(names)
