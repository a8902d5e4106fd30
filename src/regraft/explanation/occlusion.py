"""Occlusion: how much a decision value falls when a patch of the image is blurred.

For models without a feature map: it needs only answers, so it works for every network and every head (Zeiler
and Fergus 2014, arXiv:1311.2901). A blurred patch is closer to what the network knows than a grey one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GRID", "occlude", "occlude_and_compare"]

GRID = 7  # patches a side
BLUR = 1 / 12  # radius of the blur, as a share of the image's side

Pixels = NDArray[np.uint8]


def occlude(pixels: Pixels, grid: int = GRID) -> Pixels:
    """Return versions of an image in each of which one patch is blurred, (grid * grid, size, size, 3).

    A patch is two cells of the grid wide, so that neighbours overlap and an object on a line is not missed.

    Args:
        pixels: RGB, (size, size, 3).
        grid: cells a side.
    """
    from PIL import Image, ImageFilter

    size = len(pixels)
    image = Image.fromarray(pixels)
    blurred = np.asarray(image.filter(ImageFilter.GaussianBlur(size * BLUR)))
    versions = np.repeat(pixels[None], grid * grid, axis=0)
    edges = np.linspace(0, size, 2 * grid + 1).round().astype(int)  # of half cells
    for number, version in enumerate(versions):
        row, column = divmod(number, grid)
        rows, columns = (
            slice(edges[max(2 * cell - 1, 0)], edges[min(2 * cell + 3, 2 * grid)]) for cell in (row, column)
        )
        version[rows, columns] = blurred[rows, columns]
    return versions


def occlude_and_compare(
    pixels: Pixels,
    decide: Callable[[Pixels], NDArray[np.floating[Any]]],
    directions: NDArray[np.floating[Any]],
    grid: int = GRID,
) -> NDArray[np.float32]:
    """Return how far decision values of an image fall without each patch, (directions, grid, grid).

    Args:
        pixels: RGB, (size, size, 3).
        decide: pixels (n, size, size, 3) -> decision values (n, units).
        directions: see `HeatMaker.compute`.
        grid: patches a side.
    """
    decisions = decide(np.concatenate([pixels[None], occlude(pixels, grid)])).astype(np.float64)
    falls = (decisions[0] - decisions[1:]) @ directions.T
    return np.asarray(falls.T.reshape(-1, grid, grid), np.float32)
