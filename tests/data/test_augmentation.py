"""Augmentation: the effect of each on pixels and targets, decided by the key alone."""

import os
import random
import subprocess
import sys
import threading
import zlib

import keras
import numpy as np
import pytest
from helpers.backends import make_environment

from regraft.data.augmentation import (
    CHANGES,
    MIXING,
    augment_batch,
    augment_pixels,
    order_augmentations,
    resolve_augment,
)
from regraft.data.batches import Batch
from regraft.errors import UsageError
from regraft.recipe import AUGMENTATIONS

SIZE = 24
PIXELS = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3)).astype(np.uint8)
EVERY_PIXEL_CHANGE = pytest.mark.parametrize("name", CHANGES)


def ramp(size=64):
    """Images whose red rises to the right, and green downwards."""
    y, x = np.mgrid[0:size, 0:size]
    return np.stack([x, y, 0 * x], axis=-1)[None].astype(np.uint8) * (256 // size)


def blob(size=65):
    """A white spot right of the middle of a black image."""
    image = np.zeros((1, size, size, 3), np.uint8)
    image[:, 30:35, 50:55] = 255
    return image


def centre(images):
    """The centre of light of each image, relative to its middle: (right, down)."""
    light = images[..., 0].astype(float)
    y, x = np.mgrid[0 : light.shape[1], 0 : light.shape[2]] - light.shape[1] // 2
    total = light.sum((1, 2))
    return np.stack([(light * x).sum((1, 2)) / total, (light * y).sum((1, 2)) / total], axis=1)


def batch(count=6, weights=None):
    targets = np.eye(count, dtype=np.float32)
    return Batch((PIXELS[:count],), targets, np.ones((count, 1), np.float32) if weights is None else weights)


def fingerprint():
    """The checksum of the results of all augmentations for a key, in this process."""
    found = [augment_pixels(PIXELS, [name], [1, 2, 3]).tobytes() for name in CHANGES]
    for name in MIXING:
        mixed = augment_batch(batch(), [name], [1, 2, 3])
        found += [mixed.inputs[0].tobytes(), mixed.targets.tobytes()]
    return zlib.crc32(b"".join(found))


@EVERY_PIXEL_CHANGE
def test_the_key_alone_decides(name):
    first = augment_pixels(PIXELS, [name], [7, 0, 3])
    keras.utils.set_random_seed(99)
    augment_pixels(PIXELS[:2], list(CHANGES), [1])
    np.testing.assert_array_equal(augment_pixels(PIXELS, [name], [7, 0, 3]), first)
    others = {augment_pixels(PIXELS, [name], [7, epoch, 3]).tobytes() for epoch in range(1, 5)}
    assert len(others | {first.tobytes()}) == 5


@EVERY_PIXEL_CHANGE
def test_pixels_stay_float_rgb_of_their_range_and_size(name):
    extreme = np.stack([np.zeros_like(PIXELS[0]), np.full_like(PIXELS[0], 255), *PIXELS])
    extreme[2, ..., 1:] = 0  # saturated: the first to leave the range
    before = extreme.copy()
    for number in range(6):
        found = augment_pixels(extreme, [name], [number])
        assert found.dtype == np.float32
        assert found.shape == extreme.shape
        assert found.min() >= 0
        assert found.max() <= 255
    np.testing.assert_array_equal(extreme, before)


@EVERY_PIXEL_CHANGE
def test_images_of_a_batch_are_changed_differently(name):
    same = np.repeat(PIXELS[:1], 16, axis=0)
    assert len({image.tobytes() for image in augment_pixels(same, [name], [0])}) > 1


def test_the_random_state_of_the_program_is_left_alone():
    keras.utils.set_random_seed(5)
    expected = (random.random(), np.random.random(), float(keras.random.uniform(())))
    keras.utils.set_random_seed(5)
    augment_batch(batch(), AUGMENTATIONS, [0])
    assert (random.random(), np.random.random(), float(keras.random.uniform(()))) == expected


@pytest.mark.slow
def test_threads_and_other_processes_make_the_same():
    expected, found = fingerprint(), []
    threads = [threading.Thread(target=lambda: found.append(fingerprint())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected, expected]


@pytest.mark.parametrize("backend", [pytest.param("tensorflow", marks=pytest.mark.soak), "jax"])
@pytest.mark.slow
def test_each_backend_makes_the_same_again(backend):
    code = (
        "import keras, test_augmentation as test\n"
        "once = test.fingerprint()\n"
        "keras.random.uniform((3,))\n"
        "print(keras.backend.backend(), once == test.fingerprint())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**make_environment(backend), "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == f"{backend} True", done.stderr


def test_no_augmentation_is_the_image_itself():
    np.testing.assert_array_equal(augment_pixels(PIXELS, (), [0]), PIXELS)


def test_another_augmentation_leaves_what_the_first_draws():
    flipped = augment_pixels(PIXELS, ["flip"], [3])
    both = augment_pixels(PIXELS, ["zoom", "flip"], [3])
    np.testing.assert_array_equal(both, augment_pixels(flipped, ["zoom"], [3]))


def test_a_flip_is_the_exact_mirror_half_of_the_time():
    many = np.repeat(PIXELS[:1], 400, axis=0)
    found = augment_pixels(many, ["flip"], [0])
    mirrored = (found == many[:, :, ::-1]).all((1, 2, 3))
    kept = (found == many).all((1, 2, 3))
    assert (mirrored | kept).all()
    assert 160 < mirrored.sum() < 240


def test_a_crop_is_a_part_enlarged_to_the_same_size():
    found = augment_pixels(np.repeat(ramp(), 200, axis=0), ["crop"], [0])
    assert (np.diff(found[..., 0], axis=2) >= 0).all()  # never mirrored
    spans = np.ptp(found[..., 0], axis=(1, 2)) * np.ptp(found[..., 1], axis=(1, 2)) / 252**2
    assert 0.5 < spans.min() < 0.7
    assert 0.9 < spans.max() <= 1


def test_a_rotation_turns_by_up_to_15_degrees_both_ways():
    right, down = centre(augment_pixels(np.repeat(blob(), 100, axis=0), ["rotation"], [0])).T
    angles = np.degrees(np.arctan2(down, right))
    np.testing.assert_allclose(np.hypot(right, down), 20, atol=0.5)
    assert -15.5 < angles.min() < -12
    assert 12 < angles.max() < 15.5


def test_a_zoom_goes_in_and_out_by_up_to_a_fifth():
    right, down = centre(augment_pixels(np.repeat(blob(), 100, axis=0), ["zoom"], [0])).T
    np.testing.assert_allclose(down, 0, atol=0.3)
    assert 20 / 1.25 < right.min() < 18
    assert 23 < right.max() < 20 * 1.3


def test_colours_move_both_ways_and_nothing_else_does():
    grey = np.full((100, 8, 8, 3), 128, np.uint8)
    grey[:, :, 4:] = 100
    grey[..., 0] += 20
    found = augment_pixels(grey, ["colour"], [0])
    assert (found == found[:, :1]).all()  # rows alike, as before
    light = found.mean((1, 2, 3))
    contrast = found[:, 0, 0, 1] - found[:, 0, 7, 1]
    saturation = np.ptp(found[:, 0, 0], axis=-1) / found[:, 0, 0].max(-1) / (20 / 148)
    for values, low, high in ((light / 120.67, 0.6, 1.4), (contrast / 28, 0.7, 1.4), (saturation, 0.5, 1.9)):
        assert low < values.min() < 0.92
        assert 1.08 < values.max() < high


def test_randaugment_draws_more_than_one_pair_in_a_batch():
    """Operations on colour keep rows alike, and those on geometry do not: both occur."""
    stripes = np.repeat(ramp(32)[:, :1], 32, axis=1)
    found = augment_pixels(np.repeat(stripes, 48, axis=0), ["randaugment"], [0])
    untouched = (found == found[:, :1]).all((1, 2, 3))
    assert untouched.any()
    assert not untouched.all()


def test_mixup_takes_the_same_share_of_pixels_targets_and_weights():
    flat = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((1, SIZE, SIZE, 3), 40, np.uint8)
    whole = Batch((flat,), np.eye(6, dtype=np.float32), np.arange(6, dtype=np.float32)[:, None] + 1)
    mixed = augment_batch(whole, ["mixup"], [0])
    (pixels,) = mixed.inputs
    np.testing.assert_allclose(mixed.targets.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(pixels[:, 0, 0, 0], mixed.targets @ np.arange(6) * 40, atol=1e-3)
    np.testing.assert_allclose(mixed.weights[:, 0], mixed.targets @ whole.weights[:, 0], atol=1e-5)
    assert ((mixed.targets > 0) & (mixed.targets < 1)).any()


def test_cutmix_takes_a_patch_and_the_targets_by_its_area():
    flat = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((1, 64, 64, 3), 40, np.uint8)
    mixed = augment_batch(
        Batch((flat,), np.eye(6, dtype=np.float32), np.ones((6, 1), np.float32)), ["cutmix"], [0]
    )
    shares = np.stack([(mixed.inputs[0][..., 0] == 40 * source).mean((1, 2)) for source in range(6)], axis=1)
    np.testing.assert_allclose(shares.sum(1), 1)  # whole pixels of one image or another
    np.testing.assert_allclose(mixed.targets, shares, atol=2.5 / 64)
    assert ((mixed.targets > 0.05) & (mixed.targets < 0.95)).any()
    np.testing.assert_allclose(mixed.weights, 1, atol=1e-6)


def test_weights_of_every_answer_are_mixed_too():
    weights = np.random.default_rng(0).random((6, 6)).astype(np.float32)
    mixed = augment_batch(batch(weights=weights), ["mixup"], [0])
    np.testing.assert_allclose(mixed.weights, mixed.targets @ weights, atol=1e-5)


@pytest.mark.slow
def test_mixup_and_cutmix_take_turns():
    black_and_white = np.stack([np.zeros((SIZE, SIZE, 3)), np.full((SIZE, SIZE, 3), 255)] * 3).astype(
        np.uint8
    )
    whole = batch()._replace(inputs=(black_and_white,))
    blended = [
        ((mixed > 1) & (mixed < 254)).any()
        for mixed in (augment_batch(whole, ["mixup", "cutmix"], [key]).inputs[0] for key in range(12))
    ]
    assert any(blended)
    assert not all(blended)


def test_a_batch_without_mixing_keeps_its_targets():
    changed = augment_batch(batch(), ["flip", "crop"], [4])
    np.testing.assert_array_equal(changed.inputs[0], augment_pixels(PIXELS, ["flip", "crop"], [4]))
    np.testing.assert_array_equal(changed.targets, np.eye(6))


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel"])
def test_auto_is_flip_and_crop_for_labels(task):
    assert resolve_augment(("auto",), task) == ("flip", "crop")
    assert resolve_augment(("cutmix", "crop", "crop"), task) == ("crop", "cutmix")


def test_a_regression_is_augmented_only_by_name():
    assert resolve_augment(("auto",), "regression") == ()
    assert resolve_augment(("mixup", "rotation"), "regression") == ("rotation", "mixup")
    with pytest.raises(UsageError, match=r"Received: cutmix.*Use mixup"):
        resolve_augment(("flip", "cutmix"), "regression")


def test_unknown_names_and_mixing_without_targets_are_refused():
    with pytest.raises(UsageError, match=r'Received: rotate\. Did you mean "rotation"'):
        order_augmentations(["flip", "rotate"])
    with pytest.raises(UsageError, match=r"Received: mixup\. It needs targets"):
        augment_pixels(PIXELS, ["mixup"], [0])


def test_every_augmentation_of_a_recipe_is_there():
    assert set(CHANGES) | set(MIXING) == set(AUGMENTATIONS)
