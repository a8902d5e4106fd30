"""Pictures of heat maps: colours over a photograph that lost its own, as small JPEG files."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decode import decode
from regraft.data.images.sample_range import FULL_DEPTH

__all__ = ["encode_jpeg", "enlarge", "paint", "read_picture"]

Pixels = NDArray[np.uint8]

# From no heat to much of it; light and dark viewers see the same photograph below.
FOR = np.array([(120, 20, 60), (214, 60, 30), (250, 150, 30), (255, 236, 130)], np.float32)
AGAINST = np.array([(20, 30, 110), (30, 90, 200), (60, 170, 235), (180, 240, 255)], np.float32)
STRONGEST = 0.78  # opacity of the strongest heat
GREY = 0.75  # how much of the photograph's colour is taken away


def paint(picture: Pixels, heat: NDArray[np.floating[Any]], *, is_signed: bool = False) -> Pixels:
    """Return a picture with its heat map on top, warm for what speaks for a class, blue against it.

    Args:
        picture: RGB, (height, width, 3).
        heat: shape (rows, columns), of the whole picture. The strongest heat gets the strongest colour.
        is_signed: whether negative heat is shown.

    >>> paint(np.full((4, 4, 3), 90, np.uint8), np.array([[0.0, 1.0]])).shape
    (4, 4, 3)
    """
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    base = GREY * grey[..., None] + (1 - GREY) * picture
    smooth = enlarge(heat, picture.shape[0], picture.shape[1])
    strongest = float(np.abs(smooth).max() if is_signed else smooth.max(initial=0.0))
    if not np.isfinite(strongest) or strongest <= 0:
        return np.asarray(base.round(), np.uint8)
    share = np.clip(smooth / strongest, -1, 1)
    for colours, part in ((FOR, share), (AGAINST, -share)):
        if colours is AGAINST and not is_signed:
            break
        level = np.clip(part, 0, 1)
        opacity = (STRONGEST * level**0.8)[..., None]
        base = (1 - opacity) * base + opacity * _pick_colours(colours, level)
    return np.asarray(base.clip(0, 255).round(), np.uint8)


def _pick_colours(colours: NDArray[np.float32], level: NDArray[np.float32]) -> NDArray[np.float32]:
    steps = np.linspace(0, 1, len(colours))
    channels = [np.interp(level, steps, colours[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).astype(np.float32)


def enlarge(heat: NDArray[np.floating[Any]], height: int, width: int) -> NDArray[np.float32]:
    """Return a heat map of another size, smooth between the centres of its positions.

    >>> enlarge(np.array([[0.0, 4.0]]), 1, 4).round().tolist()
    [[-0.0, 1.0, 3.0, 4.0]]
    """
    from PIL import Image

    small = Image.fromarray(np.ascontiguousarray(heat, np.float32))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC), np.float32)


def read_picture(path: Path, side: int, *, depth: int = FULL_DEPTH) -> Pixels:
    """Return an image file as RGB pixels, (height, width, 3), its longer side at most `side` pixels.

    `depth` is how many bits of 16-bit samples are used.

    Raises:
        Rejection, OSError: the file holds no image, or is gone.
    """
    from PIL import Image

    image = Image.fromarray(decode(path.read_bytes(), None, depth=depth).pixels)
    image.thumbnail((side, side))
    return np.asarray(image)


def encode_jpeg(picture: Pixels, *, quality: int = 82) -> bytes:
    """Return a picture as a JPEG file."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()
