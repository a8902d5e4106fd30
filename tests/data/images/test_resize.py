"""Resizing: within one of 255 of Pillow's own filter, for all sizes and boxes."""

import importlib
import json
import subprocess
import sys
import threading

import numpy as np
import PIL
import pytest
from helpers.images import encoded, noise
from PIL import Image

import regraft.data.images.decoder_name
import regraft.data.images.resize
from regraft.data.images.decode import decode
from regraft.data.images.resize import average, resize

SHAPES = [
    (534, 400, 224), (223, 225, 224), (224, 224, 224), (1, 1, 1), (1, 1, 64), (5, 5, 1), (2, 2, 300),
    (3, 2000, 64), (2000, 3, 64), (20_000, 1, 32), (1, 20_000, 32), (100, 80, 224), (3000, 2500, 299),
]  # fmt: skip


def by_pillow(image, size, box=None, kernel=Image.Resampling.BILINEAR):
    return np.asarray(image.resize((size, size), kernel, box=box)).astype(int)


def apart(image, other):
    return int(np.abs(np.asarray(image).astype(int) - other).max())


@pytest.fixture
def reload(monkeypatch):
    """Reload both modules after a change of their environment, and again after the test."""

    def reload_modules():
        importlib.reload(regraft.data.images.resize)
        importlib.reload(regraft.data.images.decoder_name)

    yield reload_modules
    monkeypatch.undo()
    reload_modules()


@pytest.fixture
def without_wheels(monkeypatch, reload):
    """The modules as they are without cykooz-resizer."""
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    reload()


@pytest.mark.parametrize(("width", "height", "size"), SHAPES)
def test_a_resized_image_is_pillows_within_one(width, height, size):
    image = Image.fromarray(noise(width, height))
    small = resize(image, size)
    assert (small.mode, small.size) == ("RGB", (size, size))
    assert apart(small, by_pillow(image, size)) <= 1


@pytest.mark.parametrize("side", [32, 96, 128, 160, 224, 240, 299, 331, 600])
def test_a_thumbnail_is_pillows_within_one(side):
    image = Image.fromarray(noise(side, side))
    assert apart(average(image, 16), by_pillow(image, 16, kernel=Image.Resampling.BOX)) <= 1


def test_a_box_with_fractions_is_pillows_within_one():
    rng = np.random.default_rng(0)
    for number in range(60):
        width, height, size = (int(side) for side in rng.integers(2, 400, 3))
        image = Image.fromarray(noise(width, height, number))
        (left, right), (top, bottom) = (np.sort(rng.uniform(0, side, 2)) for side in (width, height))
        box = (left, top, right, bottom)
        assert apart(resize(image, size, box=box), by_pillow(image, size, box)) <= 1


def test_a_box_may_reach_the_last_edge():
    image = Image.fromarray(noise(224, 224))
    for left in np.random.default_rng(1).uniform(0, 223, 200):
        box = (left, left, 224, 224)
        assert apart(resize(image, 16, box=box), by_pillow(image, 16, box)) <= 1


def test_images_are_pillows_within_one(clothing):
    files = sorted(clothing.rglob("*.jpg"))[::60]
    for file in files:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        width, height = image.size
        for box in (None, (0.1 * width, 0.05 * height, 0.93 * width, 0.88 * height)):
            assert apart(resize(image, 224, box=box), by_pillow(image, 224, box)) <= 1


def test_pixels_of_an_array_that_is_a_view_are_read_in_its_order():
    seen = noise(60, 50)[::-1, ::2]
    image = Image.fromarray(seen)
    assert apart(resize(image, 20), by_pillow(Image.fromarray(seen.copy()), 20)) <= 1


def test_threads_resize_at_the_same_time():
    images = [Image.fromarray(noise(300, 200, seed)) for seed in range(4)]
    alone = [np.asarray(resize(image, 64)) for image in images]
    wrong = []

    def work(number):
        wrong.extend(
            number
            for _ in range(50)
            if not np.array_equal(np.asarray(resize(images[number], 64)), alone[number])
        )

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted in /proc")
def test_a_process_that_resizes_starts_no_threads():
    code = (
        "import json, os; from PIL import Image; import regraft.data.images.resize as resizing\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "before = count(); resizing.resize(Image.new('RGB', (4000, 3000)), 224)\n"
        "print(json.dumps([resizing.FAST, count() - before]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout)[1] == 0


# --- where there is no such package --------------------------------------------------------------------


def test_pillow_resizes_where_nothing_else_can(without_wheels):
    resizing = regraft.data.images.resize
    assert not resizing.FAST
    image = Image.fromarray(noise(90, 70))
    box = (3.5, 2.25, 80.1, 60.7)
    assert apart(resizing.resize(image, 32, box=box), by_pillow(image, 32, box)) == 0
    assert apart(resizing.average(image, 16), by_pillow(image, 16, kernel=Image.Resampling.BOX)) == 0


def test_what_another_resizer_made_has_another_name(without_wheels):
    name = regraft.data.images.decoder_name.DECODER
    assert name == f"decode 5, squash bilinear, Pillow {PIL.__version__}"


def test_the_name_of_the_decoder_holds_every_version_that_makes_pixels():
    pytest.importorskip("cykooz_resizer")
    name = regraft.data.images.decoder_name.DECODER
    assert f"Pillow {PIL.__version__}" in name
    assert f"cykooz-resizer {importlib.metadata.version('cykooz-resizer')}" in name


def test_an_unknown_layout_of_pillows_memory_is_left_to_pillow(monkeypatch, reload):
    monkeypatch.setattr(PIL, "__version__", "14.0.0")
    reload()
    assert not regraft.data.images.resize.FAST


def test_a_decoded_image_is_what_pillow_makes_of_it_within_one():
    image = Image.fromarray(noise(300, 200))
    assert apart(decode(encoded(image), 64).pixels, by_pillow(image, 64)) <= 1
