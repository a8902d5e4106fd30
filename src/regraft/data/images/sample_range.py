"""The range of 16-bit samples: many files hold 10, 12 or 14 bits in 16, and would come out nearly black.

Pillow reads 16-bit grey as it is, but of 16-bit colour only the high bytes. Where a smaller range is asked
for, such a file is read a second time for its low bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from regraft.data.images.rejections import Rejection

__all__ = [
    "DEPTHS",
    "FULL_DEPTH",
    "count_bits",
    "get_white",
    "has_16_bits",
    "join_bytes",
    "judge",
    "measure",
    "read_low_bytes",
    "scale_samples",
]

FULL_DEPTH = 16  # bits
DEPTHS = range(8, FULL_DEPTH + 1)
STRIP_ROWS = 256
_OTHER_ORDER = {"L": "B", "B": "L", "N": "B" if np.little_endian else "L"}


def get_white(depth: int) -> int:
    """Return the sample that becomes white where this many bits are used.

    >>> get_white(12)
    4095
    """
    return (1 << depth) - 1


def scale_samples(samples: NDArray[np.integer], white: float) -> NDArray[np.uint8]:
    """Scale 16-bit samples to 8 bits. The full range keeps the high byte.

    >>> scale_samples(np.array([0, 2048, 4095, 5000]), 4095).tolist()
    [0, 128, 255, 255]
    """
    if white == get_white(FULL_DEPTH):
        scaled = np.clip(samples, 0, get_white(FULL_DEPTH)) >> 8
    else:
        scaled = np.rint(np.clip(samples, 0, white) * (255 / white))
    return np.asarray(scaled, np.uint8)


def has_16_bits(image: Image.Image) -> bool:
    """Tell whether an image, of which nothing was decoded yet, has 16-bit samples of light."""
    is_light = image.mode.startswith(("I", "RGB"))
    return is_light and image.format in ("PNG", "TIFF") and ";16" in _get_raw_mode(image)


def measure(image: Image.Image) -> int:
    """Return the highest sample of a decoded image with 16 bits; of colour, all that its high byte allows."""
    if image.mode.startswith("I"):
        extrema = image.getextrema() or np.asarray(
            image
        )  # earlier versions of Pillow give None for some modes
        return int(np.clip(np.max(extrema), 0, get_white(FULL_DEPTH)))
    return int(np.max(image.getextrema()[:3])) << 8 | 255


def count_bits(highest: int) -> int:
    """Return how many bits a device probably has whose highest sample is this one: 8, 10, 12, 14 or 16.

    >>> count_bits(2900), count_bits(40)
    (12, 8)
    """
    return max(DEPTHS[0], highest.bit_length() + highest.bit_length() % 2)


def judge(highest: int, depth: int) -> list[str]:
    """Return the note on an image whose highest 16-bit sample is this one, if any.

    >>> judge(4095, 16), judge(4095, 12), judge(4095, 10)
    (['unused_bits'], [], ['clipped'])
    """
    if highest > get_white(depth):
        return ["clipped"]
    return ["unused_bits"] if count_bits(highest) < depth - 1 else []


def read_low_bytes(image: ImageFile.ImageFile) -> Image.Image:
    """Decode the low bytes, in place of the high ones, of a 16-bit colour image that was only opened.

    Raises:
        Rejection: `unsupported_bit_depth`, for rare arrangements of channels.
    """
    raw_mode = _get_raw_mode(image)
    channels, _, order = raw_mode.partition(";16")
    if channels == "LA" and image.mode == "RGBA":
        other = "RGBA"  # two channels of two bytes, as four channels
    elif channels in ("RGB", "RGBA", "RGBX"):
        other = f"{channels};16{_OTHER_ORDER[order]}"
    else:
        detail = f"{raw_mode} samples cannot be scaled by --depth; convert the file to 8 bits"
        raise Rejection("unsupported_bit_depth", detail)
    tiles = []
    for tile in image.tile:
        args = (other, *tile.args[1:]) if isinstance(tile.args, tuple) else other
        tiles.append(tile._replace(args=args))
    image.tile = tiles
    image.load()
    if channels != "LA":
        return image
    grey, opacity = image.getchannel(1), image.getchannel(3)
    return Image.merge("RGBA", [grey, grey, grey, opacity])


def join_bytes(high: Image.Image, low: Image.Image, white: float) -> Image.Image:
    """Return a colour image in 8 bits, from its high and its low bytes; opacity keeps its high bytes."""
    joined = Image.new(high.mode, high.size)
    joined.info = high.info
    for top in range(0, high.height, STRIP_ROWS):
        box = (0, top, high.width, min(top + STRIP_ROWS, high.height))
        pixels = np.array(high.crop(box))
        samples = pixels[..., :3].astype(np.uint16) << 8 | np.asarray(low.crop(box))[..., :3]
        pixels[..., :3] = scale_samples(samples, white)
        joined.paste(Image.fromarray(pixels, high.mode), box)
    return joined


def _get_raw_mode(image: Image.Image) -> str:
    """Return how the bytes of a file that was only opened are arranged, such as RGB;16B."""
    args = image.tile[0].args if isinstance(image, ImageFile.ImageFile) and image.tile else ""
    return str(args[0] if isinstance(args, tuple) else args)
