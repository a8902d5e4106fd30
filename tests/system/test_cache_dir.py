"""The store's place: where it lies, and that it can be written is known before work begins."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers.reporters import Recorder

import regraft
from regraft.errors import EnvironmentFault
from regraft.pipeline.check import check
from regraft.system.cache_dir import default_root, writable_root
from regraft.system.console import TERMINAL

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a user who never heard of REGRAFT_HOME."""
    for name in ("REGRAFT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me"


@pytest.fixture(params=["size=64k", "ro"])
def bad_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A disk that is full, and one that may only be read."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(disk)]
    if not ROOT or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_store_lies_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_HOME", "/data/regraft")
    assert default_root() == Path("/data/regraft")
    monkeypatch.delenv("REGRAFT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert default_root() == Path("/cache/regraft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root() == Path("/home/me/.cache/regraft")


def test_without_a_home_the_store_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> None:
        raise RuntimeError

    for name in ("REGRAFT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert default_root().name == "regraft"
    assert os.access(default_root().parent, os.W_OK)


def test_a_place_that_can_be_written_is_made_and_left_as_it_was(home: Path, tmp_path: Path) -> None:
    assert writable_root(reporter=TERMINAL) == home / ".cache" / "regraft"
    assert writable_root(tmp_path / "mine", reporter=TERMINAL) == tmp_path / "mine"
    assert not list((tmp_path / "mine").iterdir()) + list((home / ".cache" / "regraft").iterdir())


@pytest.mark.parametrize("how", ["named", "REGRAFT_HOME"])
def test_a_chosen_place_that_cannot_be_written_is_an_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    home.write_text("a file where a folder should be")
    if how == "REGRAFT_HOME":
        monkeypatch.setenv(how, str(home / "store"))
    with pytest.raises(
        EnvironmentFault, match=r"me.store cannot be written: .*--store or REGRAFT_HOME"
    ) as caught:
        writable_root(home / "store" if how == "named" else None, reporter=TERMINAL)
    assert caught.value.exit_code == 4


def test_the_usual_place_gives_way_to_a_temporary_one_and_that_is_said_once(home: Path) -> None:
    home.write_text("a file where a folder should be")
    seen = Recorder()
    place = writable_root(reporter=seen)
    (place / "features").mkdir()
    assert writable_root(reporter=seen) == place
    (warning,) = seen.warnings
    assert "cannot be written" in warning
    assert str(home) in warning
    assert str(place) in warning


def test_a_temporary_place_goes_with_its_process(home: Path, tmp_path: Path) -> None:
    home.write_text("a file where a folder should be")
    killed = tmp_path / "regraft-store-killed"
    killed.mkdir()
    program = (
        "from regraft.system.console import TERMINAL; from regraft.system.cache_dir import writable_root;"
        "place = writable_root(reporter=TERMINAL);"
        "(place / 'some').write_text(''); print(place)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).parent == tmp_path
    assert not list(tmp_path.glob("regraft-store-*"))


def test_a_disk_that_is_full_or_read_only_is_found_out(bad_disk: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"Read-only file system|No space left on device"):
        writable_root(bad_disk / "store", reporter=TERMINAL)
    assert not list(bad_disk.rglob(".trying-*"))


@pytest.mark.parametrize(
    "work",
    [regraft.train, regraft.search, regraft.embed, regraft.recommend, check],
    ids=lambda work: work.__name__,
)
def test_no_work_begins_without_a_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Callable[..., object]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvironmentFault, match=r"The store .*file.store cannot be written"):
        work(tmp_path / "nowhere", store=tmp_path / "file" / "store")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
