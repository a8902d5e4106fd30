"""Blurred patches, and how far a decision falls without them."""

from __future__ import annotations

import numpy as np

from regraft.explanation.occlusion import occlude, occlude_and_compare


def noise(size: int = 28) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)


def test_every_pixel_is_blurred_in_some_version_and_most_are_left_alone() -> None:
    pixels = noise()
    changed = (occlude(pixels, 7) != pixels).any(axis=3)
    assert changed.shape == (49, 28, 28)
    assert changed.any(axis=0).mean() > 0.98
    assert changed.mean() < 4 / 49


def test_a_patch_is_blurred_and_not_painted_over() -> None:
    pixels = np.full((28, 28, 3), 77, np.uint8)
    np.testing.assert_array_equal(occlude(pixels, 7), np.repeat(pixels[None], 49, axis=0))


def test_heat_lies_on_the_pixels_that_decide() -> None:
    pixels = noise()
    pixels[8:12, 20:24] = [255, 0, 0]  # the cell (2, 5) of a grid of 7

    def decide(images: np.ndarray) -> np.ndarray:
        redness = images[..., 0].astype(float) - images[..., 1]
        return np.stack([(redness[:, 8:12, 20:24]).mean((1, 2)), np.zeros(len(images))], 1)

    heat = occlude_and_compare(pixels, decide, np.array([[1.0, 0.0], [0.0, 1.0]]), 7)
    assert np.unravel_index(heat[0].argmax(), (7, 7)) == (2, 5)
    assert (heat[1] == 0).all()


def test_sizes_that_the_grid_does_not_divide_work() -> None:
    assert occlude(noise(30), 7).shape == (49, 30, 30, 3)
    assert occlude(noise(5), 7).shape == (49, 5, 5, 3)
