"""Results of finished phases in the store: used again if nothing differs, checked, and bounded."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from regraft.features.store import Store
from regraft.training import stored_results
from regraft.training.finished_phases import FinishedPhases

STATE = {"done": True, "fitted": {"best": 2}}


@pytest.fixture
def finished(tmp_path: Path) -> FinishedPhases:
    return FinishedPhases(Store(tmp_path))


def write(finished: FinishedPhases, name: str, count: int = 10) -> None:
    finished.write(name, (STATE, {"now": [np.arange(count, dtype=np.float32), np.array(3)]}))


def test_what_was_written_is_read_to_the_bit(finished) -> None:
    write(finished, "one")
    state, arrays = finished.read("one")
    assert state == STATE
    assert arrays["now"][0].tobytes() == np.arange(10, dtype=np.float32).tobytes()
    assert finished.read("other") is None


def test_a_damaged_file_counts_as_missing(finished, tmp_path) -> None:
    write(finished, "one")
    (path,) = tmp_path.rglob("one.npz")
    content = bytearray(path.read_bytes())
    for damaged in (content[:-1], b"", content[:40] + bytes([content[40] ^ 1]) + content[41:]):
        path.write_bytes(damaged)
        assert finished.read("one") is None


def test_the_least_recently_used_are_deleted_beyond_the_limit(finished, tmp_path, monkeypatch) -> None:
    for number in range(4):
        write(finished, f"{number}", 1000)
        (path,) = tmp_path.rglob(f"{number}.npz")
        os.utime(path, (number, number))
    assert finished.read("0") is not None  # now it is the latest
    monkeypatch.setattr(stored_results, "LIMIT", 5 * path.stat().st_size - 1)
    write(finished, "4", 1000)
    assert sorted(file.stem for file in tmp_path.rglob("*.npz")) == ["0", "2", "3", "4"]
    monkeypatch.setattr(stored_results, "LIMIT", 1000)
    write(finished, "large", 1000)
    assert finished.read("large") is None


def test_a_choice_is_recalled_unless_it_is_damaged(finished, tmp_path) -> None:
    assert finished.recall_choice("one") is None
    finished.remember_choice("one", {"plans": [1]})
    assert finished.recall_choice("one") == {"plans": [1]}
    for path in (tmp_path / "hints").iterdir():
        path.write_text("00000000 nothing")
    assert finished.recall_choice("one") is None
