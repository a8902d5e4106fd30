"""Bytes of a file -> RGB pixels at a size. The only decoder and the only resizer in the package.

Training, evaluation, prediction and every later tool call `decode`, so the same file always becomes the
same pixels: a squash, bilinear over all that falls on a pixel, before which a JPEG at least twice as large
averages over 2, 4 or 8 of its own. A file that cannot be trusted raises `Refusal` with one of the codes of
`data.refusal`; nothing is ever replaced. Colour profiles are ignored: the numbers in the file are sRGB.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
from PIL import (  # each plugin is imported by name: only these formats ever see a file's bytes
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from regraft.data.jpeg import without_end_marker
from regraft.data.refusal import Refusal, sniff

if TYPE_CHECKING:
    from numpy.typing import NDArray

from regraft.errors import brief

__all__ = [
    "DECODER",
    "EXTENSIONS",
    "THUMBNAIL",
    "Decoded",
    "Facts",
    "Refusal",
    "as_rgb",
    "decode",
    "digest",
    "resize",
    "sniff",
]

MAX_PIXELS = 64_000_000
TINY = 32  # pixels: below this on the shorter side an image is noted as tiny

FORMATS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "AVIF": {".avif", ".avifs"},
}
EXTENSIONS = frozenset().union(*FORMATS.values())
THUMBNAIL = 16  # pixels: side of the picture in `Facts`
_SUBFILE_TYPE, _BITS_PER_SAMPLE = 254, 258  # TIFF tags
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels

# Whatever can change a pixel is part of this name, and this name is part of every key of the store.
DECODER = f"decode 3, squash bilinear, Pillow {PIL.__version__}"


@dataclass(frozen=True)
class Facts:
    """What the decoder learnt of a file: size in pixels as stored, format, and notes worth reporting.

    `thumbnail` is the whole picture as 16 by 16 RGB pixels, by which copies are found; see `data.likeness`.
    """

    width: int
    height: int
    format: str
    notes: tuple[str, ...] = field(default=())
    thumbnail: bytes = field(default=bytes(3 * THUMBNAIL**2), repr=False, compare=False)

    def as_json(self) -> list[Any]:
        """The facts as plain values, in the order of the fields."""
        return [self.width, self.height, self.format, list(self.notes), self.thumbnail.hex()]

    @classmethod
    def from_json(cls, values: list[Any]) -> Facts:
        """The inverse of `as_json`."""
        width, height, kind, notes, thumbnail = values
        return cls(int(width), int(height), str(kind), tuple(notes), bytes.fromhex(thumbnail))


@dataclass(frozen=True)
class Decoded:
    """`pixels`: uint8 array of shape (size, size, 3), RGB. `facts`: what was read on the way."""

    pixels: NDArray[np.uint8]
    facts: Facts


def digest(data: bytes) -> str:
    """The name of a content: 32 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def decode(data: bytes, size: int | None, *, name: str = "") -> Decoded:
    """Decode one image and resize it to a square.

    Args:
        data: the whole file.
        size: side of the result in pixels; None keeps the image's own size.
        name: the file's name, only to note an extension that contradicts the content.

    Returns:
        Pixels, uint8 of shape (size, size, 3), RGB in 0..255, EXIF orientation applied, transparency laid
        on white, 16-bit samples scaled to 8, the first frame of an animation; and the facts.

    Raises:
        Refusal: with one of the codes of `data.refusal`.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (40, 30), (200, 10, 10)).save(buffer, "PNG")
        >>> decode(buffer.getvalue(), 8).pixels[0, 0].tolist()
        [200, 10, 10]
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of EXIF and bombs; verdicts here are explicit
        try:
            return _decode(data, size, name)
        except Refusal:
            raise
        except Exception as error:  # whatever a decoder thinks of to raise is a verdict on its file
            text = brief(error, most=120)
            raise Refusal("truncated" if "truncated" in text.lower() else "corrupt", text) from error


def _decode(data: bytes, size: int | None, name: str) -> Decoded:
    image = _open(data)
    width, height, kind = image.width, image.height, image.format or ""
    notes = _notes(image, name)
    if size is not None:  # a JPEG of twice the size or more: its own blocks are read smaller, never below it
        image.draft(None, (size, size))
    rgb = as_rgb(_load(image, data, notes))
    seen = rgb if size is None else resize(rgb, size)
    small = seen.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX).tobytes()
    return Decoded(np.asarray(seen), Facts(width, height, kind, tuple(notes), small))


def as_rgb(image: Image.Image) -> Image.Image:
    """An open image as RGB pixels: upright, on white where it is transparent, 8 bits a channel.

    Raises:
        Refusal: `unsupported_bit_depth`.
    """
    return _to_rgb(_upright(image))


def resize(
    image: Image.Image, size: int, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """An RGB image (or the part of it in `box`, left-top-right-bottom) as a square of `size` pixels."""
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def _open(data: bytes) -> Image.Image:
    if (verdict := sniff(data)) is not None:
        raise verdict
    try:
        image = Image.open(io.BytesIO(data), formats=[kind for kind in FORMATS if kind != "MPO"])
    except UnidentifiedImageError as error:
        raise Refusal("corrupt", "the header cannot be read") from error
    except Image.DecompressionBombError as error:
        raise Refusal("too_many_pixels", f"over {MAX_PIXELS:,} pixels") from error
    if image.width < 1 or image.height < 1:
        raise Refusal("bad_dimensions", f"{image.width} x {image.height}")
    if image.width * image.height > MAX_PIXELS:
        raise Refusal("too_many_pixels", f"{image.width} x {image.height}, at most {MAX_PIXELS:,}")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
    return image


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Two kinds of TIFF that Pillow opens as something they are not."""
    if image.tag_v2.get(_SUBFILE_TYPE) == 1:
        raise Refusal("unsupported_format", "a raw photograph: its first picture is only a preview")
    if 12 in image.tag_v2.get(_BITS_PER_SAMPLE, ()):
        raise Refusal("unsupported_bit_depth", "12-bit samples; convert the file to 8 or 16 bits")


def _notes(image: Image.Image, name: str) -> list[str]:
    notes = []
    suffix = PurePath(name).suffix.lower()
    if suffix in EXTENSIONS and suffix not in FORMATS[image.format or ""]:
        notes.append("extension_mismatch")
    if image.format != "MPO" and _has_more_frames(image):
        notes.append("animated_first_frame" if image.format != "TIFF" else "first_page")
    if min(image.size) < TINY:
        notes.append("tiny_image")
    return notes


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is broken; the first is what counts
        return False


def _load(image: Image.Image, data: bytes, notes: list[str]) -> Image.Image:
    """Decode every pixel now, so that a broken file is refused here and nowhere later."""
    try:
        image.load()
    except Exception:
        if image.format in ("JPEG", "MPO") and (whole := without_end_marker(data)):
            notes.append("jpeg_missing_eoi")
            return whole
        raise
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        if image.getexif().get(ExifTags.Base.Orientation, 1) == 1:
            return image  # Pillow would copy it
        return ImageOps.exif_transpose(image)
    except Exception:  # corrupt metadata never costs the picture
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise Refusal("unsupported_bit_depth", f"{image.mode} samples; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_grey16(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, (*BACKGROUND, 255)), over).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_grey16(image: Image.Image) -> Image.Image:
    """16-bit grey by its high byte; Pillow's own conversion would clip, and forgets which grey is clear."""
    wide = np.asarray(image)
    rgb = np.repeat((np.clip(wide, 0, 65535) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if (clear := image.info.get("transparency")) is not None:
        rgb[wide == clear] = BACKGROUND
    return Image.fromarray(rgb)
