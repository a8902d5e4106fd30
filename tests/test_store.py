"""The store gives back what was put in, or says that it is missing: never anything else."""

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from regraft.data.decode import Facts
from regraft.errors import EnvironmentFault
from regraft.features import store as store_module
from regraft.features.store import Store, default_root, pixel_key

KEY = "prefix abc\nsize 8"
FACTS = Facts(640, 480, "JPEG", ("tiny_image",))


def names(count, first=0):
    return [f"{number:032x}" for number in range(first, first + count)]


def tensors(count, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "cut_0": rng.normal(size=(count, 3, 2)).astype(np.float32),
        "cut_1": rng.integers(0, 256, (count, 5)).astype(np.uint8),
        "flat": rng.normal(size=count).astype(np.float16),
    }


def put(entries, digests, values):
    entries.put(digests, values, dict.fromkeys(digests, FACTS))


@pytest.fixture
def filled(tmp_path):
    store = Store(tmp_path / "store")
    put(store.entries(KEY), names(4), tensors(4))
    return store


def shard_file(store, name):
    (found,) = store.root.glob(f"features/*/*/{name}")
    return found


def test_several_named_tensors_come_back_bit_by_bit_in_any_order(filled):
    entries = filled.entries(KEY)
    asked = [names(4)[number] for number in (2, 0, 3, 0)]
    assert entries.missing(asked) == []
    for name, expected in tensors(4).items():
        received = entries.read(asked, name)
        assert received.dtype == expected.dtype
        np.testing.assert_array_equal(received, expected[[2, 0, 3, 0]])
    assert entries.facts(names(1)[0]) == FACTS


def test_what_was_put_is_there_for_the_one_who_put_it(tmp_path):
    entries = Store(tmp_path).entries(KEY)
    assert entries.missing(names(2)) == names(2)
    put(entries, names(2), tensors(2))
    put(entries, names(2, first=2), tensors(2, seed=1))
    assert entries.missing(names(4)) == []
    np.testing.assert_array_equal(entries.read(names(4)[2:], "cut_0"), tensors(2, seed=1)["cut_0"])


def test_missing_names_each_image_once_in_the_order_asked(filled):
    asked = ["x", names(1)[0], "y", "x"]
    assert filled.entries(KEY).missing(asked) == ["x", "y"]


def test_nothing_asked_is_nothing_read(filled):
    assert len(filled.entries(KEY).read([], "cut_0")) == 0


def test_keys_are_separate(filled):
    assert filled.entries(KEY + " ").missing(names(1)) == names(1)
    assert pixel_key(224) != pixel_key(299)
    (words,) = filled.root.glob("features/*/key.txt")
    assert words.read_text() == KEY + "\n"


def test_a_flipped_bit_anywhere_is_found_and_costs_only_a_computation(tmp_path):
    """Every bit of the index and of a small array: the answer is right or missing."""
    expected = tensors(2)["cut_1"]
    for name in ("cut_1.npy", "index.json"):
        store = Store(tmp_path / name)
        put(store.entries(KEY), names(2), {"cut_1": expected})
        path = shard_file(store, name)
        whole = path.read_bytes()
        lost = 0
        for place in range(len(whole)):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << (place % 8)
            path.write_bytes(damaged)
            entries = store.entries(KEY)
            missing = entries.missing(names(2))
            lost += len(missing)
            for number in (number for number, digest in enumerate(names(2)) if digest not in missing):
                received = entries.read([names(2)[number]], "cut_1")
                assert received.dtype == expected.dtype, place
                np.testing.assert_array_equal(received, expected[[number]])
                assert entries.facts(names(2)[number]) == FACTS
        assert lost > 10


@pytest.mark.parametrize("change", [(b"<f4", b">f4"), (b"<f4", b"<i4")])
def test_the_same_bytes_read_as_other_numbers_are_found(filled, change):
    path = shard_file(filled, "cut_0.npy")
    path.write_bytes(path.read_bytes().replace(*change))
    assert filled.entries(KEY).missing(names(4)) == names(4)


def test_damage_to_one_row_costs_that_row_which_can_be_put_again(filled):
    path = shard_file(filled, "cut_0.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # in the last image's row
    path.write_bytes(data)
    entries = filled.entries(KEY)
    assert entries.missing(names(4)) == [names(4)[3]]
    put(entries, [names(4)[3]], {name: value[3:] for name, value in tensors(4).items()})
    again = filled.entries(KEY)
    assert again.missing(names(4)) == []
    np.testing.assert_array_equal(again.read(names(4), "cut_0"), tensors(4)["cut_0"])


@pytest.mark.parametrize("keep", [0, 10, 100, 140])
def test_a_truncated_array_is_missing(filled, keep):
    path = shard_file(filled, "cut_0.npy")
    path.write_bytes(path.read_bytes()[:keep])
    assert filled.entries(KEY).missing(names(4)) != []


@pytest.mark.parametrize("text", ["", "[[", "{}", "3", "[1, 2]", '[["a", [1], {}]]', "[" * 100_000])
def test_an_index_that_is_none_is_an_empty_shard(filled, text):
    shard_file(filled, "index.json").write_text(text)
    assert filled.entries(KEY).missing(names(4)) == names(4)


def test_a_lost_array_is_missing(filled):
    shard_file(filled, "cut_1.npy").unlink()
    assert filled.entries(KEY).missing(names(4)) == names(4)


def test_a_half_written_shard_is_not_read(filled):
    shard = shard_file(filled, "index.json").parent
    shard.rename(shard.with_name(".writing-abc"))
    entries = filled.entries(KEY)
    assert entries.missing(names(4)) == names(4)


def test_no_pickle_is_ever_opened(filled, tmp_path):
    marker = tmp_path / "opened"

    class Hostile:
        def __reduce__(self):
            return (Path.touch, (marker,))

    path = shard_file(filled, "cut_0.npy")
    objects = np.array([Hostile()] * 4, dtype=object)
    for write in (lambda: np.save(path, objects), lambda: path.write_bytes(pickle.dumps(Hostile()))):
        write()
        assert filled.entries(KEY).missing(names(4)) == names(4)
    assert not marker.exists()
    with pytest.raises(ValueError, match="Object"):
        put(filled.entries(KEY), ["a"], {"cut_0": objects[:1]})


def test_two_processes_write_the_same_key_and_both_succeed(tmp_path):
    program = (
        "import sys, numpy as np\n"
        "from regraft.data.decode import Facts\n"
        "from regraft.features.store import Store\n"
        "for number in range(20):\n"
        "    digest = f'{number:032x}'\n"
        "    entries = Store(sys.argv[1]).entries('key')\n"
        "    for d in entries.missing([digest]):\n"
        "        entries.put([d], {'x': np.full((1, 50), number)}, {d: Facts(1, 1, 'PNG')})\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(2)]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    entries = Store(tmp_path).entries("key")
    assert entries.missing(names(20)) == []
    assert entries.read(names(20), "x")[:, 0].tolist() == list(range(20))
    assert not list(tmp_path.glob("features/*/.writing-*"))


def test_a_place_that_cannot_be_written_is_a_fault_of_the_environment(tmp_path):
    (tmp_path / "file").write_text("")
    entries = Store(tmp_path / "file" / "store").entries(KEY)
    assert entries.missing(names(1)) == names(1)
    with pytest.raises(EnvironmentFault, match="REGRAFT_HOME") as caught:
        put(entries, names(2), {"x": np.zeros((2, 500))})
    assert caught.value.exit_code == 4
    assert "8,000 bytes" in str(caught.value)
    assert str(tmp_path / "file") in str(caught.value)


@pytest.mark.parametrize("failing", ["fsync", "save"])
def test_a_full_disk_leaves_nothing_behind_and_what_was_there_intact(filled, monkeypatch, failing):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    before = sorted(filled.root.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setattr(store_module.os if failing == "fsync" else store_module.np, failing, full)
        entries = filled.entries(KEY)
        with pytest.raises(EnvironmentFault, match="No space left on device"):
            put(entries, names(2, first=9), tensors(2))
        assert entries.missing(names(1, first=9)) == names(1, first=9)
    assert sorted(filled.root.rglob("*")) == before
    assert filled.entries(KEY).missing(names(4)) == []


def test_an_interruption_while_writing_leaves_nothing_behind(filled, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(store_module.np, "save", interrupted)
    before = sorted(filled.root.rglob("*"))
    with pytest.raises(KeyboardInterrupt):
        put(filled.entries(KEY), names(1, first=9), tensors(1))
    assert sorted(filled.root.rglob("*")) == before


def test_hints_come_back_and_losing_them_is_harmless(tmp_path):
    store = Store(tmp_path)
    assert store.recall("how fast?") is None
    store.remember("how fast?", "12")
    store.remember("how fast?", "13")
    assert store.recall("how fast?") == "13"
    (hint,) = tmp_path.glob("hints/*")
    hint.write_bytes(b"\xff\xfe")
    assert store.recall("how fast?") is None
    (tmp_path / "file").write_text("")
    nowhere = Store(tmp_path / "file")
    nowhere.remember("how fast?", "12")
    assert nowhere.recall("how fast?") is None


def test_the_store_lies_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("REGRAFT_HOME", "/data/regraft")
    assert default_root() == Path("/data/regraft")
    monkeypatch.delenv("REGRAFT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_root() == Path("/cache/regraft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root() == Path("/home/me/.cache/regraft")


def test_without_a_home_the_store_is_temporary(monkeypatch):
    def no_home():
        raise RuntimeError

    for name in ("REGRAFT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert default_root().name == "regraft"
    assert os.access(default_root().parent, os.W_OK)


def test_the_index_is_plain_json(filled):
    rows = json.loads(shard_file(filled, "index.json").read_text())
    assert [row[0] for row in rows] == names(4)
    assert sorted(rows[0][2]) == ["cut_0", "cut_1", "flat"]
