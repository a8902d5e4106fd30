"""Convert pixels of any kind to 8-bit RGB in the sRGB colour space, on white where they are transparent.

Samples of 16 bits keep their high byte, or are scaled by `sample_range`. Little CMS applies the colour
profile of a file, with relative colorimetric intent and black-point compensation; a profile that amounts to
sRGB changes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops

from regraft.data.images.rejections import Rejection
from regraft.data.images.sample_range import FULL_DEPTH, get_white, scale_samples

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

__all__ = ["BACKGROUND", "BadProfile", "to_rgb", "to_srgb"]

BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
WHITE = get_white(FULL_DEPTH)
STRIP_PIXELS = 2**20  # converted at a time, so that a large image is not in memory two or three times
MAX_PROFILE_BYTES = 4 * 2**20  # profiles of printing presses reach three million
SRGB_TOLERANCE = 2  # of 255: a profile that changes no colour by more is sRGB
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I")


class BadProfile(ValueError):  # noqa: N818 - a note on a file, not a failure
    """A colour profile is broken, or is for other colours than those of the image."""


def to_rgb(image: Image.Image, size: int | None, *, white: float = WHITE) -> Image.Image:
    """Convert a loaded image to 8-bit RGB, in the colours of its own profile unless it is CMYK.

    Args:
        image: of any mode, with `format` and `info` as read by Pillow.
        size: side of the square it will be resized to, in pixels. An image at least eight times as large is
            averaged over blocks of pixels, down to four times `size`; None keeps every pixel.
        white: the 16-bit sample of grey that becomes white.

    Raises:
        Rejection: `unsupported_bit_depth`.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    convert = _choose_converter(image, white)
    width, height = image.size
    across, down = (1 if size is None else max(1, side // (4 * size)) for side in image.size)
    rows = max(1, STRIP_PIXELS // width // down) * down
    if rows >= height and across == down == 1:
        return convert(image)
    rgb = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        strip = convert(image.crop((0, top, width, min(top + rows, height))))
        rgb.paste(strip.reduce((across, down)), (0, top // down))
    return rgb


def to_srgb(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """Convert what `to_rgb` returned for an image to sRGB, by the colour profile of the image.

    Raises:
        BadProfile: the profile cannot be applied.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode == "LAB":
        return rgb
    conversion = _read_profile(profile)
    if isinstance(conversion, str):
        raise BadProfile(conversion)
    mode, transform = conversion
    if (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and image.mode not in _GREY_MODES):
        raise BadProfile(f"a profile for {mode} in an image of {image.mode}")
    if transform is None or mode == "CMYK":  # `to_rgb` has applied that of CMYK
        return rgb
    return transform.apply(rgb if mode == "RGB" else rgb.getchannel(0))


def _choose_converter(image: Image.Image, white: float) -> Callable[[Image.Image], Image.Image]:
    """Return the function that converts any strip of an image to RGB."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise Rejection("unsupported_bit_depth", f"{image.mode} samples; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):
        return partial(_convert_grey16, white=white)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _lay_on_background
    if image.mode != "CMYK":
        return lambda strip: strip.convert("RGB")
    conversion = _read_profile(image.info.get("icc_profile") or b"")
    transform = conversion[1] if not isinstance(conversion, str) and conversion[0] == "CMYK" else None
    # Pillow takes every JPEG for one of Adobe's, which store how much of an ink is missing.
    is_inverted = image.format in ("JPEG", "MPO") and "adobe" not in image.info

    def convert(strip: Image.Image) -> Image.Image:
        inks = ImageChops.invert(strip) if is_inverted else strip
        return inks.convert("RGB") if transform is None else transform.apply(inks)

    return convert


def _lay_on_background(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, (*BACKGROUND, 255)), rgba).convert("RGB")


def _convert_grey16(image: Image.Image, white: float) -> Image.Image:
    """Convert 16-bit grey. Pillow would clip, and forget which grey is transparent."""
    grey = np.asarray(image)
    rgb = np.repeat(scale_samples(grey, white)[..., None], 3, axis=2)
    if (transparent := image.info.get("transparency")) is not None:
        rgb[grey == transparent] = BACKGROUND
    return Image.fromarray(rgb)


@lru_cache(maxsize=8)  # images from one source share a profile
def _read_profile(profile: bytes) -> tuple[str, ImageCmsTransform | None] | str:
    """Return the mode a profile is for and its transform to sRGB, None where none is needed; or its fault."""
    from PIL import ImageCms  # most files hold no profile

    if len(profile) > MAX_PROFILE_BYTES:
        return f"{len(profile):,} bytes, at most {MAX_PROFILE_BYTES:,}"
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = opened.profile.xcolor_space.strip()
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}[space]
        transform = ImageCms.buildTransform(
            opened,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except KeyError:
        return f"a profile for {space}"
    except Exception as error:  # lcms raises errors of several classes
        return str(error)
    return mode, None if mode != "CMYK" and _is_srgb(transform, mode) else transform


def _is_srgb(transform: ImageCmsTransform, mode: str) -> bool:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 3)
    before = np.concatenate([greys, colours])[None] if mode == "RGB" else greys[None]
    image = Image.fromarray(np.ascontiguousarray(before))
    after = np.asarray(transform.apply(image if mode == "RGB" else image.getchannel(0))).astype(int)
    return bool(np.abs(after - before).max() <= SRGB_TOLERANCE)
