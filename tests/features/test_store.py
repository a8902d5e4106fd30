"""The store gives back what was stored, or reports it as missing: never anything else."""

import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import full_disk, largest_file
from helpers.reporters import Recorder

from regraft.errors import EnvironmentFault
from regraft.features.store import FORM, Store, pixel_key
from regraft.system.files import make_temporary_file

KEY = "prefix abc\nsize 8"


def names(count, first=0):
    return [f"{number:032x}" for number in range(first, first + count)]


def tensors(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "cut_0": rng.normal(size=(count, 3, 2)).astype(np.float16).astype(np.float32),
        "cut_1": rng.integers(0, 256, (count, 5)).astype(np.uint8),
        "flat": rng.normal(size=count).astype(np.float16),
    }


@pytest.fixture
def filled(tmp_path):
    store = Store(tmp_path / "store")
    store.entries(KEY).put(names(4), tensors(4))
    return store


def reopen(store):
    """Return the entries as another process sees them, since a process checks a row once."""
    return Store(store.root).entries(KEY)


def shard_file(store):
    (path,) = store.root.glob(f"{FORM}/*/*.shard")
    return path


def test_several_named_tensors_come_back_bit_by_bit_in_any_order(filled):
    entries = reopen(filled)
    digests = [names(4)[number] for number in (2, 0, 3, 0)]
    assert entries.find_missing(digests) == []
    for name, expected in tensors(4).items():
        received = entries.read(digests, name)
        assert received.dtype == expected.dtype
        np.testing.assert_array_equal(received, expected[[2, 0, 3, 0]])


def test_stored_rows_can_be_read_at_once(tmp_path):
    entries = Store(tmp_path).entries(KEY)
    assert entries.find_missing(names(2)) == names(2)
    entries.put(names(2), tensors(2))
    entries.put(names(2, first=2), tensors(2, seed=1))
    assert entries.find_missing(names(4)) == []
    np.testing.assert_array_equal(entries.read(names(4)[2:], "cut_0"), tensors(2, seed=1)["cut_0"])


def test_find_missing_names_each_image_once_in_the_order_asked(filled):
    first, second = names(2, first=7)
    assert filled.entries(KEY).find_missing([first, *names(1), second, first]) == [first, second]


def test_a_missing_image_cannot_be_read(filled):
    (other,) = names(1, first=7)
    with pytest.raises(KeyError, match=other):
        filled.entries(KEY).read([*names(2), other], "flat")
    with pytest.raises(KeyError, match="cut_7"):
        filled.entries(KEY).read(names(1), "cut_7")


def test_an_empty_store_has_nothing(tmp_path):
    assert Store(tmp_path).entries(KEY).find_missing(names(2)) == names(2)


def test_rows_of_many_shards_come_in_the_order_asked(tmp_path):
    rng = np.random.default_rng(0)
    digests = [rng.bytes(16).hex() for _ in range(60)]
    values = rng.integers(0, 1000, (60, 4)).astype(np.float32)
    for start in range(0, 60, 7):
        block = slice(start, start + 7)
        Store(tmp_path).entries(KEY).put(digests[block], {"x": values[block]})
    order = rng.integers(0, 60, 200)  # with repetitions
    received = Store(tmp_path).entries(KEY).read([digests[number] for number in order], "x")
    np.testing.assert_array_equal(received, values[order])


def test_float32_comes_back_rounded_to_eleven_bits_also_to_its_writer(tmp_path):
    values = np.maximum(np.random.default_rng(0).normal(size=(40, 50)), 0).astype(np.float32)
    first = Store(tmp_path).entries(KEY)
    first.put(names(40), {"x": values})
    received = first.read(names(40), "x")
    assert received.dtype == np.float32
    assert np.abs(received - values).max() > 0
    assert (np.abs(received - values) <= 2.0**-11 * values).all()
    np.testing.assert_array_equal(Store(tmp_path).entries(KEY).read(names(40), "x"), received)


def test_a_row_does_not_depend_on_the_others(tmp_path):
    """Neither on their size, nor on one that keeps all its bits."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(4, 50)).astype(np.float32)
    values[2] *= 1e6
    values[3, 7] = np.nan
    Store(tmp_path / "together").entries(KEY).put(names(4), {"x": values})
    together = Store(tmp_path / "together").entries(KEY).read(names(4), "x")
    for number in range(4):
        store = Store(tmp_path / "alone")
        store.entries(KEY).put(names(1, number), {"x": values[[number]]})
        np.testing.assert_array_equal(store.entries(KEY).read(names(1, number), "x"), together[[number]])
    np.testing.assert_array_equal(together[3], values[3])


def test_an_image_takes_two_bytes_a_value_and_little_more(tmp_path):
    values = np.random.default_rng(0).random((256, 1280), np.float32)
    store = Store(tmp_path)
    store.entries(KEY).put(names(256), {"x": values})
    assert shard_file(store).stat().st_size < 256 * (2 * 1280 + 40)


def test_a_row_is_checked_once_in_a_process(filled):
    store, path = Store(filled.root), shard_file(filled)
    assert store.entries(KEY).find_missing(names(3)) == []
    with path.open("r+b") as file:  # damage the last column, `flat`, of all rows
        file.seek(-8, os.SEEK_END)
        file.write(b"\xff" * 8)
    for _ in range(3):
        entries = store.entries(KEY)
        assert entries.find_missing(names(4)) == names(1, first=3)  # the other ones were checked before
        entries.read(names(3), "flat")
    assert reopen(filled).find_missing(names(4)) == names(4)


def test_rows_of_another_process_are_found_later(filled):
    assert filled.entries(KEY).find_missing(names(6)) == names(2, first=4)
    reopen(filled).put(names(2, first=4), tensors(2))
    assert filled.entries(KEY).find_missing(names(6)) == []


def test_a_store_of_another_version_is_neither_read_nor_changed(tmp_path):
    folder = tmp_path / "features" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "index.json").write_text("[]")
    (tmp_path / "features-9").write_text("of the future")
    store = Store(tmp_path)
    assert store.entries(KEY).find_missing(names(2)) == names(2)
    store.entries(KEY).put(names(2), tensors(2))
    assert reopen(store).find_missing(names(2)) == []
    assert (folder / "index.json").read_text() == "[]"


def test_reading_no_images_gives_no_rows(filled):
    assert len(filled.entries(KEY).read([], "cut_0")) == 0


def test_keys_are_separate(filled):
    assert filled.entries(KEY + " ").find_missing(names(1)) == names(1)
    assert pixel_key(224) != pixel_key(299)
    (key_file,) = filled.root.glob(f"{FORM}/*/key.txt")
    assert key_file.read_text() == KEY + "\n"


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_noticed(tmp_path):
    """In every third byte of a shard: a row is correct or missing."""
    expected = tensors(2)
    store = Store(tmp_path)
    store.entries(KEY).put(names(2), expected)
    path = shard_file(store)
    content = path.read_bytes()
    lost = []
    for offset in range(0, len(content), 3):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << (offset % 8)
        path.write_bytes(damaged)
        entries = reopen(store)
        missing = entries.find_missing(names(2))
        lost.append(len(missing))
        for number in (number for number, digest in enumerate(names(2)) if digest not in missing):
            digest = names(1, number)
            for name in expected:
                received = entries.read(digest, name)
                assert received.dtype == expected[name].dtype, offset
                np.testing.assert_array_equal(received, expected[name][[number]])
    assert lost.count(1) > 20  # records and rows
    assert lost.count(2) > 50  # the head, and the headers of arrays


def test_damaged_entries_are_counted_and_reported_once(filled):
    path = shard_file(filled)
    data = bytearray(path.read_bytes())
    for image in (1, 2, 3):
        data[-(2 * image - 1)] ^= 1  # "flat", the last tensor, has two bytes an image
    path.write_bytes(data)
    reporter = Recorder()
    entries = Store(filled.root, reporter).entries(KEY)
    assert entries.find_missing(names(5)) == names(4)[1:] + names(1, first=4)
    warnings = ["3 entries of the feature store are damaged and are computed again."]
    assert reporter.warnings == warnings
    assert entries.find_missing(names(5)) == names(4)[1:] + names(1, first=4)
    entries.put(names(4)[1:], {name: value[1:] for name, value in tensors(4).items()})
    assert Store(filled.root, reporter).entries(KEY).find_missing(names(4)) == []
    assert reporter.warnings == warnings


def test_a_shard_with_a_damaged_head_is_removed_and_reported(filled):
    path = shard_file(filled)
    path.write_bytes(b"\x93NUMPY?" + path.read_bytes()[7:])
    reporter = Recorder()
    for _ in range(2):
        assert Store(filled.root, reporter).entries(KEY).find_missing(names(4)) == names(4)
        (warning,) = reporter.warnings
        assert path.name in warning


def test_temporary_files_of_dead_processes_are_removed_and_of_live_ones_kept(filled):
    folder = shard_file(filled).parent
    (folder / ".writing-dead").write_bytes(b"half")
    with make_temporary_file(folder, ".writing-") as alive:
        reopen(filled).put(names(2, first=9), tensors(2))
        assert [path.name for path in folder.glob(".writing-*")] == [alive.name]


def test_another_byte_order_is_noticed(filled):
    path = shard_file(filled)
    path.write_bytes(path.read_bytes().replace(b"'<f2'", b"'>f2'"))
    assert reopen(filled).find_missing(names(4)) == names(4)


def test_only_the_damaged_row_is_lost_and_can_be_stored_again(filled):
    path = shard_file(filled)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the last image's row
    path.write_bytes(data)
    entries = reopen(filled)
    assert entries.find_missing(names(4)) == [names(4)[3]]
    entries.put([names(4)[3]], {name: value[3:] for name, value in tensors(4).items()})
    for again in (entries, reopen(filled)):
        assert again.find_missing(names(4)) == []
        np.testing.assert_array_equal(again.read(names(4), "cut_0"), tensors(4)["cut_0"])


@pytest.mark.parametrize("keep", [0, 10, 100, 140, 400, -1])
def test_a_shard_cut_short_is_missing(filled, keep):
    path = shard_file(filled)
    path.write_bytes(path.read_bytes()[:keep])
    assert reopen(filled).find_missing(names(4)) == names(4)


@pytest.mark.parametrize("text", ["", "[[", "{}", "[" * 100_000])
def test_a_file_that_is_not_a_shard_is_ignored(filled, text):
    (shard_file(filled).parent / "a.shard").write_text(text)
    assert reopen(filled).find_missing(names(4)) == []


def test_a_store_that_vanishes_while_in_use_is_reported(filled):
    entries = reopen(filled)
    assert entries.find_missing(names(4)) == []
    shard_file(filled).unlink()
    with pytest.raises(EnvironmentFault, match=r"cannot be read any more: No such file.*Run again"):
        entries.read(names(4), "cut_0")
    assert reopen(filled).find_missing(names(4)) == names(4)


def test_a_half_written_shard_is_not_read(filled):
    path = shard_file(filled)
    path.rename(path.with_name(f".writing-{path.stem}"))
    assert reopen(filled).find_missing(names(4)) == names(4)


def test_no_pickle_is_ever_reopen(filled, tmp_path):
    marker = tmp_path / "opened"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (marker,))

    path = shard_file(filled)
    objects = np.array([Hostile()] * 4, dtype=object)
    for write in (np.save, lambda file, _: file.write(pickle.dumps(Hostile()))):
        with path.open("wb") as file:
            write(file, objects)
        assert reopen(filled).find_missing(names(4)) == names(4)
    assert not marker.exists()
    with pytest.raises(ValueError, match="Object"):
        filled.entries(KEY).put(names(1), {"cut_0": objects[:1]})


@pytest.mark.slow
def test_two_processes_can_write_the_same_key(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from regraft.features.store import Store\n"
        "for number in range(20):\n"
        "    digest = f'{number:032x}'\n"
        "    entries = Store(sys.argv[1]).entries('key')\n"
        "    for d in entries.find_missing([digest]):\n"
        "        entries.put([d], {'x': np.full((1, 50), number)})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    entries = Store(tmp_path).entries("key")
    assert entries.find_missing(names(20)) == []
    assert entries.read(names(20), "x")[:, 0].tolist() == list(range(20))
    assert not list(tmp_path.rglob(".writing-*"))


def keep_nothing_in_memory(store):
    store.fallback.limit = 0
    return store


def test_a_store_that_cannot_be_written_is_an_environment_fault(tmp_path):
    (tmp_path / "file").write_text("")
    entries = keep_nothing_in_memory(Store(tmp_path / "file" / "store")).entries(KEY)
    assert entries.find_missing(names(1)) == names(1)
    with pytest.raises(EnvironmentFault, match="REGRAFT_HOME") as caught:
        entries.put(names(2), {"x": np.zeros((2, 500))})
    assert caught.value.exit_code == 4
    needed = int(re.search(r"cannot take ([\d,]+) bytes", str(caught.value))[1].replace(",", ""))
    assert 8_000 < needed < 12_000  # 2 rows of 500 numbers, and their records
    assert str(tmp_path / "file") in str(caught.value)


def read_all(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_no_files_and_damages_none(filled):
    before = read_all(filled.root)
    entries = keep_nothing_in_memory(filled).entries(KEY)
    expected = pytest.raises(EnvironmentFault, match=r"cannot take .* bytes: No space left on device")
    with full_disk(), expected:
        entries.put(names(2, first=9), tensors(2))
    assert entries.find_missing(names(1, first=9)) == names(1, first=9)
    assert read_all(filled.root) == before
    assert reopen(filled).find_missing(names(4)) == []


def test_a_write_that_stops_halfway_reports_why_and_leaves_no_files(filled):
    """As on a full disk: the system takes some of the bytes and refuses the rest."""
    before = read_all(filled.root)
    keep_nothing_in_memory(filled)
    with largest_file(20_000), pytest.raises(EnvironmentFault, match="File too large") as caught:
        filled.entries(KEY).put(names(9, first=9), {"x": np.zeros((9, 9000))})
    assert caught.value.exit_code == 4
    assert read_all(filled.root) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize(
    ("options", "reason"), [("size=16k", "No space left"), ("ro", "Read-only file system")]
)
def test_a_real_disk_that_refuses_to_write(tmp_path, options, reason):
    (tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path / "disk"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        store = keep_nothing_in_memory(Store(tmp_path / "disk" / "store"))
        store.remember("how fast?", "12")
        assert store.entries(KEY).find_missing(names(9)) == names(9)
        with pytest.raises(EnvironmentFault, match=reason) as caught:
            store.entries(KEY).put(names(9), {"x": np.zeros((9, 9000))})
        assert caught.value.exit_code == 4
        assert not list(store.root.rglob("*.shard")) + list(store.root.rglob(".writing-*"))
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_an_interruption_while_writing_leaves_no_files(filled):
    class Interrupted:
        def __array__(self, dtype=None, copy=None):
            raise KeyboardInterrupt

    before = read_all(filled.root)
    with pytest.raises(KeyboardInterrupt):
        filled.entries(KEY).put(names(1, first=9), {**tensors(1), "last": Interrupted()})
    assert read_all(filled.root) == before


def test_hints_come_back_and_losing_them_is_harmless(tmp_path):
    store = Store(tmp_path)
    assert store.recall("how fast?") is None
    store.remember("how fast?", "12")
    store.remember("how fast?", "13")
    assert store.recall("how fast?") == "13"
    (hint,) = tmp_path.glob("hints/*")
    content = hint.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        hint.write_bytes(damaged)
        assert store.recall("how fast?") is None
    (tmp_path / "file").write_text("")
    nowhere = Store(tmp_path / "file")
    nowhere.remember("how fast?", "12")
    assert nowhere.recall("how fast?") is None


def test_a_shard_is_plain_npy_arrays(filled):
    with shard_file(filled).open("rb") as file:
        arrays = [np.load(file, allow_pickle=False) for _ in range(5)]
        assert file.read() == b""
    head, index, *columns = arrays
    assert json.loads(head.tobytes()) == [["cut_0", "<f4"], ["cut_1", "|u1"], ["flat", "<f2"]]
    assert index["digest"].tobytes().hex() == "".join(names(4))
    assert [column.dtype for column in columns] == [np.float16, np.uint8, np.float16]
