"""Images as a scikit-learn user has them, arrays or file names -> a catalog without targets.

Rows of X are rows of the answer, so nothing is left out: a bad image is an error that names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import check_array

from regraft.data.catalog import Catalog
from regraft.data.image_writer import Spool
from regraft.data.images.rejections import Refusal
from regraft.data.samples import Photo, Refused, Sample, look
from regraft.errors import DataError

__all__ = ["expect_all", "list_pictures"]

_EXPECTED = (
    "Expected images: an array (n, height, width, 3), (n, height, width, 1) or (n, height, width), a list of "
    "such pictures, or a list of file names. "
)


def list_pictures(images: Any, spool: Spool) -> Catalog:
    """A catalog with one sample for each image, in order; all targets are 0.

    Args:
        images: array (n, h, w, 3), (n, h, w, 1) or (n, h, w) in 0..255; a list or column of such pictures, of
            Pillow images or of paths; a data frame with one column of paths.
        spool: where pictures that are no files become files.

    Raises:
        DataError: these are no images, or some of them cannot be used; up to five are named.
        EnvironmentFault: the spool cannot take them.

    Example:
        >>> import tempfile
        >>> spool = Spool(Path(tempfile.mkdtemp()))
        >>> len(list_pictures(np.zeros((3, 8, 8, 3), np.uint8), spool))
        3
    """
    items = _items(images)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(_looked_at, items))
    photos = [spooled if isinstance(spooled, Photo | Refusal) else _put(spool, spooled) for spooled in found]
    if getattr(getattr(items[0], "dtype", None), "kind", "") == "f":
        spool.check()  # a few dark pictures are no mistake in whole numbers
    names = [os.fspath(item) if _is_path(item) else f"image {row}" for row, item in enumerate(items)]
    expect_all(
        Refused(name, photo.code, photo.detail)
        for name, photo in zip(names, photos, strict=True)
        if isinstance(photo, Refusal)
    )
    samples = tuple(Sample(photo.path, 0, photo.digest) for photo in photos if isinstance(photo, Photo))
    return Catalog(spool.root, ("",), samples)


def expect_all(refused: Iterator[Refused] | Sequence[Refused]) -> None:
    """Every image can be used.

    Raises:
        DataError: some cannot; up to five are named.
    """
    bad = list(refused)
    if bad:
        named = "; ".join(f"{item.image}: {item.code}, {item.detail}" for item in bad[:5])
        raise DataError(
            f"{len(bad):,} image{'s' * (len(bad) > 1)} cannot be used, and every row needs an answer. "
            f"Take out: {named}{'; ...' * (len(bad) > 5)}"
        )


def _items(images: Any) -> Sequence[Any]:
    """The images one by one; whatever is no sequence of images is an error."""
    if isinstance(images, str | os.PathLike) or not hasattr(images, "__len__"):
        raise DataError(f"{_EXPECTED}Received: {images!r}.")
    if not isinstance(images, list | tuple):
        images = _array(images)
    if not len(images):
        raise DataError(f"{_EXPECTED}Received: 0 sample(s), while a minimum of 1 is required.")
    return images  # type: ignore[no-any-return]


def _array(images: Any) -> Any:
    """An array of pictures, or of names; of a data frame the one column."""
    kind = getattr(getattr(images, "dtype", None), "kind", "O")
    if kind not in "OUST":
        # scikit-learn's own words for sparse matrices, complex numbers, NaN and infinity.
        images = check_array(images, dtype="numeric", ensure_2d=False, allow_nd=True, input_name="X")
        if images.ndim not in (3, 4):
            raise DataError(
                f"{_EXPECTED}Received: an array of shape {images.shape}. Reshape your data: rows of pixels "
                "become gray images by X.reshape(len(X), height, width)."
            )
        return images
    names = np.asarray(images, dtype=object)
    if names.ndim == 2 and names.shape[1] == 1:
        names = names[:, 0]
    if names.ndim != 1:
        raise DataError(f"{_EXPECTED}Received: {names.shape[1:]} values for each of {len(names)} rows.")
    return names


def _is_path(item: Any) -> bool:
    return isinstance(item, str | os.PathLike)


def _looked_at(item: Any) -> Any:
    """A file as a photo, or why it is not used; anything else as it is."""
    if not _is_path(item):
        return item
    verdict = look(Path(item))
    return verdict if isinstance(verdict, Refusal) else Photo(str(Path(item).absolute()), verdict)


def _put(spool: Spool, picture: Any) -> Photo | Refusal:
    try:
        return spool.put(picture)
    except Refusal as verdict:
        return verdict
