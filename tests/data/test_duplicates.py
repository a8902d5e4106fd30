"""Near-duplicates are found after every change; different images that look alike are not."""

import io

import numpy as np
import pytest
from helpers.reporters import Recorder
from PIL import Image, ImageEnhance

from regraft.data.duplicates import CROWD, find_duplicates, is_plain
from regraft.data.images.decode import decode
from regraft.system.console import SilentReporter


def thumbnail(image, size=64, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return np.frombuffer(decode(buffer.getvalue(), size).facts.thumbnail, np.uint8).reshape(16, 16, 3)


def scene(rng, size=(200, 150), spread=50):
    """A random soft image: blobs at any position and in any shade."""
    coarse = np.clip(rng.normal(128, spread, (6, 6, 3)), 0, 255).astype(np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def scenes():
    rng = np.random.default_rng(0)
    return [scene(rng) for _ in range(60)]


@pytest.fixture(scope="module")
def thumbnails(scenes):
    return np.stack([thumbnail(image, quality=90) for image in scenes])


def found(thumbnails, extra):
    pairs = find_duplicates(np.concatenate([thumbnails, extra]), reporter=SilentReporter())
    return [(pair.first, pair.second - len(thumbnails), pair.transform) for pair in pairs]


def cropped(image):
    """The image without 1.5 % at each edge."""
    across, down = round(0.015 * image.width), round(0.015 * image.height)
    return image.crop((across, down, image.width - across, image.height - down))


CHANGES = {
    "saved again": (lambda image: image, ""),
    "a third as large": (lambda image: image.resize((66, 50)), ""),
    "brighter": (lambda image: ImageEnhance.Brightness(image).enhance(1.1), ""),
    "of more contrast": (lambda image: ImageEnhance.Contrast(image).enhance(1.2), ""),
    "cut at the border": (cropped, ""),
    "mirrored": (lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "mirrored"),
    "turned": (lambda image: image.transpose(Image.Transpose.ROTATE_90), "turned"),
    "upside down": (lambda image: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM), "turned"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_found_and_nothing_else(scenes, thumbnails, change):
    make, how = CHANGES[change]
    extra = np.stack([thumbnail(make(image), quality=60) for image in scenes[:20]])
    assert found(thumbnails, extra) == [(number, number, how) for number in range(20)]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_another_format_and_another_backbones_size_make_no_difference(scenes, thumbnails, kind):
    extra = np.stack([thumbnail(image, size=224, kind=kind) for image in scenes[:5]])
    assert found(thumbnails, extra) == [(number, number, "") for number in range(5)]


def test_another_colour_is_another_image(scenes, thumbnails):
    extra = np.stack([thumbnail(Image.merge("RGB", image.split()[::-1])) for image in scenes[:20]])
    assert found(thumbnails, extra) == []


def test_plain_images_are_like_none():
    shades = np.arange(40, 60, dtype=np.uint8)
    plain = np.broadcast_to(shades[:, None, None, None], (20, 16, 16, 3))
    assert is_plain(plain).all()
    for some in (plain, plain[:1], plain[:0]):
        assert find_duplicates(some, reporter=SilentReporter()) == []


def test_noise_on_a_ground_of_one_colour_is_no_copy():
    rng = np.random.default_rng(0)
    noisy = np.clip(rng.normal((200, 40, 30), 12, (300, 16, 16, 3)), 0, 255).astype(np.uint8)
    assert find_duplicates(noisy, reporter=SilentReporter()) == []


def test_what_a_camera_sees_that_never_moves_are_no_copies(scenes):
    """Parts on one background, each with a different flaw: all look alike, but none is a copy."""
    rng = np.random.default_rng(1)
    ground = np.asarray(scenes[0].resize((64, 64))).astype(float)
    pictures = []
    for _ in range(200):
        seen = ground + rng.normal(0, 6, ground.shape)
        across, down = rng.integers(0, 56, 2)
        seen[down : down + 8, across : across + 8] -= 60
        pictures.append(thumbnail(Image.fromarray(np.clip(seen, 0, 255).astype(np.uint8))))
    assert len(find_duplicates(np.stack(pictures), reporter=SilentReporter())) < 10


def test_several_copies_of_one_image_are_all_found(scenes, thumbnails):
    extra = np.stack([thumbnail(scenes[3], quality=40 + 6 * step) for step in range(CROWD - 1)])
    pairs = find_duplicates(np.concatenate([thumbnails, extra]), reporter=SilentReporter())
    assert len(pairs) == CROWD * (CROWD - 1) // 2


def test_progress_counts_each_image_once(thumbnails):
    seen = Recorder()
    find_duplicates(thumbnails, reporter=seen)
    assert seen.progress == [["Comparing", len(thumbnails)]]


@pytest.mark.soak
def test_images_and_their_copies(clothing):
    """1,372 images of clothes: only the one pair in the data is found, and nearly every added copy."""
    files = sorted(path for path in clothing.rglob("*.jpg"))
    thumbnails = np.stack(
        [
            np.frombuffer(decode(path.read_bytes(), 224).facts.thumbnail, np.uint8).reshape(16, 16, 3)
            for path in files
        ]
    )
    (pair,) = find_duplicates(thumbnails, reporter=SilentReporter())
    assert {files[pair.first].parent.name, files[pair.second].parent.name} == {"shorts", "skirt"}
    some = np.random.default_rng(0).choice(len(files), 120, replace=False)
    for change, (make, _) in CHANGES.items():
        extra = np.stack([thumbnail(make(Image.open(files[at]).convert("RGB")), 224) for at in some])
        hits = {(one, two) for one, two, _ in found(thumbnails, extra)} & {
            (at, n) for n, at in enumerate(some)
        }
        assert len(hits) >= 0.9 * len(some), change
