"""Turn the X of scikit-learn, arrays or file names, into a catalog without targets.

Every row of X needs an answer, so no image is left out: a bad one is an error that names it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from sklearn.utils import check_array

from regraft.data.catalog import Catalog
from regraft.data.image_inputs import inspect_image, inspect_path, is_path
from regraft.data.image_writer import ImageWriter
from regraft.data.images.rejections import Rejection
from regraft.data.samples import ImageFile, RejectedFile, Sample
from regraft.errors import DataError

__all__ = ["make_catalog", "require_all_usable"]

_EXPECTED = (
    "Expected images: an array (n, height, width, 3), (n, height, width, 1) or (n, height, width), a list of "
    "such images, or a list of file names. "
)


def make_catalog(images: Any, writer: ImageWriter) -> Catalog:
    """Return a catalog with one sample for each image, in order; all targets are 0.

    Args:
        images: an array (n, h, w, 3), (n, h, w, 1) or (n, h, w) in 0..255; a list or column of such images,
            of Pillow images or of paths; a data frame with one column of paths.
        writer: writes images in memory to files.

    Raises:
        DataError: these are not images, or some of them cannot be used; up to five are named.
        EnvironmentFault: the files cannot be written.

    Example:
        >>> import tempfile; from pathlib import Path
        >>> writer = ImageWriter(Path(tempfile.mkdtemp()))
        >>> len(make_catalog(np.zeros((3, 8, 8, 3), np.uint8), writer))
        3
    """
    items = _list_items(images)
    with ThreadPoolExecutor(8) as pool:
        verdicts = iter(list(pool.map(inspect_path, filter(is_path, items))))
    files = [next(verdicts) if is_path(item) else inspect_image(item, writer) for item in items]
    if getattr(getattr(items[0], "dtype", None), "kind", "") == "f":
        writer.check_scale()  # only for fractions: a few dark images of whole numbers are no mistake
    names = [os.fspath(item) if is_path(item) else f"image {row}" for row, item in enumerate(items)]
    require_all_usable(
        RejectedFile(name, file.code, file.detail)
        for name, file in zip(names, files, strict=True)
        if isinstance(file, Rejection)
    )
    samples = tuple(Sample(file.path, 0, file.digest) for file in files if isinstance(file, ImageFile))
    return Catalog(writer.root, ("",), samples)


def require_all_usable(refused: Iterable[RejectedFile]) -> None:
    """Raise a DataError if any image was refused; it names up to five."""
    files = list(refused)
    if files:
        names = "; ".join(f"{file.image}: {file.code}, {file.detail}" for file in files[:5])
        raise DataError(
            f"{len(files):,} image{'s' * (len(files) > 1)} cannot be used, and every row needs an answer. "
            f"Take out: {names}{'; ...' * (len(files) > 5)}"
        )


def _list_items(images: Any) -> Sequence[Any]:
    """Return the images one by one; raise a DataError for anything that is not a sequence of images."""
    if isinstance(images, str | os.PathLike) or not hasattr(images, "__len__"):
        raise DataError(f"{_EXPECTED}Received: {images!r}.")
    if not isinstance(images, list | tuple):
        images = _to_array(images)
    if not len(images):
        raise DataError(f"{_EXPECTED}Received: 0 sample(s), while a minimum of 1 is required.")
    return images  # type: ignore[no-any-return]


def _to_array(images: Any) -> Any:
    """Return an array of images, or of names; of a data frame, its only column."""
    kind = getattr(getattr(images, "dtype", None), "kind", "O")
    if kind not in "OUST":
        # scikit-learn's own messages for sparse matrices, complex numbers, NaN and infinity.
        images = check_array(images, dtype="numeric", ensure_2d=False, allow_nd=True, input_name="X")
        if images.ndim not in (3, 4):
            raise DataError(
                f"{_EXPECTED}Received: an array of shape {images.shape}. Reshape your data: rows of pixels "
                "become grey images by X.reshape(len(X), height, width)."
            )
        return images
    names = np.asarray(images, dtype=object)
    if names.ndim == 2 and names.shape[1] == 1:
        names = names[:, 0]
    if names.ndim != 1:
        raise DataError(f"{_EXPECTED}Received: {names.shape[1:]} values for each of {len(names)} rows.")
    return names
