"""bf16 is chosen by what it does to the user's own images, once, and never by the clock."""

import keras
import numpy as np
import pytest
from conftest import small_network, write_photos

from regraft.data.catalog import Catalog
from regraft.features import precision as room
from regraft.features.extract import extract_features
from regraft.features.network import engine_name
from regraft.features.store import Store

pytestmark = [
    pytest.mark.skipif(not engine_name().startswith("openvino"), reason="bf16 is OpenVINO's"),
    pytest.mark.usefixtures("in_this_process"),
]


@pytest.fixture(scope="module")
def network():
    small = small_network()
    return keras.Model(small.inputs, {"cut_0": keras.layers.GlobalAveragePooling2D()(small.outputs[0])})


@pytest.fixture
def catalog(tmp_path):
    return Catalog.from_folder(write_photos(tmp_path / "photos", each=4))


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture(autouse=True)
def said(monkeypatch):
    """What is said; on a processor that has bf16, which OpenVINO imitates elsewhere."""
    lines = []
    monkeypatch.setattr(room, "say", lines.append)
    monkeypatch.setattr(room, "fast_in_bf16", lambda *_: True)
    return lines


def test_where_bf16_is_close_it_is_used_and_said_once(network, catalog, store, said):
    first = extract_features(network, catalog, store=store)
    assert first.precision == "bf16"
    assert len(said) == 1
    assert "bf16 is used" in said[0]
    again = extract_features(network, catalog, store=store)
    assert (again.precision, again.computed, len(said)) == ("bf16", 0, 1)


@pytest.mark.slow
def test_the_difference_said_is_the_difference_there_is(network, catalog, store, said):
    extract_features(network, catalog, store=store)
    exact, rough = (
        extract_features(network, catalog, store=store, precision=each).matrix(catalog.samples, "cut_0")
        for each in ("f32", "bf16")
    )
    spread = np.sqrt(((exact - exact.mean(0)) ** 2).sum())
    apart = np.sqrt(((rough - exact) ** 2).sum())
    assert 0 < apart < spread
    assert f"bf16 is {100 * apart / spread:.1f} % of their spread" in said[0]


def test_where_images_hardly_differ_bf16_is_not_used(network, catalog, store, said):
    """A large constant beside what differs: bf16's digits are spent on the constant."""
    image = keras.Input((32, 32, 3))
    x = keras.layers.Rescaling(1.0, offset=1e5)(image)
    x = keras.layers.Conv2D(4, 3, kernel_initializer="ones")(keras.layers.ReLU()(x))
    same = keras.Model(image, {"cut_0": keras.layers.GlobalMaxPooling2D()(x)})
    features = extract_features(same, catalog, store=store)
    assert features.precision == "f32"
    assert "f32 is used" in said[0]


def test_without_bf16_in_the_processor_nothing_is_measured(network, catalog, store, said, monkeypatch):
    monkeypatch.setattr(room, "fast_in_bf16", lambda *_: False)
    assert extract_features(network, catalog, store=store).precision == "f32"
    assert said == []


@pytest.mark.parametrize("wanted", ["f32", "bf16"])
def test_what_is_wanted_is_used_unasked(network, catalog, store, said, wanted):
    features = extract_features(network, catalog, store=store, precision=wanted)
    assert features.precision == wanted
    assert wanted in features.key
    assert said == []


def test_a_few_images_say_nothing(network, tmp_path, store, said):
    few = Catalog.from_folder(write_photos(tmp_path / "few", each=2))
    assert extract_features(network, few, store=store).precision == "f32"
    assert said == []


def test_the_time_does_not_choose(network, catalog, store, said, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(room.time, "monotonic", lambda: next(clock) ** 2)
    assert extract_features(network, catalog, store=store).precision == "bf16"
    assert "0." in said[0]
