"""Decode the bytes of a file to RGB pixels of a given size. This is the only decoder in the package.

Training, evaluation and prediction all call `decode`, so the same file always becomes the same pixels. The
image is squashed to a square, bilinearly over all pixels that fall on a new one (a JPEG at least twice as
large is first averaged over 2, 4 or 8 pixels), converted to sRGB and turned upright. A file that cannot be
trusted raises `Rejection` with a code from `rejections`; nothing is ever replaced.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import (  # plugins are imported by name: no other format ever sees the bytes of a file
    AvifImagePlugin,  # noqa: F401
    BmpImagePlugin,  # noqa: F401
    ExifTags,
    GifImagePlugin,  # noqa: F401
    Image,
    ImageFile,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

from regraft.data.images import headers, jpeg, sample_range
from regraft.data.images.colour import WHITE, BadProfile, to_rgb, to_srgb
from regraft.data.images.rejections import Rejection, is_heif, register_heif, sniff
from regraft.data.images.resize import average, resize
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.errors import shorten_error

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "EXTENSIONS", "THUMBNAIL", "DecodedImage", "ImageFacts", "decode", "digest", "has_digest",
    "to_upright_rgb",
]  # fmt: skip

TINY_SIDE = 32  # pixels: an image with a shorter side gets the note `tiny_image`
EXTREME_RATIO = 10  # of the longer side to the shorter
UNIFORM_RANGE = 2  # of 255, between the darkest and the brightest pixel of each channel

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
THUMBNAIL = 16  # pixels: side of the thumbnail in `ImageFacts`
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_SUBFILE_TYPE, _BITS_PER_SAMPLE = 254, 258  # TIFF tags
_UPRIGHT_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


@dataclass(frozen=True)
class ImageFacts:
    """The facts that the decoder found in a file: size in pixels as stored, format, and notes to report.

    `thumbnail` is the image as 16 by 16 RGB pixels, by which near-duplicates are found; see
    `data.duplicates`. `highest` is the highest of 16-bit samples, or 0 where samples have at most 8 bits.
    """

    width: int
    height: int
    format: str
    notes: tuple[str, ...] = field(default=())
    thumbnail: bytes = field(default=bytes(3 * THUMBNAIL**2), repr=False, compare=False)
    highest: int = 0

    def as_json(self) -> list[Any]:
        """Return the facts as plain values, in the order of the fields."""
        return [self.width, self.height, self.format, list(self.notes), self.thumbnail.hex(), self.highest]

    @classmethod
    def from_json(cls, values: list[Any]) -> ImageFacts:
        """Make the facts from what `as_json` returned."""
        width, height, kind, notes, thumbnail, highest = values
        return cls(int(width), int(height), str(kind), tuple(notes), bytes.fromhex(thumbnail), int(highest))


@dataclass(frozen=True)
class DecodedImage:
    """A decoded file: RGB `pixels`, uint8 of shape (size, size, 3), and the `facts` found on the way."""

    pixels: NDArray[np.uint8]
    facts: ImageFacts


def digest(data: bytes) -> str:
    """Return the name of a content: 32 hexadecimal digits of BLAKE2b."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def has_digest(path: Path, expected: str) -> bool:
    """Return whether a file is there and has this content; see `digest`."""
    with suppress(OSError, ValueError):  # a name with a zero byte is no file's
        return path.is_file() and digest(path.read_bytes()) == expected
    return False


def decode(data: bytes, size: int | None, *, name: str = "", depth: int = FULL_DEPTH) -> DecodedImage:
    """Decode one image and resize it to a square.

    Args:
        data: the whole file.
        size: side of the result in pixels; None keeps the image as large as it is.
        name: name of the file, only to note an extension that contradicts the content.
        depth: how many bits of 16-bit samples are used: white is 2 ** depth - 1, and so is all above it.

    Returns:
        The facts, and RGB pixels in 0..255, uint8 of shape (size, size, 3): upright by the EXIF orientation,
        on white where transparent, 16-bit samples scaled to 8 bits, in sRGB by the colour profile, and the
        first frame of an animation.

    Raises:
        Rejection: with one of the codes of `rejections`.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (40, 30), (200, 10, 10)).save(buffer, "PNG")
        >>> decode(buffer.getvalue(), 8).pixels[0, 0].tolist()
        [200, 10, 10]
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of EXIF and bombs; here they are rejections
        try:
            return _decode(data, size, name, depth)
        except Rejection:
            raise
        except MemoryError as error:
            raise Rejection("too_much_memory", "decoding needs more than a process may take") from error
        except Exception as error:  # whatever a decoder raises, the file is to blame
            text = shorten_error(error, most=120)
            raise Rejection("truncated" if "truncated" in text.lower() else "corrupt", text) from error


def _decode(data: bytes, size: int | None, name: str, depth: int) -> DecodedImage:
    image = _open(data)
    has_16_bits = sample_range.has_16_bits(image)
    width, height, kind = image.width, image.height, image.format or ""
    notes = _make_notes(image, data, name)
    if size is not None:  # a JPEG of at least twice the size is decoded smaller, but never below the size
        image.draft(None, (size, size))
    loaded, highest, white = _load(image, data, size, notes), 0, sample_range.get_white(depth)
    if has_16_bits:
        highest = sample_range.measure(loaded)
        notes += sample_range.judge(highest, depth)
        if depth != FULL_DEPTH and not loaded.mode.startswith("I"):
            loaded = sample_range.join_bytes(loaded, sample_range.read_low_bytes(_open(data)), white)
    rgb = to_rgb(loaded, size, white=white)
    upright = _to_upright_srgb(rgb if size is None else resize(rgb, size), image, notes)
    pixels = np.asarray(upright)
    if _is_uniform(pixels):
        notes.append("uniform")
    thumbnail = average(upright, THUMBNAIL).tobytes()
    return DecodedImage(pixels, ImageFacts(width, height, kind, tuple(sorted(notes)), thumbnail, highest))


def to_upright_rgb(image: Image.Image, *, white: float = WHITE) -> Image.Image:
    """Convert an open image to 8-bit RGB: in sRGB, upright, and on white where it is transparent.

    `white` is the 16-bit sample of grey that becomes white.

    Raises:
        Rejection: `unsupported_bit_depth`.
    """
    image.load()
    return _to_upright_srgb(to_rgb(image, None, white=white), image, [])


def _open(data: bytes) -> ImageFile.ImageFile:
    if (rejection := sniff(data)) is not None:
        raise rejection
    formats = [kind for kind in FORMATS if kind not in ("MPO", "HEIF")]
    if data.startswith(b"\xff\xd8"):
        jpeg.check_work(data)
    elif data.startswith(headers.PNG_SIGNATURE):
        data = headers.drop_bad_chunks(data)
    elif is_heif(data):
        register_heif()
        formats = ["HEIF"]
    elif data.startswith(b"GIF8"):
        headers.check_gif(data)
    elif data.startswith(_TIFF_MAGIC):
        headers.check_tiff(data)
    if (stated := headers.read_size(data)) is not None and 0 not in stated:
        headers.check_size(*stated)
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except UnidentifiedImageError as error:
        raise _explain_unidentified(data, stated) from error
    except Image.DecompressionBombError as error:
        raise Rejection("too_many_pixels", "beyond every limit") from error
    headers.check_size(image.width, image.height, image.format or "")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(image)
    return image


def _explain_unidentified(data: bytes, stated: tuple[int, int, str] | None) -> Rejection:
    """Return the reason why no decoder opens a file that begins like an image."""
    if stated is not None and 0 in stated:
        return Rejection("bad_dimensions", f"{stated[0]} x {stated[1]}")
    frame = jpeg.read_frame(data) if data.startswith(b"\xff\xd8") else None
    if frame is not None and frame.bits != 8:
        return Rejection("unsupported_bit_depth", f"{frame.bits}-bit samples; convert the file to 8 bits")
    if data.startswith(headers.PNG_SIGNATURE[:4]) and not data.startswith(headers.PNG_SIGNATURE):
        return Rejection("corrupt", "a PNG that was sent as text, which changed its line ends")
    return Rejection("corrupt", "the header cannot be read")


def _check_tiff(image: TiffImagePlugin.TiffImageFile) -> None:
    """Reject the kinds of TIFF that Pillow opens wrongly: raw camera images, and samples of 12 bits."""
    if not isinstance(image.info.get("xmp", b""), bytes):
        del image.info["xmp"]  # Pillow searches it for text
    if image.tag_v2.get(_SUBFILE_TYPE) == 1:
        raise Rejection("unsupported_format", "a raw camera image: its first page is only a preview")
    if 12 in image.tag_v2.get(_BITS_PER_SAMPLE, ()):
        raise Rejection("unsupported_bit_depth", "12-bit samples; convert the file to 8 or 16 bits")


def _make_notes(image: Image.Image, data: bytes, name: str) -> list[str]:
    notes = []
    suffix = PurePath(name).suffix.lower()
    if suffix in EXTENSIONS and suffix not in FORMATS[image.format or ""]:
        notes.append("extension_mismatch")
    if image.format == "MPO":
        notes += ["first_page"] if _is_burst(image, data) else []
    elif _has_more_frames(image):
        notes.append("animated_first_frame" if image.format != "TIFF" else "first_page")
    if min(image.size) < TINY_SIDE:
        notes.append("tiny_image")
    if max(image.size) > EXTREME_RATIO * min(image.size):
        notes.append("extreme_aspect")
    return notes


def _has_more_frames(image: Image.Image) -> bool:
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the second frame is broken, but only the first is used
        return False


def _is_burst(image: Image.Image, data: bytes) -> bool:
    """Tell whether the second image is as good as the first, as in a burst, and no preview or gain map."""
    try:
        second = Image.open(io.BytesIO(data), formats=["JPEG"])
        second.seek(1)
        return (second.size, second.mode) == (image.size, image.mode)
    except Exception:  # there is none, or it is broken
        return False


def _load(image: Image.Image, data: bytes, size: int | None, notes: list[str]) -> Image.Image:
    """Decode every pixel now, so that a broken file is rejected here and nowhere later."""
    is_jpeg = image.format in ("JPEG", "MPO")
    try:
        image.load()
    except Exception:
        if is_jpeg and (complete := jpeg.open_without_end_marker(data)):
            notes.append("jpeg_missing_eoi")
            return complete
        raise
    if is_jpeg:
        notes += jpeg.note_missing(image, data, size)
    return image


def _to_upright_srgb(rgb: Image.Image, image: Image.Image, notes: list[str]) -> Image.Image:
    """Convert RGB pixels of an image to sRGB and turn them upright."""
    try:
        rgb = to_srgb(rgb, image)
    except BadProfile:
        notes.append("bad_colour_profile")
    try:
        is_readable = len(image.info.get("exif", b"")) <= jpeg.MAX_EXIF  # more may be millions of numbers
        turn = _UPRIGHT_TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1)) if is_readable else None
    except Exception:  # corrupt metadata is no reason to reject an image
        turn = None
    return rgb if turn is None else rgb.transpose(turn)


def _is_uniform(pixels: NDArray[np.uint8]) -> bool:
    """Tell whether pixels have one colour, but for noise. The first row nearly always decides."""
    return all(int(np.ptp(rows, axis=(0, 1)).max()) <= UNIFORM_RANGE for rows in (pixels[:1], pixels))
