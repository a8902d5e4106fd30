"""Files that a full disk refuses stay in memory, up to a limit, and serve as well until the run ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import full_disk
from helpers.reporters import Recorder

from regraft.errors import EnvironmentFault
from regraft.features.store import Entries, Store

NAMES = [f"{number:032x}" for number in range(6)]
ROWS = np.random.default_rng(0).normal(size=(6, 40)).astype(np.float32)


@pytest.fixture
def reporter() -> Recorder:
    """A reporter that records its messages."""
    return Recorder()


@pytest.fixture
def half_stored(tmp_path: Path, reporter: Recorder) -> Iterator[Store]:
    """A store with two images whose disk is now full."""
    store = Store(tmp_path / "store", reporter)
    put(store.entries("key"), 0, 2)
    put(Store(tmp_path / "large enough").entries("key"), 0, 6)
    with full_disk():
        yield store


def put(entries: Entries, first: int, last: int) -> None:
    names = NAMES[first:last]
    entries.put(names, {"x": ROWS[first:last]})


def test_rows_in_memory_equal_those_on_disk(half_stored: Store, tmp_path: Path) -> None:
    entries = half_stored.entries("key")
    put(entries, 2, 4)
    put(entries, 4, 6)
    assert half_stored.entries("key").find_missing(NAMES) == []
    expected = Store(tmp_path / "large enough").entries("key")
    np.testing.assert_array_equal(entries.read(NAMES, "x"), expected.read(NAMES, "x"))


def test_a_warning_is_given_once_and_the_rows_are_lost_when_the_run_ends(
    half_stored: Store, tmp_path: Path, reporter: Recorder
) -> None:
    put(half_stored.entries("key"), 2, 4)
    put(half_stored.entries("another"), 4, 6)
    (warning,) = reporter.warnings
    assert "No space left on device" in warning
    assert "kept in memory" in warning
    assert Store(tmp_path / "store").entries("key").find_missing(NAMES) == NAMES[2:]


def test_an_error_names_the_bytes_that_fit_neither_on_disk_nor_in_memory(
    half_stored: Store,
) -> None:
    half_stored.fallback.limit = 1_000  # of all keys together
    put(half_stored.entries("key"), 2, 4)
    with pytest.raises(EnvironmentFault, match=r"cannot take [\d,]+ bytes: No space left"):
        put(half_stored.entries("another"), 4, 6)
    assert half_stored.entries("another").find_missing(NAMES) == NAMES
    assert half_stored.entries("key").find_missing(NAMES) == NAMES[4:]
