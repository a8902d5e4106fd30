"""What is written beside its place: nobody finds half of it, and what the dead left is told from the rest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from regraft.system import atomic as beside
from regraft.system.atomic import hold, new_file, new_folder, sweep, take_place

WRITER = """
import sys, time
from pathlib import Path
from regraft.system.atomic import new_file, new_folder
with new_file(Path(sys.argv[1]), ".w-") as file, new_folder(Path(sys.argv[1]), ".w-") as folder:
    (folder / "part").write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_is_swept_and_not_before(tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    writer = subprocess.Popen([sys.executable, "-c", WRITER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "ready\n"
    sweep(tmp_path, ".w-")
    assert len(list(tmp_path.glob(".w-*"))) == 2
    writer.kill()
    writer.communicate()
    assert len(list(tmp_path.glob(".w-*"))) == 2
    sweep(tmp_path, ".w-")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_goes_wrong_leaves_nothing(tmp_path: Path) -> None:
    for make in (new_file, new_folder):
        with pytest.raises(KeyboardInterrupt), make(tmp_path, ".w-"):
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_sweep_between_making_and_locking_costs_one_more_try(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def swept_first(path: Path) -> int | None:
        made.append(path)
        if len(made) == 1:
            sweep(tmp_path, ".w-")
        return hold(path)

    monkeypatch.setattr(beside, "hold", swept_first)
    with new_file(tmp_path, ".w-") as path:
        assert path.exists()
    assert len(made) == 2


def test_what_is_held_cannot_be_held_again(tmp_path: Path) -> None:
    descriptor = hold(tmp_path)
    assert descriptor is not None
    assert hold(tmp_path) is None
    os.close(descriptor)
    again = hold(tmp_path)
    assert again is not None
    os.close(again)
    assert hold(tmp_path / "nothing") is None


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("there", [True, False])
def test_a_folder_takes_the_place_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool, there: bool
) -> None:
    if not at_once:  # a file system that cannot exchange
        monkeypatch.setattr(beside, "_exchanged", lambda one, other: False)
    place = tmp_path / "run"
    if there:
        place.mkdir()
        (place / "old").write_text("old")
    with new_folder(tmp_path, ".run.") as folder:
        (folder / "new").write_text("new")
        take_place(folder, place)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in place.iterdir()] == ["new"]


def test_two_folders_change_places_at_once(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("Linux can")
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("")
    assert beside._exchanged(tmp_path / "one", tmp_path / "other")
    assert (tmp_path / "one" / "other").exists()
    assert (tmp_path / "other" / "one").exists()
