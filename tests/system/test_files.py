"""Atomic writes: nobody sees half a file, and stale temporaries are told from live ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.system import files
from regraft.system.files import (
    make_temporary_file,
    make_temporary_folder,
    remove_stale,
    replace_atomically,
    try_lock,
)

WRITER = """
import sys, time
from pathlib import Path
from regraft.system.files import make_temporary_file, make_temporary_folder
parent = Path(sys.argv[1])
with make_temporary_file(parent, ".w-") as file, make_temporary_folder(parent, ".w-") as folder:
    (folder / "half").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_temporaries_of_a_killed_process_are_removed_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "ready\n"
    remove_stale(tmp_path, ".w-")
    assert len(list(tmp_path.glob(".w-*"))) == 2
    writer.kill()
    writer.communicate()
    assert len(list(tmp_path.glob(".w-*"))) == 2
    remove_stale(tmp_path, ".w-")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_an_error_leaves_no_temporary(tmp_path: Path) -> None:
    for make in (make_temporary_file, make_temporary_folder):
        with pytest.raises(KeyboardInterrupt), make(tmp_path, ".w-"):
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_temporary_removed_before_it_was_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def remove_first(path: Path) -> int | None:
        made.append(path)
        if len(made) == 1:
            remove_stale(tmp_path, ".w-")
        return try_lock(path)

    monkeypatch.setattr(files, "try_lock", remove_first)
    with make_temporary_file(tmp_path, ".w-") as path:
        assert path.exists()
    assert len(made) == 2


def test_what_is_locked_cannot_be_locked_again(tmp_path: Path) -> None:
    descriptor = try_lock(tmp_path)
    assert descriptor is not None
    assert try_lock(tmp_path) is None
    os.close(descriptor)
    again = try_lock(tmp_path)
    assert again is not None
    os.close(again)
    assert try_lock(tmp_path / "nothing") is None


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("existing", [True, False])
def test_a_folder_replaces_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool, existing: bool
) -> None:
    if not at_once:  # a file system that cannot exchange
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    target = tmp_path / "run"
    if existing:
        target.mkdir()
        (target / "old").write_text("old")
    with make_temporary_folder(tmp_path, ".run.") as folder:
        (folder / "new").write_text("new")
        replace_atomically(folder, target)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in target.iterdir()] == ["new"]


def test_two_folders_are_exchanged_in_one_step(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux can")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert files._exchange(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
