"""Turn what users pass to `predict` into samples of files to decode."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from regraft.errors import UsageError, wrap_os_errors
from regraft.system.console import Reporter

__all__ = ["InputImage", "list_samples", "name_sample", "open_samples"]


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
