"""Facts decoded for a network are not decoded again, nor the other way round."""

from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from helpers.reporters import Recorder

from regraft.data.catalog import Catalog
from regraft.data.images.decode import decode
from regraft.features import extract as extract_module
from regraft.features import image_facts as image_facts_module
from regraft.features import store as store_module
from regraft.features.extract import extract_features
from regraft.features.image_facts import decode_missing, facts_key
from regraft.features.store import Store
from regraft.system.console import SilentReporter

SIZE = 32

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture(scope="module")
def network() -> keras.Model:
    image = keras.Input((SIZE, SIZE, 3))
    return keras.Model(image, {"mean": keras.layers.GlobalAveragePooling2D()(image)})


@pytest.fixture
def catalog(make_photos: Callable[..., Path]) -> Catalog:
    root = make_photos(each=3)
    broken = (root / "red" / "000.png").read_bytes()[:-200]
    for name in ("bad", "copy of bad"):
        (root / "blue" / f"{name}.png").write_bytes(broken)
    return Catalog.from_folder(root)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were passed to decoding."""
    files: list[str] = []
    for module in (extract_module, image_facts_module):

        def open_counted(jobs, size, pool=module.DecodingPool, **options):
            files.extend(job.path.name for job in jobs)
            return pool(jobs, size, workers=1, **options)

        monkeypatch.setattr(module, "DecodingPool", open_counted)
    return files


def decode_all(catalog: Catalog) -> dict[str, list[object]]:
    """Return the facts of each usable image."""
    return {
        sample.digest: decode((catalog.root / sample.path).read_bytes(), SIZE).facts.as_json()
        for sample in catalog.samples
        if "bad" not in sample.path
    }


def test_every_image_is_decoded_once_but_refused_ones_again(
    catalog: Catalog, tmp_path: Path, opened: list[str]
) -> None:
    for count in (10, 1):  # rejections are not stored
        reporter = Recorder()
        facts, refused = decode_missing(catalog, store=Store(tmp_path), size=SIZE, reporter=reporter)
        assert reporter.progress == [["Decoded", count]]
        assert {digest: image.as_json() for digest, image in facts.items()} == decode_all(catalog)
        assert {(item.image, item.code) for item in refused} == {
            ("blue/bad.png", "truncated"),
            ("blue/copy of bad.png", "truncated"),
        }
        assert len(opened) == count
        del opened[:]


def test_many_images_are_stored_in_several_files(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SHARD", 4)
    facts, _ = decode_missing(catalog, store=Store(tmp_path), size=SIZE, reporter=SilentReporter())
    assert len(list(tmp_path.rglob("*.shard"))) == 3
    assert {digest: image.as_json() for digest, image in facts.items()} == decode_all(catalog)


@pytest.mark.parametrize("keep_pixels", [False, True])
def test_images_that_a_network_saw_are_not_decoded_again(
    network: keras.Model, catalog: Catalog, tmp_path: Path, opened: list[str], keep_pixels: bool
) -> None:
    store = Store(tmp_path)
    features = extract_features(network, catalog, store=store, keep_pixels=keep_pixels)
    good = catalog.exclude(features.refused)
    del opened[:]
    facts, refused = decode_missing(good, store=Store(tmp_path), size=SIZE, reporter=SilentReporter())
    assert (opened, refused) == ([], [])
    assert {digest: image.as_json() for digest, image in facts.items()} == decode_all(catalog)


def test_a_network_finds_facts_that_were_decoded_before(
    network: keras.Model, catalog: Catalog, tmp_path: Path, opened: list[str]
) -> None:
    decode_missing(catalog, store=Store(tmp_path), size=SIZE, reporter=SilentReporter())
    stored = set(tmp_path.rglob("*.shard"))
    features = extract_features(network, catalog, store=Store(tmp_path))
    assert features.computed == 9
    assert len(opened) == 20
    good = catalog.exclude(features.refused)
    facts = features.facts_by_digest(good.digests)
    assert {digest: image.as_json() for digest, image in facts.items()} == decode_all(catalog)
    (new,) = set(tmp_path.rglob("*.shard")) - stored
    assert (new.parent / "key.txt").read_text().startswith("prefix")


def test_another_size_is_decoded_again(catalog: Catalog, tmp_path: Path, opened: list[str]) -> None:
    store = Store(tmp_path)
    decode_missing(catalog, store=store, size=SIZE, reporter=SilentReporter())
    decode_missing(catalog, store=store, size=48, reporter=SilentReporter())
    assert len(opened) == 20
    one, other = (store.entries(facts_key(size)).find_missing(catalog.digests) for size in (48, SIZE))
    assert one == other
