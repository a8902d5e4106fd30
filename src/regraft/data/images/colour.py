"""Pixels of any kind -> 8-bit RGB in the sRGB colour space, on white where they are transparent.

Samples of 16 bits keep their high byte. A colour profile in the file is applied, by Little CMS with relative
colorimetric intent and black-point compensation; one that says sRGB in other words changes nothing.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageChops

from regraft.data.images.rejections import Refusal

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsTransform

__all__ = ["BACKGROUND", "BadProfile", "to_rgb", "to_srgb"]

BACKGROUND = (255, 255, 255)  # what shows through transparent pixels
STRIP = 2**20  # pixels converted at a time, so that a large picture is not in memory two or three times
MAX_PROFILE = 4 * 2**20  # bytes; those of printing presses reach three million
SAME = 2  # of 255: a profile that moves no colour by more is sRGB
_GREY = ("1", "L", "LA", "La", "I;16", "I;16B", "I;16L", "I")


class BadProfile(ValueError):  # noqa: N818 - a remark on a file, not a failure
    """A colour profile that is broken, or is one of other colours than the picture has."""


def to_rgb(image: Image.Image, size: int | None) -> Image.Image:
    """A loaded image as 8-bit RGB, in the colours of its own profile unless it is CMYK.

    Args:
        image: of any mode; with `format` and `info` as Pillow read them.
        size: the square it will be resized to. A picture of eight times that is averaged on the way over
            whole blocks of pixels, down to four times it; None keeps every pixel.

    Raises:
        Refusal: `unsupported_bit_depth`.
    """
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    convert = _converter(image)
    width, height = image.size
    across, down = (1 if size is None else max(1, side // (4 * size)) for side in image.size)
    rows = max(1, STRIP // width // down) * down
    if rows >= height and across == down == 1:
        return convert(image)
    whole = Image.new("RGB", (-(-width // across), -(-height // down)))
    for top in range(0, height, rows):
        strip = convert(image.crop((0, top, width, min(top + rows, height))))
        whole.paste(strip.reduce((across, down)), (0, top // down))
    return whole


def to_srgb(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """What `to_rgb` made of an image, by the image's colour profile.

    Raises:
        BadProfile: it cannot be applied.
    """
    profile = image.info.get("icc_profile")
    if not profile or image.mode == "LAB":
        return rgb
    found = _conversion(profile)
    if isinstance(found, str):
        raise BadProfile(found)
    mode, transform = found
    if (mode == "CMYK") != (image.mode == "CMYK") or (mode == "L" and image.mode not in _GREY):
        raise BadProfile(f"a profile for {mode} in a picture of {image.mode}")
    if transform is None or mode == "CMYK":  # which `to_rgb` has applied
        return rgb
    return transform.apply(rgb if mode == "RGB" else rgb.getchannel(0))


def _converter(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What makes RGB of any part of an image."""
    if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
        raise Refusal("unsupported_bit_depth", f"{image.mode} samples; convert the file to 8 or 16 bits")
    if image.mode.startswith("I"):
        return _from_grey16
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return _on_background
    if image.mode != "CMYK":
        return lambda part: part.convert("RGB")
    found = _conversion(image.info.get("icc_profile") or b"")
    by_profile = found[1] if not isinstance(found, str) and found[0] == "CMYK" else None
    # Pillow takes every JPEG for one of Adobe's, which store how much of an ink is missing.
    inverted = image.format in ("JPEG", "MPO") and "adobe" not in image.info

    def convert(part: Image.Image) -> Image.Image:
        inks = ImageChops.invert(part) if inverted else part
        return inks.convert("RGB") if by_profile is None else by_profile.apply(inks)

    return convert


def _on_background(image: Image.Image) -> Image.Image:
    over = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", over.size, (*BACKGROUND, 255)), over).convert("RGB")


def _from_grey16(image: Image.Image) -> Image.Image:
    """16-bit grey by its high byte; Pillow's own conversion would clip, and forgets which grey is clear."""
    wide = np.asarray(image)
    rgb = np.repeat((np.clip(wide, 0, 65535) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    if (clear := image.info.get("transparency")) is not None:
        rgb[wide == clear] = BACKGROUND
    return Image.fromarray(rgb)


@lru_cache(maxsize=8)
def _conversion(profile: bytes) -> tuple[str, ImageCmsTransform | None] | str:
    """The pixels a profile is for and what turns them into sRGB, None where nothing does; or what is wrong
    with it. Photographs of one source share a profile, so it is looked at once."""
    from PIL import ImageCms  # most files hold no profile

    if len(profile) > MAX_PROFILE:
        return f"{len(profile):,} bytes, at most {MAX_PROFILE:,}"
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
    except Exception as error:  # lcms raises more than one kind
        return str(error)
    return mode, None if mode != "CMYK" and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCmsTransform, mode: str) -> bool:
    greys = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    colours = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1).reshape(-1, 3)
    tried = np.concatenate([greys, colours])[None] if mode == "RGB" else greys[None]
    image = Image.fromarray(np.ascontiguousarray(tried))
    moved = np.asarray(transform.apply(image if mode == "RGB" else image.getchannel(0))).astype(int) - tried
    return bool(np.abs(moved).max() <= SAME)
