"""The store gives back what was put in, or says that it is missing: never anything else."""

import errno
import json
import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.reporters import Recorder

from regraft.errors import EnvironmentFault
from regraft.features import shard as shard_module
from regraft.features import store as store_module
from regraft.features.store import FORM, Store, pixel_key
from regraft.system import cache_dir as home
from regraft.system.atomic import new_file

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


def opened(store):
    """The entries as another process sees them: rows are checked once in a process."""
    return Store(store.root).entries(KEY)


def shard_file(store):
    (found,) = store.root.glob(f"{FORM}/*/*.shard")
    return found


def test_several_named_tensors_come_back_bit_by_bit_in_any_order(filled):
    entries = opened(filled)
    asked = [names(4)[number] for number in (2, 0, 3, 0)]
    assert entries.missing(asked) == []
    for name, expected in tensors(4).items():
        received = entries.read(asked, name)
        assert received.dtype == expected.dtype
        np.testing.assert_array_equal(received, expected[[2, 0, 3, 0]])


def test_what_was_put_is_there_for_the_one_who_put_it(tmp_path):
    entries = Store(tmp_path).entries(KEY)
    assert entries.missing(names(2)) == names(2)
    entries.put(names(2), tensors(2))
    entries.put(names(2, first=2), tensors(2, seed=1))
    assert entries.missing(names(4)) == []
    np.testing.assert_array_equal(entries.read(names(4)[2:], "cut_0"), tensors(2, seed=1)["cut_0"])


def test_missing_names_each_image_once_in_the_order_asked(filled):
    other, more = names(2, first=7)
    assert filled.entries(KEY).missing([other, *names(1), more, other]) == [other, more]


def test_an_image_that_is_not_there_cannot_be_read(filled):
    (other,) = names(1, first=7)
    with pytest.raises(KeyError, match=other):
        filled.entries(KEY).read([*names(2), other], "flat")
    with pytest.raises(KeyError, match="cut_7"):
        filled.entries(KEY).read(names(1), "cut_7")


def test_an_empty_store_has_nothing(tmp_path):
    assert Store(tmp_path).entries(KEY).missing(names(2)) == names(2)


def test_rows_of_many_shards_come_in_the_order_asked(tmp_path):
    rng = np.random.default_rng(0)
    digests = [rng.bytes(16).hex() for _ in range(60)]
    values = rng.integers(0, 1000, (60, 4)).astype(np.float32)
    for at in range(0, 60, 7):
        Store(tmp_path).entries(KEY).put(digests[at : at + 7], {"x": values[at : at + 7]})
    order = rng.integers(0, 60, 200)  # with repetitions
    received = Store(tmp_path).entries(KEY).read([digests[number] for number in order], "x")
    np.testing.assert_array_equal(received, values[order])


def test_float32_comes_back_rounded_to_eleven_bits_and_the_same_for_whoever_put_it(tmp_path):
    values = np.maximum(np.random.default_rng(0).normal(size=(40, 50)), 0).astype(np.float32)
    first = Store(tmp_path).entries(KEY)
    first.put(names(40), {"x": values})
    received = first.read(names(40), "x")
    assert received.dtype == np.float32
    assert np.abs(received - values).max() > 0
    assert (np.abs(received - values) <= 2.0**-11 * values).all()
    np.testing.assert_array_equal(Store(tmp_path).entries(KEY).read(names(40), "x"), received)


def test_what_a_row_becomes_depends_on_no_other(tmp_path):
    """Neither on its size, nor on one that cannot be made smaller and keeps all its bits."""
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


def test_a_row_is_checked_once_in_a_process(filled, monkeypatch):
    checked = []
    checksums = shard_module._checksums

    def counting(records, *rest):
        checked.append(len(records))
        return checksums(records, *rest)

    monkeypatch.setattr(shard_module, "_checksums", counting)
    store = Store(filled.root)
    for _ in range(3):
        entries = store.entries(KEY)
        assert entries.missing(names(3)) == []
        entries.read(names(4), "flat")
    assert checked == [3, 1]


def test_what_another_process_stores_is_found_when_asked_again(filled):
    assert filled.entries(KEY).missing(names(6)) == names(2, first=4)
    opened(filled).put(names(2, first=4), tensors(2))
    assert filled.entries(KEY).missing(names(6)) == []


def test_a_store_of_another_version_is_neither_read_nor_touched(tmp_path):
    folder = tmp_path / "features" / "a" / "b"
    folder.mkdir(parents=True)
    (folder / "index.json").write_text("[]")
    (tmp_path / "features-9").write_text("of the future")
    store = Store(tmp_path)
    assert store.entries(KEY).missing(names(2)) == names(2)
    store.entries(KEY).put(names(2), tensors(2))
    assert opened(store).missing(names(2)) == []
    assert (folder / "index.json").read_text() == "[]"


def test_nothing_asked_is_nothing_read(filled):
    assert len(filled.entries(KEY).read([], "cut_0")) == 0


def test_keys_are_separate(filled):
    assert filled.entries(KEY + " ").missing(names(1)) == names(1)
    assert pixel_key(224) != pixel_key(299)
    (words,) = filled.root.glob(f"{FORM}/*/key.txt")
    assert words.read_text() == KEY + "\n"


@pytest.mark.slow
def test_a_flipped_bit_anywhere_is_found_and_costs_only_a_computation(tmp_path):
    """Every third byte of a shard: the answer is right or missing."""
    expected = tensors(2)
    store = Store(tmp_path)
    store.entries(KEY).put(names(2), expected)
    path = shard_file(store)
    whole = path.read_bytes()
    lost = []
    for place in range(0, len(whole), 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        entries = opened(store)
        missing = entries.missing(names(2))
        lost.append(len(missing))
        for number in (number for number, digest in enumerate(names(2)) if digest not in missing):
            digest = names(1, number)
            for name in expected:
                received = entries.read(digest, name)
                assert received.dtype == expected[name].dtype, place
                np.testing.assert_array_equal(received, expected[name][[number]])
    assert lost.count(1) > 20  # records and rows
    assert lost.count(2) > 50  # the head, and what says how arrays are to be read


def test_damage_is_said_once_with_how_much_of_it(filled):
    path = shard_file(filled)
    data = bytearray(path.read_bytes())
    for image in (1, 2, 3):
        data[-(2 * image - 1)] ^= 1  # "flat", the last tensor, has two bytes an image
    path.write_bytes(data)
    seen = Recorder()
    entries = Store(filled.root, seen).entries(KEY)
    assert entries.missing(names(5)) == names(4)[1:] + names(1, first=4)
    warnings = ["3 entries of the feature store are damaged and are computed again."]
    assert seen.warnings == warnings
    assert entries.missing(names(5)) == names(4)[1:] + names(1, first=4)
    entries.put(names(4)[1:], {name: value[1:] for name, value in tensors(4).items()})
    assert Store(filled.root, seen).entries(KEY).missing(names(4)) == []
    assert seen.warnings == warnings


def test_a_file_that_is_damaged_as_a_whole_is_removed_and_that_is_said(filled):
    path = shard_file(filled)
    path.write_bytes(b"\x93NUMPY?" + path.read_bytes()[7:])
    seen = Recorder()
    for _ in range(2):
        assert Store(filled.root, seen).entries(KEY).missing(names(4)) == names(4)
        (warning,) = seen.warnings
        assert path.name in warning


def test_what_killed_processes_left_half_written_is_swept_and_what_living_ones_write_is_not(filled):
    folder = shard_file(filled).parent
    (folder / ".writing-dead").write_bytes(b"half")
    with new_file(folder, ".writing-") as alive:
        opened(filled).put(names(2, first=9), tensors(2))
        assert [path.name for path in folder.glob(".writing-*")] == [alive.name]


def test_the_same_bytes_read_as_other_numbers_are_found(filled):
    path = shard_file(filled)
    path.write_bytes(path.read_bytes().replace(b"'<f2'", b"'>f2'"))
    assert opened(filled).missing(names(4)) == names(4)


def test_damage_to_one_row_costs_that_row_which_can_be_put_again(filled):
    path = shard_file(filled)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the last image's row
    path.write_bytes(data)
    entries = opened(filled)
    assert entries.missing(names(4)) == [names(4)[3]]
    entries.put([names(4)[3]], {name: value[3:] for name, value in tensors(4).items()})
    for again in (entries, opened(filled)):
        assert again.missing(names(4)) == []
        np.testing.assert_array_equal(again.read(names(4), "cut_0"), tensors(4)["cut_0"])


@pytest.mark.parametrize("keep", [0, 10, 100, 140, 400, -1])
def test_a_shard_cut_short_is_missing(filled, keep):
    path = shard_file(filled)
    path.write_bytes(path.read_bytes()[:keep])
    assert opened(filled).missing(names(4)) == names(4)


@pytest.mark.parametrize("text", ["", "[[", "{}", "[" * 100_000])
def test_a_file_that_is_no_shard_is_an_empty_one(filled, text):
    (shard_file(filled).parent / "a.shard").write_text(text)
    assert opened(filled).missing(names(4)) == []


def test_a_store_that_vanishes_while_it_is_in_use_is_said(filled):
    entries = opened(filled)
    assert entries.missing(names(4)) == []
    shard_file(filled).unlink()
    with pytest.raises(EnvironmentFault, match=r"cannot be read any more: No such file.*Run again"):
        entries.read(names(4), "cut_0")
    assert opened(filled).missing(names(4)) == names(4)


def test_a_half_written_shard_is_not_read(filled):
    path = shard_file(filled)
    path.rename(path.with_name(f".writing-{path.stem}"))
    assert opened(filled).missing(names(4)) == names(4)


def test_no_pickle_is_ever_opened(filled, tmp_path):
    marker = tmp_path / "opened"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (marker,))

    path = shard_file(filled)
    objects = np.array([Hostile()] * 4, dtype=object)
    for write in (np.save, lambda file, _: file.write(pickle.dumps(Hostile()))):
        with path.open("wb") as file:
            write(file, objects)
        assert opened(filled).missing(names(4)) == names(4)
    assert not marker.exists()
    with pytest.raises(ValueError, match="Object"):
        filled.entries(KEY).put(names(1), {"cut_0": objects[:1]})


@pytest.mark.slow
def test_two_processes_write_the_same_key_and_both_succeed(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from regraft.features.store import Store\n"
        "for number in range(20):\n"
        "    digest = f'{number:032x}'\n"
        "    entries = Store(sys.argv[1]).entries('key')\n"
        "    for d in entries.missing([digest]):\n"
        "        entries.put([d], {'x': np.full((1, 50), number)})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    entries = Store(tmp_path).entries("key")
    assert entries.missing(names(20)) == []
    assert entries.read(names(20), "x")[:, 0].tolist() == list(range(20))
    assert not list(tmp_path.rglob(".writing-*"))


@pytest.fixture
def no_spare(monkeypatch):
    """No memory to keep what the disk does not take."""
    monkeypatch.setattr(home, "ROOM", 0)


def test_a_place_that_cannot_be_written_is_a_fault_of_the_environment(tmp_path, no_spare):
    (tmp_path / "file").write_text("")
    entries = Store(tmp_path / "file" / "store").entries(KEY)
    assert entries.missing(names(1)) == names(1)
    with pytest.raises(EnvironmentFault, match="REGRAFT_HOME") as caught:
        entries.put(names(2), {"x": np.zeros((2, 500))})
    assert caught.value.exit_code == 4
    needed = int(re.search(r"cannot take ([\d,]+) bytes", str(caught.value))[1].replace(",", ""))
    assert 8_000 < needed < 12_000  # 2 rows of 500 numbers, and what is known of their images
    assert str(tmp_path / "file") in str(caught.value)


def everything_below(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_nothing_behind_and_what_was_there_intact(filled, monkeypatch, no_spare):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = everything_below(filled.root)
    entries = filled.entries(KEY)
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os, "fsync", full)
        with pytest.raises(EnvironmentFault, match=r"cannot take .* bytes: No space left on device"):
            entries.put(names(2, first=9), tensors(2))
    assert entries.missing(names(1, first=9)) == names(1, first=9)
    assert everything_below(filled.root) == before
    assert opened(filled).missing(names(4)) == []


def test_a_write_that_stops_halfway_says_why_and_leaves_nothing_behind(filled, no_spare):
    """What a full disk does: the system takes some of the bytes and refuses the rest."""
    before = everything_below(filled.root)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(EnvironmentFault, match="File too large") as caught:
            filled.entries(KEY).put(names(9, first=9), {"x": np.zeros((9, 9000))})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.exit_code == 4
    assert everything_below(filled.root) == before


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="mounting takes root")
@pytest.mark.parametrize(("options", "why"), [("size=16k", "No space left"), ("ro", "Read-only file system")])
def test_a_real_disk_that_refuses(tmp_path, options, why, no_spare):
    (tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", tmp_path / "disk"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("nothing can be mounted here")
    try:
        store = Store(tmp_path / "disk" / "store")
        store.remember("how fast?", "12")
        assert store.entries(KEY).missing(names(9)) == names(9)
        with pytest.raises(EnvironmentFault, match=why) as caught:
            store.entries(KEY).put(names(9), {"x": np.zeros((9, 9000))})
        assert caught.value.exit_code == 4
        assert not list(store.root.rglob("*.shard")) + list(store.root.rglob(".writing-*"))
    finally:
        subprocess.run(["umount", tmp_path / "disk"], check=True)


def test_an_interruption_while_writing_leaves_nothing_behind(filled, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(shard_module, "_checksums", interrupted)
    before = everything_below(filled.root)
    with pytest.raises(KeyboardInterrupt):
        filled.entries(KEY).put(names(1, first=9), tensors(1))
    assert everything_below(filled.root) == before


def test_hints_come_back_and_losing_them_is_harmless(tmp_path):
    store = Store(tmp_path)
    assert store.recall("how fast?") is None
    store.remember("how fast?", "12")
    store.remember("how fast?", "13")
    assert store.recall("how fast?") == "13"
    (hint,) = tmp_path.glob("hints/*")
    whole = hint.read_bytes()
    for place in range(8 * len(whole)):  # every bit
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
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
