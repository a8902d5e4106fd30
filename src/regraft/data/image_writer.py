"""Pictures from memory -> image files, by content: from then on they are files like any others.

    <store>/spool/<first two digits of the digest>/<digest>.bmp

Bitmaps are lossless and have the same bytes whatever library wrote them, so a picture has the same digest,
hence the same place in every split, everywhere. A file is written beside and moved into place whole; one
that is not what it should be is written again.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from regraft.data.images.decode import as_rgb, digest
from regraft.data.images.rejections import Refusal, sniff
from regraft.data.samples import Photo
from regraft.errors import DataError, EnvironmentFault
from regraft.system.atomic import new_file

__all__ = ["Spool"]

SURE = 32  # pictures after which values that never passed 1 are taken for the range 0..1


class Spool:
    """A folder that takes pictures and gives back which file each has become.

    Args:
        root: the folder; made when something is first written.
        scale: what pixel values are multiplied by to lie in 0..255.

    Attributes:
        rounded: whether a value was rounded to a whole number.

    Example:
        >>> import tempfile
        >>> spool = Spool(Path(tempfile.mkdtemp()))
        >>> photo = spool.put(np.zeros((4, 6, 3), np.uint8))
        >>> Image.open(spool.root / photo.path).size
        (6, 4)
    """

    def __init__(self, root: Path, *, scale: float = 1.0) -> None:
        self.root = root
        self.rounded = False
        self._scale = scale
        self._seen = 0
        self._highest = 0.0

    def put(self, picture: Any) -> Photo:
        """Keep one picture.

        Args:
            picture: array (h, w), (h, w, 1), (h, w, 3), or with the channels first, of any number type,
                values in 0..255 after scaling; a Pillow image; or the bytes of an image file, kept as is.

        Raises:
            Refusal: this picture cannot be used: not finite, no image.
            DataError: no picture of this source can: another shape or range of values.
            EnvironmentFault: the folder cannot take it.
        """
        if isinstance(picture, bytes):
            if (verdict := sniff(picture)) is not None:
                raise verdict
            return self._keep(picture, "")
        image = _opened(picture) if isinstance(picture, Image.Image) else self._image(np.asarray(picture))
        buffer = io.BytesIO()
        image.save(buffer, "BMP")
        return self._keep(buffer.getvalue(), ".bmp")

    def check(self) -> None:
        """At the source's end: complain if all values lay in 0..1.

        Raises:
            DataError: they did, which is a range nobody can train on.
        """
        if 0 < self._highest <= 1:
            raise DataError(
                f"Expected pixels in 0..255. Received: nothing above {self._highest:g} in {self._seen} "
                "pictures. If they are in 0..1, pass scale=255."
            )

    def _image(self, values: NDArray[Any]) -> Image.Image:
        if values.dtype.kind not in "buif":
            raise DataError(f"Expected pictures as arrays of numbers. Received: {values.dtype}.")
        values = _channels_last(values)
        if values.size == 0:
            raise Refusal("bad_dimensions", f"{values.shape[1]} x {values.shape[0]}")
        if not np.isfinite(values).all():
            raise Refusal("not_finite", "a pixel that is no finite number")
        if self._scale != 1:
            values = values * self._scale
        self._check_range(float(values.min()), float(values.max()))
        if values.dtype != np.uint8:
            whole = np.rint(values)
            self.rounded |= bool(
                (np.abs(whole - values) > 1e-3).any()
            )  # 254/255 * 255 is no whole number either
            values = whole.astype(np.uint8)
        return Image.fromarray(values)

    def _check_range(self, lowest: float, highest: float) -> None:
        if lowest < -0.5:
            raise DataError(
                f"Expected pixels in 0..255. Received: {lowest:g} in picture {self._seen}. Leave out the "
                "step that normalises them: the network does that itself."
            )
        if highest >= 255.5:
            factor = "scale=1/257" if highest <= 65535 else "scale"
            raise DataError(
                f"Expected pixels in 0..255. Received: {highest:g} in picture {self._seen}. "
                f"Pass {factor} to bring them there."
            )
        self._seen += 1
        self._highest = max(self._highest, highest)
        if self._seen == SURE:
            self.check()

    def _keep(self, data: bytes, suffix: str) -> Photo:
        name = digest(data)
        path = self.root / name[:2] / f"{name}{suffix}"
        try:
            if not _holds(path, data):
                path.parent.mkdir(parents=True, exist_ok=True)
                with new_file(path.parent, ".") as beside:
                    beside.write_bytes(data)
                    beside.replace(path)
        except OSError as error:
            raise EnvironmentFault(
                f"The folder {self.root} cannot take {len(data):,} bytes: {error.strerror or error}. "
                "Free some space, or choose another place with --store or REGRAFT_HOME."
            ) from error
        return Photo(path.relative_to(self.root).as_posix(), name)


def _holds(path: Path, data: bytes) -> bool:
    """The file is there and sound. Read whole only where its size is right."""
    try:
        return path.stat().st_size == len(data) and path.read_bytes() == data
    except FileNotFoundError:
        return False


def _opened(image: Image.Image) -> Image.Image:
    """A Pillow image may still be a file of which nothing was decoded."""
    try:
        return as_rgb(image)
    except Refusal:
        raise
    except Exception as error:
        raise Refusal("corrupt", str(error)[:120]) from error


def _channels_last(values: NDArray[Any]) -> NDArray[Any]:
    """(h, w) or (h, w, 3), from whatever is unmistakable."""
    if values.ndim == 3 and values.shape[2] not in (1, 3) and values.shape[0] in (1, 3):
        values = np.moveaxis(values, 0, 2)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[:, :, 0]
    if values.ndim == 2 or (values.ndim == 3 and values.shape[2] == 3):
        return np.ascontiguousarray(values)
    raise DataError(
        f"Expected pictures of shape (height, width, 3), (height, width, 1) or (height, width). Received: "
        f"{values.shape}."
    )
