"""Bytes of a file -> RGB pixels at a size. The only decoder and the only resizer in the package.

Training, evaluation, prediction and every later tool call `decode`, so the same file always becomes the
same pixels. A file that cannot be trusted raises `Refusal` with a stable code; nothing is ever replaced.

| code | meaning |
|---|---|
| `empty` | zero bytes |
| `unreadable` | the file cannot be opened or read |
| `not_a_file` | a pipe, socket, device or folder |
| `not_an_image` | the content is no image at all (text, HTML, JSON, unknown bytes) |
| `unsupported_format` | an image, document or video in a format that is not decoded (SVG, PDF, PSD, RAW, ...) |
| `needs_plugin` | HEIC: `pip install pillow-heif` |
| `unsupported_bit_depth` | float or 32-bit samples, whose range nobody states |
| `bad_dimensions` | width or height of zero |
| `too_many_pixels` | more than `MAX_PIXELS`, read from the header |
| `truncated` | the data end before the picture does |
| `corrupt` | the data contradict themselves |
| `changed` | the file is not the one that was listed: it changed during the run |
| `decode_timeout`, `decoder_died` | the guarded worker that decoded it hung or died |
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
    GifImagePlugin,  # noqa: F401
    Image,
    ImageOps,
    JpegImagePlugin,  # noqa: F401
    MpoImagePlugin,  # noqa: F401
    PngImagePlugin,  # noqa: F401
    TiffImagePlugin,  # noqa: F401
    UnidentifiedImageError,
    WebPImagePlugin,  # noqa: F401
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DECODER", "EXTENSIONS", "Decoded", "Facts", "Refusal", "decode", "digest", "resize", "sniff"]

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
BACKGROUND = (255, 255, 255)  # what shows through transparent pixels

# Whatever can change a pixel is part of this name, and this name is part of every key of the store.
DECODER = f"decode 1, squash bilinear, Pillow {PIL.__version__}"

_MAGIC: tuple[tuple[bytes, int, str, str], ...] = (
    (b"%PDF", 0, "unsupported_format", "PDF"),
    (b"%!PS", 0, "unsupported_format", "PostScript"),
    (b"8BPS", 0, "unsupported_format", "Photoshop"),
    (b"\x1aE\xdf\xa3", 0, "unsupported_format", "Matroska video"),
    (b"ftyphei", 4, "needs_plugin", "HEIC: pip install pillow-heif"),
    (b"ftypmif1", 4, "needs_plugin", "HEIF: pip install pillow-heif"),
    (b"ftypmsf1", 4, "needs_plugin", "HEIF: pip install pillow-heif"),
    (b"ftypqt", 4, "unsupported_format", "QuickTime video"),
    (b"ftypisom", 4, "unsupported_format", "MP4 video"),
    (b"ftypmp4", 4, "unsupported_format", "MP4 video"),
    (b"PK\x03\x04", 0, "not_an_image", "looks like a zip archive"),
)
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")


class Refusal(Exception):  # noqa: N818 - a verdict on one file, not a failure of the run
    """One file that is not used: a stable `code` and a `detail` for the reader."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


@dataclass(frozen=True)
class Facts:
    """What the decoder learnt of a file: size in pixels as stored, format, and notes worth reporting."""

    width: int
    height: int
    format: str
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> list[Any]:
        """The facts as plain values, in the order `Facts(*values)` takes them."""
        return [self.width, self.height, self.format, list(self.notes)]

    @classmethod
    def from_json(cls, values: list[Any]) -> Facts:
        """The inverse of `as_json`."""
        width, height, kind, notes = values
        return cls(int(width), int(height), str(kind), tuple(notes))


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
        Refusal: with one of the codes in this module's table.

    Example:
        >>> buffer = io.BytesIO()
        >>> Image.new("RGB", (40, 30), (200, 10, 10)).save(buffer, "PNG")
        >>> decode(buffer.getvalue(), 8).pixels[0, 0].tolist()
        [200, 10, 10]
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of EXIF and bombs; verdicts here are explicit
        image = _open(data)
        width, height, kind = image.width, image.height, image.format or ""
        notes = _notes(image, name)
        upright = _upright(_load(image, data, notes))
        rgb = _to_rgb(upright)
        pixels = np.asarray(rgb if size is None else resize(rgb, size))
    return Decoded(pixels, Facts(width, height, kind, tuple(notes)))


def resize(
    image: Image.Image, size: int, *, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """An RGB image (or the part of it in `box`, left-top-right-bottom) as a square of `size` pixels."""
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def sniff(head: bytes) -> Refusal | None:
    """A verdict from the first bytes (64 are enough): None where they may begin a supported image."""
    if not head:
        return Refusal("empty", "the file has no bytes")
    if head.startswith(_IMAGE_MAGIC) or head[4:12] in (b"ftypavif", b"ftypavis"):
        return None
    for magic, offset, code, what in _MAGIC:
        if head[offset : offset + len(magic)] == magic:
            return Refusal(code, what)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml")):
        return Refusal("unsupported_format", "SVG or XML")
    if start.startswith((b"<!doctype html", b"<html", b"<head")):
        return Refusal("not_an_image", "looks like HTML: a failed download?")
    if start.startswith((b"{", b"[")):
        return Refusal("not_an_image", "looks like JSON: a failed download?")
    if start and all(byte >= 32 or byte in (9, 10, 13) for byte in start):
        return Refusal("not_an_image", "looks like text")
    return Refusal("not_an_image", "unknown content")


def _open(data: bytes) -> Image.Image:
    if not data:
        raise Refusal("empty", "the file has no bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=[kind for kind in FORMATS if kind != "MPO"])
    except UnidentifiedImageError as error:
        raise (sniff(data[:64]) or Refusal("corrupt", "the header cannot be read")) from error
    except Image.DecompressionBombError as error:
        raise Refusal("too_many_pixels", f"over {MAX_PIXELS:,} pixels") from error
    except Exception as error:
        raise Refusal("corrupt", _brief(error)) from error
    if image.width < 1 or image.height < 1:
        raise Refusal("bad_dimensions", f"{image.width} x {image.height}")
    if image.width * image.height > MAX_PIXELS:
        raise Refusal("too_many_pixels", f"{image.width} x {image.height}, at most {MAX_PIXELS:,}")
    return image


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
    except Exception as error:
        text = _brief(error)
        if image.format in ("JPEG", "MPO") and (whole := _without_eoi(data)):
            notes.append("jpeg_missing_eoi")
            return whole
        cut = "truncated" in text.lower() or "unrecognized data stream" in text
        raise Refusal("truncated" if cut else "corrupt", text) from error
    return image


def _without_eoi(data: bytes) -> Image.Image | None:
    """The picture of a JPEG that lacks nothing but its end marker, else None.

    What is missing shows when it is made up: bytes put behind the data change the picture where scan lines
    are missing, and are skipped as padding where the picture is complete.
    """
    made_up = (b"", bytes(range(1, 255, 3)) * 16, bytes(range(254, 0, -3)) * 16)
    try:
        plain, *filled = (
            Image.open(io.BytesIO(data.rstrip(b"\xff") + extra + b"\xff\xd9"), formats=["JPEG"])
            for extra in made_up
        )
        same = all(np.array_equal(np.asarray(plain), np.asarray(other)) for other in filled)
    except Exception:
        return None
    return plain if same else None


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # corrupt metadata never costs the picture
        return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise Refusal("unsupported_bit_depth", f"{image.mode} samples; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):  # 16-bit grey: keep the high byte; Pillow's own conversion would clip
        wide = np.asarray(image).astype(np.int64)
        return Image.fromarray((np.clip(wide, 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        over = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", over.size, (*BACKGROUND, 255)), over).convert("RGB")
    try:
        return image.convert("RGB")
    except ValueError as error:
        raise Refusal("unsupported_bit_depth", _brief(error)) from error
