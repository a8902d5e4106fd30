"""Images as users pass them in from Python: paths, arrays, Pillow images and the bytes of image files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.image_writer import ImageWriter
from regraft.data.images.rejections import Rejection
from regraft.data.samples import ImageFile, inspect_file
from regraft.data.stream_items import to_plain
from regraft.errors import UsageError, shorten_error

__all__ = [
    "EXPECTED",
    "describe",
    "has_fractions",
    "inspect_image",
    "inspect_path",
    "is_image",
    "is_path",
    "list_items",
]

EXPECTED = (
    "Expected the path of an image or of a folder, an image as an array, a Pillow image or the bytes of a "
    "file, or a list of these. "
)


def is_path(item: Any) -> bool:
    """Return whether an item is the path of a file or a folder."""
    return isinstance(item, str | os.PathLike)


def is_image(item: Any) -> bool:
    """Return whether an item is an image in memory, or a batch of images in one array.

    >>> is_image(np.zeros((4, 4, 3))), is_image(b"..."), is_image(np.array(["1.png"])), is_image("1.png")
    (True, True, False, False)
    """
    if isinstance(item, bytes | bytearray | memoryview) or _is_pillow_image(item):
        return True
    return _is_array(item) and _to_array(item).dtype.kind in "buif"


def has_fractions(item: Any) -> bool:
    """Return whether an item is an array of a type for fractions, so that its pixels may be in 0..1."""
    return _is_array(item) and _to_array(item).dtype.kind == "f"


def list_items(images: Any) -> list[Any]:
    """Return the items of a list; a single path or image is a list of one, and a batch one of its images.

    Raises:
        UsageError: these are no images, or it is unclear whether an array is an image or several.

    Example:
        >>> len(list_items("1.png")), len(list_items(np.zeros((5, 8, 8, 3))))
        (1, 5)
    """
    if is_path(images):
        return [images]
    if is_image(images):
        return list(_split_batch(_to_array(images))) if _is_array(images) else [images]
    is_list = isinstance(images, Iterable) and not isinstance(images, Mapping | io.IOBase)
    if not is_list:
        raise UsageError(f"{EXPECTED}Received: {describe(images)}.")
    return list(images)


def inspect_path(path: str | os.PathLike[str]) -> ImageFile | Rejection:
    """Return the image at a path, which no longer depends on the current folder, or why it is refused."""
    file = Path(path).absolute()
    verdict = inspect_file(file)
    return verdict if isinstance(verdict, Rejection) else ImageFile(str(file), verdict)


def inspect_image(image: Any, writer: ImageWriter) -> ImageFile | Rejection:
    """Write an image in memory to a file, and return that, or why it is refused."""
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    try:
        file = writer.write(
            image if isinstance(image, bytes) or _is_pillow_image(image) else _to_array(image)
        )
    except Rejection as rejection:
        return rejection
    return ImageFile(str((writer.root / file.path).absolute()), file.digest)


def describe(item: Any) -> str:
    """Return the type of an item, and its value if that is short.

    >>> describe(7), describe(None), describe({})
    ('7 (int)', 'None', '{} (dict)')
    """
    if item is None:
        return "None"
    text = repr(item)
    name = type(item).__name__
    return f"{text} ({name})" if len(text) <= 60 and not text.startswith("<") else name


def _is_pillow_image(item: Any) -> bool:
    return isinstance(item, Image.Image)


def _is_array(item: Any) -> bool:
    return hasattr(item, "__array__") and not _is_pillow_image(item)


def _to_array(item: Any) -> NDArray[Any]:
    if isinstance(item, np.ndarray):
        return item
    try:
        return np.asarray(to_plain(item))
    except Exception as error:  # tensors of any library
        raise UsageError(
            f"{EXPECTED}Received: {type(item).__name__}, which becomes no array "
            f"({shorten_error(error, most=160)})."
        ) from error


def _split_batch(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the image that an array is, or its images if it is a batch."""
    shape = array.shape
    if array.ndim == 2 or (array.ndim == 3 and shape[2] in (1, 3, 4)):
        yield array
    elif array.ndim in (4, 5) or (array.ndim == 3 and shape[0] not in (1, 3)):
        yield from array
    elif array.ndim == 3:
        raise UsageError(
            f"An array of shape {shape} may be {shape[0]} grey images, or one with its channels first. Pass "
            "a list: list(images) for the images, [image] for the one."
        )
    else:
        raise UsageError(f"{EXPECTED}Received: an array of shape {shape}.")
