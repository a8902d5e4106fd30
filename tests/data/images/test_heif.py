"""HEIC is decoded by a plugin, and refused where there is none."""

import io
import sys

import numpy as np
import pytest
from helpers.images import noise, refusal, scene, without_heif
from PIL import Image

from regraft.data.images.decode import decode
from regraft.data.images.rejections import has_heif_plugin, register_heif, sniff

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100)


@without_heif
def test_without_the_plugin_an_image_of_a_phone_is_refused_with_what_helps():
    found = refusal(HEIC, "IMG_0001.HEIC")
    assert found.code == "needs_plugin"
    assert "pip install pillow-heif" in found.detail


PLUGIN = """
from helpers.images import noise
from PIL import Image

calls = 0


class Plugin(Image.Image):
    def __init__(self, file, name=None):
        super().__init__()
        self.__dict__.update(Image.fromarray(noise()).__dict__, format="HEIF", is_animated=False)


def register_heif_opener():
    global calls
    calls += 1
    Image.register_open("HEIF", Plugin)
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """A plugin that is installed for one test, and registers itself with Pillow as the real one does."""

    def forget():
        sys.modules.pop("pillow_heif", None)
        register_heif.cache_clear()
        has_heif_plugin.cache_clear()

    monkeypatch.setitem(Image.OPEN, "HEIF", None)  # undone after the test
    (tmp_path / "pillow_heif.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(tmp_path)
    forget()
    yield
    forget()
    Image.ID.remove("HEIF")


@without_heif
@pytest.mark.usefixtures("plugin")
def test_with_the_plugin_it_is_decoded_like_any_other():
    for _ in range(2):
        decoded = decode(HEIC, None, name="IMG_0001.HEIC")
    assert (decoded.facts.format, decoded.facts.notes) == ("HEIF", ())
    assert sys.modules["pillow_heif"].calls == 1
    np.testing.assert_array_equal(decoded.pixels, noise())
    assert sniff(HEIC) is None


def test_a_real_one_is_upright():
    plugin = pytest.importorskip("pillow_heif")
    plugin.register_heif_opener()
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    stored = Image.fromarray(scene()).rotate(90, expand=True)
    stored.save(buffer, "HEIF", quality=95, exif=exif.tobytes())
    received = decode(buffer.getvalue(), None, name="IMG_0001.HEIC").pixels.astype(int)
    assert received.shape == scene().shape
    assert np.abs(received - scene()).mean() < 3
    assert refusal(buffer.getvalue()[:-400]).code in ("corrupt", "truncated")
