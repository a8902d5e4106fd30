"""The reasons for not using a file or a row, the notes on files that are used, and what first bytes tell.

| code | meaning |
|---|---|
| `empty` | zero bytes |
| `unreadable` | the file, or the row of a data set, cannot be opened or read |
| `not_a_file` | a pipe, socket, device or folder |
| `file_too_large` | more bytes than `samples.MAX_FILE_BYTES` |
| `not_an_image` | the content is no image at all (text, HTML, JSON, unknown bytes, another array) |
| `unsupported_format` | an image, document or video in a format that is not decoded |
| `needs_plugin` | HEIC or HEIF without `pillow-heif`: `pip install regraft[heif]` |
| `unsupported_bit_depth` | float, 12-bit or 32-bit samples, whose range is not stated |
| `bad_dimensions` | width or height of zero |
| `too_many_pixels` | more pixels by the header than `headers.MAX_PIXELS`, or than its format may have |
| `truncated` | the data end before the image does |
| `corrupt` | the data contradict themselves |
| `changed` | the file changed after it was listed |
| `decode_timeout` | decoding takes, or would take by the header, far longer than for any real image |
| `too_much_memory` | decoding needs more memory than `decoder_process.MEMORY` |
| `decoder_died` | the process that decoded it died |
| `not_finite` | an array has a pixel that is not finite |
| `missing_path`, `missing_file` | the image cell of a row is empty; there is no file at a path |
| `outside_folder` | a path leads, by itself or through links, out of the table's root folder |
| `url_refused` | a web address: nothing is ever downloaded |
| `missing_label`, `not_a_number` | a target without a value; a text among numbers |
| `unknown_class` | a class number for which there is no name |
| `unknown_part` | the cell of the split column is empty |
| `bad_weight` | the weight of a row is missing, no number, infinite or below 0 |
| `conflicting_rows` | rows name the same image with different targets, parts, groups or weights |
| `conflicting_copies` | files with the same bytes have different classes |
| `malformed_row` | a row has more or fewer cells than the header; an item is no image with a target |
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache

__all__ = ["CONFLICTING_COPIES", "HEAD_BYTES", "NOTES", "Rejection", "is_heif", "register_heif", "sniff"]

CONFLICTING_COPIES = "conflicting_copies"
HEAD_BYTES = 512  # at the start of a file: as much as `sniff` reads
_HEIF_DETAIL = "HEIC or HEIF: pip install pillow-heif"
_HEIF_BRANDS = (b"hei", b"hev", b"mif1", b"msf1")

# Formats that are recognised but not decoded: (bytes, offset, code, description).
_MAGIC: tuple[tuple[bytes, int, str, str], ...] = (
    (b"%PDF", 0, "unsupported_format", "PDF"),
    (b"%!PS", 0, "unsupported_format", "PostScript"),
    (b"8BPS", 0, "unsupported_format", "Photoshop"),
    (b"\0\0\0\x0cjP  ", 0, "unsupported_format", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", 0, "unsupported_format", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", 0, "unsupported_format", "JPEG XL"),
    (b"\xff\x0a", 0, "unsupported_format", "JPEG XL"),
    (b"FUJIFILMCCD-RAW", 0, "unsupported_format", "raw camera image"),
    (b"CR\x02", 8, "unsupported_format", "raw camera image"),
    (b"IIRO", 0, "unsupported_format", "raw camera image"),
    (b"IIU\0", 0, "unsupported_format", "raw camera image"),
    (b"\x1aE\xdf\xa3", 0, "unsupported_format", "Matroska video"),
    (b"\0\0\x01\xba", 0, "unsupported_format", "MPEG video"),
    (b"AVI ", 8, "unsupported_format", "AVI video"),
    (b"ftyp", 4, "unsupported_format", "MP4, QuickTime or a relative"),
    (b"\0\0\1\0", 0, "unsupported_format", "an icon"),
    (b"DDS ", 0, "unsupported_format", "DDS"),
    (b"v/1\1", 0, "unsupported_format", "OpenEXR"),
    (b"#?RADIANCE", 0, "unsupported_format", "Radiance HDR"),
    (b"\x11\xaf", 4, "unsupported_format", "FLI animation"),
    (b"\x12\xaf", 4, "unsupported_format", "FLC animation"),
    (b"PK\x03\x04", 0, "not_an_image", "looks like a zip archive"),
)
# The same for files that do not begin like an image that is decoded: a DICOM file may be a TIFF, too.
_OTHER_MAGIC: tuple[tuple[bytes, int, str, str], ...] = (
    (b"DICM", 128, "unsupported_format", "DICOM"),
    (b"n+1\0", 344, "unsupported_format", "NIfTI"),
    (b"SIMPLE  =", 0, "unsupported_format", "FITS"),
    (b"NRRD000", 0, "unsupported_format", "NRRD"),
    (b"ObjectType = Image", 0, "unsupported_format", "MetaImage"),
    (b"ZISRAWFILE", 0, "unsupported_format", "Zeiss CZI"),
    (b"\xda\xce\xbe\x0a", 0, "unsupported_format", "Nikon ND2"),
    (b"qoif", 0, "unsupported_format", "QOI"),
    (b"BPG\xfb", 0, "unsupported_format", "BPG"),
    (b"II\xbc\1", 0, "unsupported_format", "JPEG XR"),
    (b"gimp xcf", 0, "unsupported_format", "GIMP"),
    (b"\x59\xa6\x6a\x95", 0, "unsupported_format", "Sun raster"),
    (b"\xd7\xcd\xc6\x9a", 0, "unsupported_format", "Windows metafile"),
    (b" EMF", 40, "unsupported_format", "Windows metafile"),
)
_NETPBM = re.compile(rb"(P[1-6]|P[Ff])\s+[#\d]|P7\s+(#|WIDTH)")
_IMAGE_MAGIC = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Notes on files that are used all the same; each completes "3 images ...". Their order is part of store keys.
NOTES = {
    "animated_first_frame": "are animations; the first frame is used",
    "bad_colour_profile": "hold a colour profile that cannot be used; their numbers are taken as sRGB",
    "clipped": "hold 16-bit samples beyond --depth, which became white",
    "extension_mismatch": "have an extension that is not their format's",
    "extreme_aspect": "are more than ten times as long as wide; squashed to a square, little is left of them",
    "first_page": "have several pages or images; the first is used",
    "jpeg_missing_eoi": "lack the end marker of a JPEG and are complete otherwise",
    "jpeg_missing_scans": "are progressive JPEGs without all of their last scans, hence blurred",
    "tiny_image": "are smaller than 32 pixels on a side",
    "uniform": "are one colour all over",
    "unused_bits": "hold 16-bit samples in less than a quarter of their range, so they are dark",
}


class Rejection(Exception):  # noqa: N818 - a verdict on one file, not a failure of the run
    """The reason why a file is not used: a stable `code` and a `detail` for the reader."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


def sniff(data: bytes) -> Rejection | None:
    """Judge a file by its first bytes; return None where they may begin a supported image.

    >>> sniff(b"<!DOCTYPE html><title>404</title>").code
    'not_an_image'
    """
    head = data[:HEAD_BYTES]
    if not head:
        return Rejection("empty", "the file has no bytes")
    if is_heif(head):
        return None if has_heif_plugin() else Rejection("needs_plugin", _HEIF_DETAIL)
    if not _is_avif(head) and (rejection := _match_magic(head, _MAGIC)):
        return rejection
    if _may_be_image(head):
        return None
    if _NETPBM.match(head):
        return Rejection("unsupported_format", "Netpbm: PBM, PGM, PPM, PAM or PFM")
    return _match_magic(head, _OTHER_MAGIC) or _sniff_text(head)


def _match_magic(head: bytes, formats: tuple[tuple[bytes, int, str, str], ...]) -> Rejection | None:
    for magic, offset, code, description in formats:
        if head[offset : offset + len(magic)] == magic:
            return Rejection(code, description)
    return None


def is_heif(head: bytes) -> bool:
    """Tell whether a file is HEIC or HEIF, by its first bytes."""
    return head[4:8] == b"ftyp" and head[8:12].startswith(_HEIF_BRANDS) and not _is_avif(head)


@cache
def has_heif_plugin() -> bool:
    """Tell whether the plugin for HEIC and HEIF is installed, without importing it."""
    return importlib.util.find_spec("pillow_heif") is not None


@cache
def register_heif() -> None:
    """Register HEIC and HEIF with Pillow. Only a file of that format is worth the import."""
    import pillow_heif

    pillow_heif.register_heif_opener()


def _is_avif(head: bytes) -> bool:
    """Tell whether the box at the start names AVIF, as the format or as one that it is compatible with."""
    box = head[: int.from_bytes(head[:4], "big")]
    return box[4:8] == b"ftyp" and (b"avif" in box or b"avis" in box)


def _may_be_image(head: bytes) -> bool:
    if head.startswith(b"BM"):
        return b"\0" in head[:18]  # a bitmap's header has zeros, a text about BMWs has none
    return head.startswith(_IMAGE_MAGIC) or head[8:12] == b"WEBP" or _is_avif(head)


def _sniff_text(head: bytes) -> Rejection:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<svg", b"<?xml", b"<!doctype svg", b"<!--")) and b"svg" in start:
        return Rejection("unsupported_format", "SVG")
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return Rejection("not_an_image", "looks like HTML: a failed download?")
    if start.startswith(b"<"):
        return Rejection("not_an_image", "looks like HTML or XML: a failed download?")
    if start.startswith((b"{", b"[")):
        return Rejection("not_an_image", "looks like JSON: a failed download?")
    if all(byte >= 32 or byte in (9, 10, 12, 13) for byte in head):
        return Rejection("not_an_image", "looks like text")
    return Rejection("not_an_image", "unknown content")
