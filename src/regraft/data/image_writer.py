"""Write images from memory to files named by content, so that they are files like any others.

    <store>/spool/<first two digits of the digest>/<digest>.bmp

Bitmaps are lossless and have the same bytes whichever library wrote them. So an image has the same digest,
and with it the same part in a split, everywhere. Files are written atomically; a damaged file is written
again.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.images.decode import digest, to_upright_rgb
from regraft.data.images.rejections import Rejection, sniff
from regraft.data.samples import ImageFile
from regraft.errors import DataError, EnvironmentFault, describe_os_error
from regraft.system.atomic import make_temporary_file

__all__ = ["ImageWriter"]

ENOUGH_IMAGES = 32  # whose values never exceeded 1 to conclude that pixels are in 0..1


class ImageWriter:
    """A folder that stores images as files and returns the file of each.

    Args:
        root: the folder; created with the first file.
        scale: factor that brings pixel values to 0..255.

    Attributes:
        has_rounded: whether a value was rounded to a whole number.

    Example:
        >>> import tempfile
        >>> writer = ImageWriter(Path(tempfile.mkdtemp()))
        >>> file = writer.write(np.zeros((4, 6, 3), np.uint8))
        >>> Image.open(writer.root / file.path).size
        (6, 4)
    """

    def __init__(self, root: Path, *, scale: float = 1.0) -> None:
        self.root = root
        self.has_rounded = False
        self._scale = scale
        self._count = 0
        self._highest = 0.0

    def write(self, image: Any) -> ImageFile:
        """Write an image and return its file.

        Args:
            image: array (h, w), (h, w, 1) or (h, w, 3), or with the channels first, of any type of number,
                with values in 0..255 after scaling; a Pillow image; or the bytes of an image file, which are
                written as they are.

        Raises:
            Rejection: this image cannot be used, as its pixels are not finite or its bytes are no image.
            DataError: no image of this source can be used, because of the shape or range of its values.
            EnvironmentFault: the folder cannot be written.
        """
        if isinstance(image, bytes):
            if (rejection := sniff(image)) is not None:
                raise rejection
            return self._store(image, "")
        opened = _convert(image) if isinstance(image, Image.Image) else self._from_array(np.asarray(image))
        buffer = io.BytesIO()
        opened.save(buffer, "BMP")
        return self._store(buffer.getvalue(), ".bmp")

    def check_scale(self) -> None:
        """Check, at the end of a source, that pixels were not in 0..1.

        Raises:
            DataError: no value exceeded 1, and training on such pixels would be useless.
        """
        if 0 < self._highest <= 1:
            raise DataError(
                f"Expected pixels in 0..255. Received: nothing above {self._highest:g} in {self._count} "
                "images. If they are in 0..1, pass scale=255."
            )

    def _from_array(self, values: NDArray[Any]) -> Image.Image:
        if values.dtype.kind not in "buif":
            raise DataError(f"Expected images as arrays of numbers. Received: {values.dtype}.")
        values = _put_channels_last(values)
        if values.size == 0:
            raise Rejection("bad_dimensions", f"{values.shape[1]} x {values.shape[0]}")
        if not np.isfinite(values).all():
            raise Rejection("not_finite", "a pixel that is no finite number")
        if self._scale != 1:
            values = values * self._scale
        self._check_range(float(values.min()), float(values.max()))
        if values.dtype != np.uint8:
            rounded = np.rint(values)
            # 254/255 * 255 is not quite a whole number either
            self.has_rounded |= bool((np.abs(rounded - values) > 1e-3).any())
            values = rounded.astype(np.uint8)
        return Image.fromarray(values)

    def _check_range(self, lowest: float, highest: float) -> None:
        if lowest < -0.5:
            raise DataError(
                f"Expected pixels in 0..255. Received: {lowest:g} in image {self._count}. Leave out the "
                "step that normalises them: the network does that itself."
            )
        if highest >= 255.5:
            factor = "scale=1/257" if highest <= 65535 else "scale"
            raise DataError(
                f"Expected pixels in 0..255. Received: {highest:g} in image {self._count}. "
                f"Pass {factor} to bring them there."
            )
        self._count += 1
        self._highest = max(self._highest, highest)
        if self._count == ENOUGH_IMAGES:
            self.check_scale()

    def _store(self, data: bytes, suffix: str) -> ImageFile:
        name = digest(data)
        path = self.root / name[:2] / f"{name}{suffix}"
        try:
            if not _has_content(path, data):
                path.parent.mkdir(parents=True, exist_ok=True)
                with make_temporary_file(path.parent, ".") as temporary:
                    temporary.write_bytes(data)
                    temporary.replace(path)
        except OSError as error:
            raise EnvironmentFault(
                f"The folder {self.root} cannot take {len(data):,} bytes: {describe_os_error(error)}. "
                "Free some space, or choose another place with --store or REGRAFT_HOME."
            ) from error
        return ImageFile(path.relative_to(self.root).as_posix(), name)


def _has_content(path: Path, data: bytes) -> bool:
    """Tell whether a file exists and has this content; it is read only if its size is right."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _convert(image: Image.Image) -> Image.Image:
    """Convert a Pillow image, which may still be a file of which nothing was decoded."""
    try:
        return to_upright_rgb(image)
    except Rejection:
        raise
    except Exception as error:
        raise Rejection("corrupt", str(error)[:120]) from error


def _put_channels_last(values: NDArray[Any]) -> NDArray[Any]:
    """Return an array of shape (h, w) or (h, w, 3), where the order of the axes is clear."""
    if values.ndim == 3 and values.shape[2] not in (1, 3) and values.shape[0] in (1, 3):
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3):
        return np.ascontiguousarray(values)
    raise DataError(
        f"Expected images of shape (height, width, 3), (height, width, 1) or (height, width). Received: "
        f"{values.shape}."
    )
