"""Frozen features are computed once, keyed by content, equal to Keras'; nothing is lost or silent."""

import os
import shutil

import keras
import numpy as np
import pytest
from conftest import full_disk, small_network, write_photos

from regraft.data.augmentation import View
from regraft.data.catalog import Catalog, ImageFile, Sample
from regraft.data.images import decoder_pool
from regraft.data.images.decode import decode
from regraft.data.images.decoder_pool import DecodingPool
from regraft.features import keras_engine as keras_engine_module
from regraft.features import store as store_module
from regraft.features.engine import EngineRunner
from regraft.features.extract import extract_features
from regraft.features.shard import Shard
from regraft.features.store import FORM, Store, pixel_key

SIZE = 32


def with_outputs(network, *layers):
    outputs = {f"cut_{number}": network.get_layer(name).output for number, name in enumerate(layers)}
    return keras.Model(network.inputs, outputs)


@pytest.fixture(scope="module")
def network():
    return with_outputs(small_network(SIZE), "block1_add", "top_conv")


@pytest.fixture(autouse=True)
def stages(request, monkeypatch):
    """Use a simple engine and decoder, or the real ones if a test asks for them."""
    if getattr(request, "param", "simple") == "simple":
        request.getfixturevalue("in_this_process")
        monkeypatch.setattr(keras_engine_module, "engine_name", lambda *_: "keras")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos", each=4)


def extract(network, root, store, **options):
    return extract_features(network, Catalog.from_folder(root), store=store, **options)


def add_photos(root, count):
    """Add new images to the class red."""
    new = write_photos(root.parent / "more", classes=1, each=count, seed=5)
    for path in new.rglob("*.png"):
        shutil.copy(path, root / "red" / f"new{path.name}")


def shards(store, kind):
    """Return the files under keys that begin with this word: "prefix" for features, "pixels" or "facts"."""
    return [
        path
        for path in store.root.glob(f"{FORM}/*/*.shard")
        if (path.parent / "key.txt").read_text().startswith(kind)
    ]


def damage(path, rows):
    """Flip a bit of each of these rows, in the tensors by turns."""
    columns, data = list(Shard(path)._columns.values()), bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for row in rows:
        column = columns[row % len(columns)]
        offset = column.start + row * column.row_bytes + int(rng.integers(column.row_bytes))
        data[offset] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)


def counts(features):
    return features.computed, features.reused


@pytest.mark.parametrize("stages", ["simple", "real"], indirect=True)
def test_features_are_what_keras_predicts_for_the_decoded_pixels(network, photos, store):
    catalog = Catalog.from_folder(photos)
    features = extract_features(network, catalog, store=store, precision="f32")
    assert counts(features) == (12, 0)
    pixels = np.stack([decode((photos / s.path).read_bytes(), SIZE).pixels for s in catalog.samples])
    expected = network.predict(pixels.astype("float32"), verbose=0)
    assert set(expected) == {"cut_0", "cut_1"}
    for name, values in expected.items():
        received = features.matrix(catalog.samples, name)
        assert received.shape == values.shape
        assert np.abs(received - values).max() <= 6e-4 * np.abs(values).max()


def test_samples_can_be_read_in_any_order(network, photos, store):
    catalog = Catalog.from_folder(photos)
    features = extract_features(network, catalog, store=store)
    everything = features.matrix(catalog.samples, "cut_1")
    np.testing.assert_array_equal(features.matrix(catalog.samples[::-1], "cut_1"), everything[::-1])
    assert features.facts(catalog.samples)[0].width == 40


def test_a_second_extraction_computes_and_decodes_nothing(network, photos, store, decoded_files, capsys):
    first = extract(network, photos, store)
    del decoded_files[:]
    again = extract(network, photos, store)
    assert counts(again) == (0, 12)
    assert decoded_files == []
    assert "nothing to compute" in capsys.readouterr().err
    samples = Catalog.from_folder(photos).samples
    np.testing.assert_array_equal(again.matrix(samples, "cut_0"), first.matrix(samples, "cut_0"))


def test_only_new_images_are_computed(network, photos, store, decoded_files):
    extract(network, photos, store)
    del decoded_files[:]
    add_photos(photos, 10)
    assert counts(extract(network, photos, store)) == (10, 12)
    assert len(decoded_files) == 10


def test_a_renamed_moved_or_copied_file_is_not_computed_again(network, photos, store):
    extract(network, photos, store)
    (photos / "red" / "000.png").rename(photos / "blue" / "renamed.png")
    shutil.copy(photos / "red" / "001.png", photos / "red" / "copy.png")
    moved = photos.rename(photos.parent / "elsewhere")
    assert counts(extract(network, moved, store)) == (0, 12)


def test_an_edited_file_of_the_same_time_and_size_is_computed_again(network, photos, store):
    path = photos / "red" / "000.png"
    other = photos.parent / "other.bmp"
    for target, colour in ((path, (200, 0, 0)), (other, (0, 0, 200))):
        keras.utils.array_to_img(np.full((40, 40, 3), colour), scale=False).save(target, "BMP")
    extract(network, photos, store)
    before = path.stat()
    path.write_bytes(other.read_bytes())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert counts(extract(network, photos, store)) == (1, 11)


@pytest.mark.slow
def test_another_size_prefix_weight_or_decoder_has_another_key(network, photos, store, monkeypatch):
    keys = {extract(network, photos, store).key}
    model = small_network(SIZE)
    shorter = with_outputs(model, "block1_add")
    changed = with_outputs(model, "block1_add", "top_conv")
    for other in (shorter, with_outputs(small_network(48), "block1_add", "top_conv")):
        features = extract(other, photos, store)
        assert counts(features) == (12, 0)
        keys.add(features.key)
    weights = changed.get_weights()
    weights[0] = weights[0] + 1e-3
    changed.set_weights(weights)
    keys.add(extract(changed, photos, store).key)
    monkeypatch.setattr("regraft.data.images.decoder_name.DECODER", "decode 99")
    features = extract(network, photos, store)
    assert counts(features) == (12, 0)
    assert len(keys | {features.key}) == 5


def test_refused_files_are_reported_with_the_path_of_every_copy(network, photos, store):
    broken = (photos / "red" / "000.png").read_bytes()[:-200]
    for name in ("red/bad.png", "red/copy of bad.png"):
        (photos / name).write_bytes(broken)
    features = extract(network, photos, store)
    assert [(item.image, item.code) for item in features.refused] == [
        ("red/bad.png", "truncated"),
        ("red/copy of bad.png", "truncated"),
    ]
    assert counts(features) == (12, 0)
    again = extract(network, photos, store)
    assert counts(again) == (0, 12)
    assert again.refused == features.refused


def test_a_file_that_changes_during_the_run_is_refused(network, photos, store):
    catalog = Catalog.from_folder(photos)
    (photos / "red" / "000.png").write_bytes((photos / "blue" / "000.png").read_bytes())
    (photos / "red" / "001.png").unlink()
    features = extract_features(network, catalog, store=store)
    assert {item.image: item.code for item in features.refused} == {
        "red/000.png": "changed",
        "red/001.png": "unreadable",
    }


def test_kept_pixels_serve_a_later_network_without_decoding(network, photos, store, decoded_files):
    extract(network, photos, store, keep_pixels=True)
    assert len(decoded_files) == 12
    other = extract(with_outputs(small_network(SIZE), "stem_relu"), photos, store)
    assert counts(other) == (12, 0)
    assert len(decoded_files) == 12
    catalog = Catalog.from_folder(photos)
    digests = [sample.digest for sample in catalog.samples]
    pixels = store.entries(pixel_key(SIZE)).read(digests, "pixels")
    for sample, image in zip(catalog.samples, pixels, strict=True):
        np.testing.assert_array_equal(image, decode((photos / sample.path).read_bytes(), SIZE).pixels)
    expected = extract(with_outputs(small_network(SIZE), "stem_relu"), photos, Store(store.root / "fresh"))
    np.testing.assert_array_equal(
        other.matrix(catalog.samples, "cut_0"), expected.matrix(catalog.samples, "cut_0")
    )


def test_pixels_can_be_kept_when_the_features_are_stored_already(network, photos, store, decoded_files):
    extract(network, photos, store)
    assert counts(extract(network, photos, store, keep_pixels=True)) == (0, 12)
    assert len(decoded_files) == 24
    assert extract(network, photos, store, keep_pixels=True).computed == 0
    assert len(decoded_files) == 24


def test_features_are_right_where_only_some_pixels_are_stored(network, photos, store):
    extract(network, photos, store, keep_pixels=True)
    add_photos(photos, 6)
    other = with_outputs(small_network(SIZE), "stem_relu")
    mixed = extract(other, photos, store)
    assert counts(mixed) == (18, 0)
    fresh = extract(other, photos, Store(store.root / "fresh"))
    samples = Catalog.from_folder(photos).samples
    np.testing.assert_array_equal(mixed.matrix(samples, "cut_0"), fresh.matrix(samples, "cut_0"))


def test_several_shards_give_the_same_as_one(request, network, photos, store):
    samples = Catalog.from_folder(photos).samples
    expected = extract(network, photos, store).matrix(samples, "cut_1")
    request.getfixturevalue("small_shards")
    features = extract(network, photos, Store(store.root / "other"))
    assert len(shards(Store(store.root / "other"), "prefix")) == 2
    assert len(shards(Store(store.root / "other"), "facts")) == 3
    assert np.abs(features.matrix(samples, "cut_1") - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.mark.usefixtures("small_shards")
def test_an_interrupted_extraction_continues_where_it_stopped(network, photos, store, monkeypatch):
    put = store_module.Entries.put
    calls = []

    def interrupted(entries, *args):
        calls.append(entries.key.split()[0])
        if calls.count("prefix") == 2:
            raise KeyboardInterrupt
        put(entries, *args)

    with monkeypatch.context() as patch:
        patch.setattr(store_module.Entries, "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            extract(network, photos, store)
    assert counts(extract(network, photos, store)) == (4, 8)


def test_a_damaged_row_is_computed_again(network, photos, store):
    extract(network, photos, store)
    (path,) = shards(store, "prefix")
    damage(path, [11])
    assert counts(extract(network, photos, Store(store.root))) == (1, 11)
    assert counts(extract(network, photos, Store(store.root))) == (0, 12)


def test_100_entries_with_flipped_bits_are_all_computed_again(network, tmp_path, store, capsys):
    root = write_photos(tmp_path / "many", classes=2, each=50)
    catalog = Catalog.from_folder(root)
    expected = extract(network, root, store).matrix(catalog.samples, "cut_1")
    (path,) = shards(store, "prefix")
    damage(path, range(100))
    capsys.readouterr()
    again = extract(network, root, Store(store.root))
    assert counts(again) == (100, 0)
    np.testing.assert_array_equal(again.matrix(catalog.samples, "cut_1"), expected)
    assert "100 entries of the feature store are damaged" in capsys.readouterr().err


# --- facts


def as_json(features, catalog):
    """Return facts with their thumbnails, which comparing facts ignores."""
    return [facts.as_json() for facts in features.facts(catalog.samples)]


@pytest.fixture
def facts(photos):
    """The facts of each image, in the catalog's order."""
    samples = Catalog.from_folder(photos).samples
    return [decode((photos / s.path).read_bytes(), SIZE, name=s.path).facts.as_json() for s in samples]


@pytest.mark.slow
def test_facts_are_stored_once_for_all_networks_and_views(network, photos, store, facts):
    catalog, other = Catalog.from_folder(photos), with_outputs(small_network(SIZE), "stem_relu")
    runs = [extract(network, photos, store, keep_pixels=True), extract(other, photos, store)]
    runs.append(extract(network, photos, store, view=View(1, ("flip",))))
    assert [counts(features) for features in runs] == [(12, 0)] * 3
    (path,) = shards(store, "facts")
    assert len(Shard(path).digests) == 12
    assert [as_json(features, catalog) for features in runs] == [facts] * 3


def test_only_lost_facts_are_decoded_again(network, photos, store, decoded_files, facts):
    first = extract(network, photos, store, keep_pixels=True)
    shutil.rmtree(shards(store, "facts")[0].parent)
    del decoded_files[:]
    again = extract(network, photos, Store(store.root))
    assert (counts(again), len(decoded_files)) == ((0, 12), 12)
    catalog = Catalog.from_folder(photos)
    assert as_json(again, catalog) == facts
    assert (len(shards(store, "prefix")), len(shards(store, "pixels"))) == (1, 1)
    np.testing.assert_array_equal(
        again.matrix(catalog.samples, "cut_0"), first.matrix(catalog.samples, "cut_0")
    )


def test_lost_facts_and_features_come_from_one_decoding(network, photos, store, decoded_files, facts):
    """Even if the pixels are stored."""
    catalog = Catalog.from_folder(photos)
    expected = extract(network, photos, store, keep_pixels=True).matrix(catalog.samples, "cut_0")
    for kind in ("facts", "prefix"):
        damage(shards(store, kind)[0], [2, 7])
    del decoded_files[:]
    again = extract(network, photos, Store(store.root), keep_pixels=True)
    assert (counts(again), len(decoded_files)) == ((2, 10), 2)
    assert sum(len(Shard(path).digests) for path in shards(store, "prefix")) == 12 + 2
    assert as_json(again, catalog) == facts
    assert np.abs(again.matrix(catalog.samples, "cut_0") - expected).max() <= 1e-3 * np.abs(expected).max()


def test_facts_with_flipped_bits_are_all_decoded_again(network, photos, store, decoded_files, facts):
    extract(network, photos, store)
    damage(shards(store, "facts")[0], range(12))
    del decoded_files[:]
    again = extract(network, photos, Store(store.root))
    assert (counts(again), len(decoded_files)) == ((0, 12), 12)
    assert as_json(again, Catalog.from_folder(photos)) == facts
    del decoded_files[:]
    assert counts(extract(network, photos, Store(store.root))) == (0, 12)
    assert decoded_files == []


@pytest.mark.parametrize("size", [SIZE, 48])
def test_decoding_begun_earlier_is_used_if_it_fits_and_closed_otherwise(network, photos, store, size):
    catalog = Catalog.from_folder(photos)
    decoding = DecodingPool(catalog.make_jobs([sample.digest for sample in catalog.samples]), size, workers=1)
    features = extract_features(network, catalog, store=store, decoding=decoding)
    assert counts(features) == (12, 0)
    assert decoding._is_closed
    assert (decoding._read_count == 12) == (size == SIZE)


def test_decoding_of_more_images_than_needed_is_used(network, photos, store, decoded_files):
    extract(network, photos, store)
    add_photos(photos, 3)
    catalog = Catalog.from_folder(photos)
    del decoded_files[:]
    decoding = decoder_pool.DecodingPool(
        catalog.make_jobs([s.digest for s in catalog.samples]), SIZE, workers=1
    )
    assert counts(extract_features(network, catalog, store=store, decoding=decoding)) == (3, 12)
    assert decoded_files == []


def test_the_plan_is_reported(network, photos, store, capsys):
    extract(network, photos, store)
    assert (
        "Plan: 12 of 12 images to run through the frozen network once, 12 to decode"
        in capsys.readouterr().err
    )


def make_pairs(root):
    """Return a catalog of samples with two images each, a red and a blue one."""
    samples = Catalog.from_folder(root).samples
    red, blue = ([s for s in samples if s.path.startswith(name)] for name in ("red", "blue"))
    pairs = [
        Sample(a.path, 0, a.digest, extra_images=(ImageFile(b.path, b.digest),))
        for a, b in zip(red, blue, strict=True)
    ]
    return Catalog(root, ("x", "y"), tuple(pairs))


def test_a_sample_of_several_images_has_the_mean_of_their_features(network, photos, store):
    catalog = make_pairs(photos)
    alone = Sample(catalog.samples[0].path, 0, catalog.samples[0].digest)
    features = extract_features(network, catalog, store=store)
    assert counts(features) == (8, 0)
    single = [Sample(p.path, 0, p.digest) for sample in catalog.samples for p in sample.images]
    rows = features.matrix(single, "cut_1")
    rows = rows.reshape(4, 2, *rows.shape[1:])
    pooled = features.matrix([*catalog.samples, alone], "cut_1")
    assert pooled.dtype == np.float32
    np.testing.assert_allclose(pooled[:4], rows.astype(np.float64).mean(1), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(pooled[4], rows[0, 0])


def test_every_image_of_a_sample_is_decoded_and_refused_by_its_own_path(network, photos, store):
    catalog = make_pairs(photos)
    (photos / "blue" / "002.png").write_bytes(b"gone")
    features = extract_features(network, catalog, store=store)
    assert [(item.image, item.code) for item in features.refused] == [("blue/002.png", "changed")]
    assert len(catalog.exclude(features.refused).samples) == 3


def test_a_view_is_computed_from_the_augmented_pixels_under_its_own_key(
    network, photos, store, decoded_files
):
    catalog, view = Catalog.from_folder(photos), View(1, ("flip", "crop"))
    unchanged = extract_features(network, catalog, store=store, keep_pixels=True)
    assert unchanged.key.endswith("\nview 0")
    del decoded_files[:]
    augmented = extract_features(network, catalog, store=store, view=view)
    assert counts(augmented) == (12, 0)
    assert decoded_files == []
    decoded = {s.digest: decode((photos / s.path).read_bytes(), SIZE).pixels for s in catalog.samples}
    pixels = np.stack([view.apply(image, digest) for digest, image in decoded.items()])
    expected = network.predict(pixels.astype("float32"), verbose=0)["cut_1"]
    received = augmented.matrix(catalog.samples, "cut_1")
    assert np.abs(received - expected).max() <= 6e-4 * np.abs(expected).max()
    assert np.abs(received - unchanged.matrix(catalog.samples, "cut_1")).max() > 1e-2 * np.abs(expected).max()
    assert counts(extract_features(network, catalog, store=store, view=view)) == (0, 12)
    assert counts(extract_features(network, catalog, store=store)) == (0, 12)


def test_pixels_are_kept_unchanged_whatever_the_view(network, photos, store):
    catalog = Catalog.from_folder(photos)
    extract_features(network, catalog, store=store, keep_pixels=True, view=View(1, ("crop",)))
    pixels = store.entries(pixel_key(SIZE)).read([s.digest for s in catalog.samples], "pixels")
    for sample, image in zip(catalog.samples, pixels, strict=True):
        np.testing.assert_array_equal(image, decode((photos / sample.path).read_bytes(), SIZE).pixels)


def test_features_are_the_same_on_a_full_disk(network, photos, store):
    expected = extract(network, photos, store)
    nowhere = Store(store.root.parent / "full")
    with full_disk():
        features = extract(network, photos, nowhere, keep_pixels=True)
    samples = Catalog.from_folder(photos).samples
    for name in ("cut_0", "cut_1"):
        np.testing.assert_array_equal(features.matrix(samples, name), expected.matrix(samples, name))
    pixels = nowhere.entries(pixel_key(SIZE)).read([sample.digest for sample in samples], "pixels")
    assert pixels[0].tolist() == decode((photos / samples[0].path).read_bytes(), SIZE).pixels.tolist()
    assert not list(nowhere.root.rglob("*.shard"))


def test_extraction_corrects_the_pace_by_what_it_took(network, photos, store, monkeypatch):
    reports = []
    monkeypatch.setattr(
        EngineRunner, "correct_pace", lambda _, images, **times: reports.append((images, times))
    )
    extract(network, photos, store)
    ((images, times),) = reports
    assert images == 12
    assert 0 < times["waited"] < times["seconds"]
    extract(network, photos, store)
    assert len(reports) == 1  # nothing was computed
