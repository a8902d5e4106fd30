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

from regraft.data.images import sample_range
from regraft.data.images.colour import WHITE
from regraft.data.images.decode import digest, to_upright_rgb
from regraft.data.images.rejections import Rejection, sniff
from regraft.data.images.sample_range import FULL_DEPTH, count_bits, get_white
from regraft.data.samples import ImageFile
from regraft.errors import DataError, EnvironmentFault, describe_os_error
from regraft.system.files import make_temporary_file

__all__ = ["ImageWriter"]

DARK = 64  # of 255: pixels that never reach it use less than a quarter of the range
ENOUGH_IMAGES = 32  # whose values never exceeded 1 to conclude that pixels are in 0..1


class ImageWriter:
    """A folder that stores images as files and returns the file of each.

    Args:
        root: the folder; created with the first file.
        scale: factor that brings pixel values to 0..255; that of 16-bit Pillow images is 1/257 if it is 1.

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
        self._number = -1  # of the image that is being written
        self._count = 0
        self._highest = 0.0
        self._deep_range = (
            0.0,
            0.0,
        )  # the highest value of images of more than 8 bits, after and before scaling
        self._has_channels_first = False

    def write(self, image: Any) -> ImageFile:
        """Write an image and return its file.

        Args:
            image: array (h, w), (h, w, 1), (h, w, 3), or (h, w, 4) with opacity, or with the channels first,
                of any type of number, with values in 0..255 after scaling; a Pillow image; or the bytes of an
                image file, which are written as they are. A `Rejection`, in its place, is raised.

        Raises:
            Rejection: this image cannot be used: its shape is not that of an image, its pixels are no finite
                numbers, or its bytes are no image.
            DataError: no image of this source can be used, because of the range of its values.
            EnvironmentFault: the folder cannot be written.
        """
        self._number += 1
        if isinstance(image, Rejection):
            raise image
        if isinstance(image, bytes):
            if (rejection := sniff(image)) is not None:
                raise rejection
            return self._store(image, "")
        if isinstance(image, Image.Image):
            opened = self._from_pillow(image)
        else:
            opened = self._from_array(np.asarray(image))
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

    def describe_darkness(self) -> str:
        """Return a warning, at the end of a source, that its pixels are nearly black; "" if they are not."""
        scaled, unscaled = self._deep_range
        if not 0 < scaled < DARK:
            return ""
        return (
            f"The images are nearly black: after scaling, pixels reach only {scaled:.3g} of 255. The highest "
            f"value is {unscaled:g}: pass {_suggest_scale(unscaled)}."
        )

    def _from_pillow(self, image: Image.Image) -> Image.Image:
        """Convert a Pillow image, which may still be a file of which nothing was decoded."""
        white = WHITE if self._scale == 1 else 255 / self._scale
        try:
            if not image.mode.startswith("I"):
                return to_upright_rgb(image)
            converted, highest = to_upright_rgb(image, white=white), sample_range.measure(image)
        except Rejection:
            raise
        except Exception as error:
            raise Rejection("corrupt", str(error)[:120]) from error
        self._check_range(0, highest, 255 / white)
        self._deep_range = max(self._deep_range, (highest * 255 / white, float(highest)))
        return converted

    def _from_array(self, values: NDArray[Any]) -> Image.Image:
        if values.dtype.kind not in "buif":
            received = "None" if values.dtype == object and values.ndim == 0 else values.dtype
            raise Rejection("not_an_image", f"expected an array of numbers, received {received}")
        values = self._put_channels_last(values)
        if values.size == 0:
            raise Rejection("bad_dimensions", f"{values.shape[1]} x {values.shape[0]}")
        if not np.isfinite(values).all():
            raise Rejection("not_finite", "a pixel that is no finite number")
        colours = values[..., :3] if values.ndim == 3 else values
        lowest, highest = float(colours.min()), float(colours.max())
        self._check_range(lowest, highest, self._scale)
        self._count_image(highest * self._scale)
        if values.dtype != np.uint8:
            self._deep_range = max(self._deep_range, (highest * self._scale, highest))
        if self._scale != 1:
            values = values * self._scale
        if values.shape[2:] == (4,) and not 1 < values[..., 3].max() < 255.5 and values[..., 3].any():
            raise Rejection("not_an_image", f"expected opacity in 0..255, received {values[..., 3].max():g}")
        if values.dtype != np.uint8:
            rounded = np.rint(values)
            # 254/255 * 255 is not quite a whole number either
            self.has_rounded |= bool((np.abs(rounded - values) > 1e-3).any())
            values = rounded.astype(np.uint8)
        image = Image.fromarray(values)
        return to_upright_rgb(image) if image.mode == "RGBA" else image

    def _check_range(self, lowest: float, highest: float, scale: float) -> None:
        """Check the values of an image before they are scaled."""
        if lowest * scale < -0.5:
            raise DataError(
                f"Expected pixels in 0..255. Received: {lowest * scale:g} in image {self._number}. Leave out "
                "the step that normalises them: the network does that itself."
            )
        if highest * scale >= 255.5:
            raise DataError(
                f"Expected pixels in 0..255. Received: {highest * scale:g} in image {self._number}. "
                f"Pass {_suggest_scale(highest)} to bring them there."
            )

    def _count_image(self, highest: float) -> None:
        """Count an array with this highest value, after scaling."""
        self._count += 1
        self._highest = max(self._highest, highest)
        if self._count == ENOUGH_IMAGES:
            self.check_scale()

    def _put_channels_last(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return an array (h, w), (h, w, 3) or (h, w, 4).

        Where the channels may be first or last, as in (3, w, 3), they are where they were in another image.
        """
        if values.ndim == 3:
            may_be_first, may_be_last = (values.shape[axis] in (1, 3) for axis in (0, 2))
            if not (may_be_first or may_be_last):
                may_be_first, may_be_last = (values.shape[axis] == 4 for axis in (0, 2))
            if may_be_first != may_be_last:
                self._has_channels_first = may_be_first
            if may_be_first and (self._has_channels_first or not may_be_last):
                values = np.moveaxis(values, 0, 2)
            if values.shape[2] == 1:
                values = values[:, :, 0]
        if values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4)):
            return np.ascontiguousarray(values)
        raise Rejection(
            "not_an_image",
            "expected an array of shape (height, width, 3), (height, width, 1), (height, width, 4) or "
            f"(height, width), received {values.shape}",
        )

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


def _suggest_scale(highest: float) -> str:
    """Return the argument that brings values up to this one to 0..255.

    >>> _suggest_scale(2900), _suggest_scale(60000)
    ('scale=255/4095 if white is 4095', 'scale=1/257')
    """
    bits = count_bits(int(highest))
    if bits >= FULL_DEPTH:
        return "scale=1/257" if bits == FULL_DEPTH else "scale"
    white = highest if highest <= get_white(8) else get_white(bits)
    return f"scale=255/{white:g} if white is {white:g}"
