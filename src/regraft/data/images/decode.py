"""Bytes of a file -> RGB pixels at a size. The only decoder in the package.

Training, evaluation, prediction and every later tool call `decode`, so the same file always becomes the
same pixels: a squash, bilinear over all that falls on a pixel, before which a JPEG at least twice as large
averages over 2, 4 or 8 of its own; then sRGB and upright. A file that cannot be trusted raises `Refusal` with
one of the codes of `data.refusal`; nothing is ever replaced.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import (  # each plugin is imported by name: only these formats ever see a file's bytes
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from regraft.data.images import headers, jpeg
from regraft.data.images.colour import BadProfile, to_rgb, to_srgb
from regraft.data.images.rejections import Refusal, is_heif, register_heif, sniff
from regraft.data.images.resize import average, resize

if TYPE_CHECKING:
    from numpy.typing import NDArray

from regraft.errors import brief

__all__ = ["EXTENSIONS", "THUMBNAIL", "Decoded", "Facts", "as_rgb", "decode", "digest"]

TINY = 32  # pixels: below this on the shorter side an image is noted as tiny
EXTREME = 10  # times longer than wide
UNIFORM = 2  # of 255, between the darkest and the brightest pixel of each channel

FORMATS = {
    "JPEG": {".jpg", ".jpeg", ".jpe", ".jfif"},
    "MPO": {".jpg", ".jpeg", ".mpo"},
    "PNG": {".png", ".apng"},
    "GIF": {".gif"},
    "WEBP": {".webp"},
    "BMP": {".bmp", ".dib"},
    "TIFF": {".tif", ".tiff"},
    "AVIF": {".avif", ".avifs"},
    "HEIF": {".heic", ".heif", ".hif"},
}
EXTENSIONS = frozenset().union(*FORMATS.values())
THUMBNAIL = 16  # pixels: side of the picture in `Facts`
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE_TYPE, _BITS_PER_SAMPLE = 254, 258  # TIFF tags
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


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
        on white, 16-bit samples scaled to 8, colours by the file's profile, the first frame of an animation;
        and the facts.

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
        except MemoryError as error:
            raise Refusal("too_much_memory", "decoding needs more than a process may take") from error
        except Exception as error:  # whatever a decoder thinks of to raise is a verdict on its file
            text = brief(error, most=120)
            raise Refusal("truncated" if "truncated" in text.lower() else "corrupt", text) from error


def _decode(data: bytes, size: int | None, name: str) -> Decoded:
    image = _open(data)
    width, height, kind = image.width, image.height, image.format or ""
    notes = _notes(image, data, name)
    if size is not None:  # a JPEG of twice the size or more: its own blocks are read smaller, never below it
        image.draft(None, (size, size))
    rgb = to_rgb(_load(image, data, size, notes), size)
    seen = _finished(rgb if size is None else resize(rgb, size), image, notes)
    pixels = np.asarray(seen)
    if _is_uniform(pixels):
        notes.append("uniform")
    small = average(seen, THUMBNAIL).tobytes()
    return Decoded(pixels, Facts(width, height, kind, tuple(sorted(notes)), small))


def as_rgb(image: Image.Image) -> Image.Image:
    """An open image as RGB pixels: upright, on white where it is transparent, 8 bits a channel, in sRGB.

    Raises:
        Refusal: `unsupported_bit_depth`.
    """
    image.load()
    return _finished(to_rgb(image, None), image, [])


def _open(data: bytes) -> Image.Image:
    if (verdict := sniff(data)) is not None:
        raise verdict
    formats = [kind for kind in FORMATS if kind not in ("MPO", "HEIF")]
    if data.startswith(b"\xff\xd8"):
        jpeg.check_work(data)
    elif data.startswith(headers.SIGNATURE):
        data = headers.drop_bad_chunks(data)
    elif is_heif(data):
        register_heif()
        formats = ["HEIF"]
    elif data.startswith(b"GIF8"):
        headers.check_gif(data)
    elif data.startswith(_TIFF):
        headers.check_tiff(data)
    if (stated := headers.stated_size(data)) is not None and 0 not in stated:
        headers.check_size(*stated)
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise _unidentified(data, stated) from error
    except Image.DecompressionBombError as error:
        raise Refusal("too_many_pixels", "beyond every limit") from error
    headers.check_size(image.width, image.height, image.format or "")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
    return image


def _unidentified(data: bytes, stated: tuple[int, int, str] | None) -> Refusal:
    """Why no decoder wants a file that begins like an image."""
    if stated is not None and 0 in stated:
        return Refusal("bad_dimensions", f"{stated[0]} x {stated[1]}")
    found = jpeg.frame(data) if data.startswith(b"\xff\xd8") else None
    if found is not None and found.bits != 8:
        return Refusal("unsupported_bit_depth", f"{found.bits}-bit samples; convert the file to 8 bits")
    if data.startswith(headers.SIGNATURE[:4]) and not data.startswith(headers.SIGNATURE):
        return Refusal("corrupt", "a PNG that was sent as text, which changed its line ends")
    return Refusal("corrupt", "the header cannot be read")


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Two kinds of TIFF that Pillow opens as something they are not, and one that it opens for minutes."""
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]  # Pillow looks for text in it
    if len(image.tile) > headers.MAX_TILES:
        raise Refusal("decode_timeout", f"{len(image.tile):,} tiles, at most {headers.MAX_TILES:,}")
    if image.tag_v2.get(_SUBFILE_TYPE) == 1:
        raise Refusal("unsupported_format", "a raw photograph: its first picture is only a preview")
    if 12 in image.tag_v2.get(_BITS_PER_SAMPLE, ()):
        raise Refusal("unsupported_bit_depth", "12-bit samples; convert the file to 8 or 16 bits")


def _notes(image: Image.Image, data: bytes, name: str) -> list[str]:
    notes = []
    suffix = PurePath(name).suffix.lower()
    if suffix in EXTENSIONS and suffix not in FORMATS[image.format or ""]:
        notes.append("extension_mismatch")
    if image.format == "MPO":
        notes += ["first_page"] if _is_burst(image, data) else []
    elif _has_more_frames(image):
        notes.append("animated_first_frame" if image.format != "TIFF" else "first_page")
    if min(image.size) < TINY:
        notes.append("tiny_image")
    if max(image.size) > EXTREME * min(image.size):
        notes.append("extreme_aspect")
    return notes


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is broken; the first is what counts
        return False


def _is_burst(image: Image.Image, data: bytes) -> bool:
    """Whether the second picture of a camera's file is as good as the first, as in a burst or a stereo pair.
    Most phones put a preview or a gain map behind every photograph, which is smaller or has one channel."""
    try:
        second = Image.open(io.BytesIO(data), formats=["JPEG"])
        second.seek(1)
        return (second.size, second.mode) == (image.size, image.mode)
    except Exception:  # there is none, or it is broken
        return False


def _load(image: Image.Image, data: bytes, size: int | None, notes: list[str]) -> Image.Image:
    """Decode every pixel now, so that a broken file is refused here and nowhere later."""
    is_jpeg = image.format in ("JPEG", "MPO")
    try:
        image.load()
    except Exception:
        if is_jpeg and (whole := jpeg.without_end_marker(data)):
            notes.append("jpeg_missing_eoi")
            return whole
        raise
    if is_jpeg:
        notes += jpeg.note_missing(image, data, size)
    return image


def _finished(rgb: Image.Image, image: Image.Image, notes: list[str]) -> Image.Image:
    """RGB pixels of an image, in sRGB and upright."""
    try:
        rgb = to_srgb(rgb, image)
    except BadProfile:
        notes.append("bad_colour_profile")
    try:
        readable = len(image.info.get("exif", b"")) <= jpeg.MAX_EXIF  # a number in it may be millions of them
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if readable else None
    except Exception:  # corrupt metadata never costs the picture
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


def _is_uniform(pixels: NDArray[np.uint8]) -> bool:
    """One colour all over, but for the noise of a JPEG. Nearly every picture shows in its first row that it
    is not."""
    return all(int(np.ptp(part, axis=(0, 1)).max()) <= UNIFORM for part in (pixels[:1], pixels))
