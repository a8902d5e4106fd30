"""What a disk does not take is kept in memory, up to a limit, and as good as on disk while the run lasts."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from helpers.reporters import Recorder

from regraft.errors import EnvironmentFault
from regraft.features import store as store_module
from regraft.features.store import Entries, Store
from regraft.system import cache_dir as home

NAMES = [f"{number:032x}" for number in range(6)]
ROWS = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)


@pytest.fixture
def seen() -> Recorder:
    """What the store says."""
    return Recorder()


@pytest.fixture
def half_stored(tmp_path: Path, seen: Recorder, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two images are stored when the disk takes nothing more."""
    store = Store(tmp_path / "store", seen)
    put(store.entries("key"), 0, 2)
    put(Store(tmp_path / "large enough").entries("key"), 0, 6)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store_module.os, "fsync", refuse)
    return store


def put(entries: Entries, first: int, last: int) -> None:
    names = NAMES[first:last]
    entries.put(names, {"x": ROWS[first:last]})


def test_rows_in_memory_are_those_that_the_disk_would_give(half_stored: Store, tmp_path: Path) -> None:
    entries = half_stored.entries("key")
    put(entries, 2, 4)
    put(entries, 4, 6)
    assert half_stored.entries("key").missing(NAMES) == []
    expected = Store(tmp_path / "large enough").entries("key")
    np.testing.assert_array_equal(entries.read(NAMES, "x"), expected.read(NAMES, "x"))


def test_it_is_said_once_and_is_gone_with_the_run(half_stored: Store, tmp_path: Path, seen: Recorder) -> None:
    put(half_stored.entries("key"), 2, 4)
    put(half_stored.entries("another"), 4, 6)
    (warning,) = seen.warnings
    assert "No space left on device" in warning
    assert "kept in memory" in warning
    assert Store(tmp_path / "store").entries("key").missing(NAMES) == NAMES[2:]


def test_more_than_there_is_room_for_is_a_fault_with_place_and_bytes(
    half_stored: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(home, "ROOM", 1_000)  # of all keys together
    put(half_stored.entries("key"), 2, 4)
    with pytest.raises(EnvironmentFault, match=r"cannot take [\d,]+ bytes: No space left"):
        put(half_stored.entries("another"), 4, 6)
    assert half_stored.entries("another").missing(NAMES) == NAMES
    assert half_stored.entries("key").missing(NAMES) == NAMES[4:]
