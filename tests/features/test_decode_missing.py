"""What was decoded for a network need not be looked at again, nor the other way round."""

from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from helpers.reporters import Recorder

from regraft.data.catalog import Catalog
from regraft.data.images.decode import decode
from regraft.features import extract
from regraft.features import image_facts as facts
from regraft.features import store as writer
from regraft.features.extract import extract_features
from regraft.features.image_facts import facts_key, look_at
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
    """The files that were given to decoding."""
    files: list[str] = []
    for module in (extract, facts):

        def counted(jobs, size, ahead=module.DecodeAhead):
            files.extend(job.path.name for job in jobs)
            return ahead(jobs, size, workers=1)

        monkeypatch.setattr(module, "DecodeAhead", counted)
    return files


def learnt(catalog: Catalog) -> dict[str, list[object]]:
    """What the decoder says of each image that it decodes."""
    return {
        sample.digest: decode((catalog.root / sample.path).read_bytes(), SIZE).facts.as_json()
        for sample in catalog.samples
        if "bad" not in sample.path
    }


def test_every_image_is_looked_at_once_and_verdicts_are_found_again(
    catalog: Catalog, tmp_path: Path, opened: list[str]
) -> None:
    for count in (10, 1):  # a verdict is not stored
        seen = Recorder()
        facts, refused = look_at(catalog, store=Store(tmp_path), size=SIZE, reporter=seen)
        assert seen.progress == [["Decoded", count]]
        assert {digest: each.as_json() for digest, each in facts.items()} == learnt(catalog)
        assert {(item.image, item.code) for item in refused} == {
            ("blue/bad.png", "truncated"),
            ("blue/copy of bad.png", "truncated"),
        }
        assert len(opened) == count
        del opened[:]


def test_many_images_are_stored_in_several_files(
    catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "SHARD", 4)
    facts, _ = look_at(catalog, store=Store(tmp_path), size=SIZE, reporter=SilentReporter())
    assert len(list(tmp_path.rglob("*.shard"))) == 3
    assert {digest: each.as_json() for digest, each in facts.items()} == learnt(catalog)


@pytest.mark.parametrize("keep_pixels", [False, True])
def test_what_a_network_saw_is_not_decoded_to_be_looked_at(
    network: keras.Model, catalog: Catalog, tmp_path: Path, opened: list[str], keep_pixels: bool
) -> None:
    store = Store(tmp_path)
    features = extract_features(network, catalog, store=store, keep_pixels=keep_pixels)
    good = catalog.without(features.refused)
    del opened[:]
    facts, refused = look_at(good, store=Store(tmp_path), size=SIZE, reporter=SilentReporter())
    assert (opened, refused) == ([], [])
    assert {digest: each.as_json() for digest, each in facts.items()} == learnt(catalog)


def test_a_network_finds_the_facts_of_what_was_looked_at(
    network: keras.Model, catalog: Catalog, tmp_path: Path, opened: list[str]
) -> None:
    look_at(catalog, store=Store(tmp_path), size=SIZE, reporter=SilentReporter())
    stored = set(tmp_path.rglob("*.shard"))
    features = extract_features(network, catalog, store=Store(tmp_path))
    assert features.computed == 9
    assert len(opened) == 20
    good = catalog.without(features.refused)
    found = {digest: each.as_json() for digest, each in features.facts_of(good.contents).items()}
    assert found == learnt(catalog)
    (new,) = set(tmp_path.rglob("*.shard")) - stored
    assert (new.parent / "key.txt").read_text().startswith("prefix")


def test_another_size_is_looked_at_anew(catalog: Catalog, tmp_path: Path, opened: list[str]) -> None:
    store = Store(tmp_path)
    look_at(catalog, store=store, size=SIZE, reporter=SilentReporter())
    look_at(catalog, store=store, size=48, reporter=SilentReporter())
    assert len(opened) == 20
    assert store.entries(facts_key(48)).missing(catalog.contents) == store.entries(facts_key(SIZE)).missing(
        catalog.contents
    )
