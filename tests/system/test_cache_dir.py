"""The folder of the store, and that it is checked to be writable before work begins."""

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
from regraft.system.cache_dir import find_writable_root, get_default_root
from regraft.system.console import TERMINAL

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home of a user who has not set REGRAFT_HOME."""
    for name in ("REGRAFT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    return tmp_path / "me"


@pytest.fixture(params=["size=64k", "ro"])
def bad_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A full disk, and a read-only one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", request.param, "tmpfs", str(disk)]
    if not ROOT or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_store_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGRAFT_HOME", "/data/regraft")
    assert get_default_root() == Path("/data/regraft")
    monkeypatch.delenv("REGRAFT_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert get_default_root() == Path("/cache/regraft")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert get_default_root() == Path("/home/me/.cache/regraft")


def test_without_a_home_the_store_is_temporary(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> None:
        raise RuntimeError

    for name in ("REGRAFT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    assert get_default_root().name == "regraft"
    assert os.access(get_default_root().parent, os.W_OK)


def test_a_writable_folder_is_made_and_left_empty(home: Path, tmp_path: Path) -> None:
    assert find_writable_root(reporter=TERMINAL) == home / ".cache" / "regraft"
    assert find_writable_root(tmp_path / "mine", reporter=TERMINAL) == tmp_path / "mine"
    assert not list((tmp_path / "mine").iterdir()) + list((home / ".cache" / "regraft").iterdir())


@pytest.mark.parametrize("how", ["named", "REGRAFT_HOME"])
def test_a_chosen_folder_that_cannot_be_written_is_an_error(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    home.write_text("a file where a folder should be")
    if how == "REGRAFT_HOME":
        monkeypatch.setenv(how, str(home / "store"))
    with pytest.raises(
        EnvironmentFault, match=r"me.store cannot be written: .*--store or REGRAFT_HOME"
    ) as caught:
        find_writable_root(home / "store" if how == "named" else None, reporter=TERMINAL)
    assert caught.value.exit_code == 4


def test_a_temporary_folder_replaces_the_default_with_one_warning(home: Path) -> None:
    home.write_text("a file where a folder should be")
    seen = Recorder()
    folder = find_writable_root(reporter=seen)
    (folder / "features").mkdir()
    assert find_writable_root(reporter=seen) == folder
    (warning,) = seen.warnings
    assert "cannot be written" in warning
    assert str(home) in warning
    assert str(folder) in warning


def test_a_temporary_folder_is_removed_with_its_process(home: Path, tmp_path: Path) -> None:
    home.write_text("a file where a folder should be")
    killed = tmp_path / "regraft-store-killed"
    killed.mkdir()
    program = (
        "from regraft.system.console import TERMINAL\n"
        "from regraft.system.cache_dir import find_writable_root\n"
        "folder = find_writable_root(reporter=TERMINAL);"
        "(folder / 'some').write_text(''); print(folder)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(done.stdout.strip()).parent == tmp_path
    assert not list(tmp_path.glob("regraft-store-*"))


def test_a_full_or_read_only_disk_is_noticed(bad_disk: Path) -> None:
    with pytest.raises(EnvironmentFault, match=r"Read-only file system|No space left on device"):
        find_writable_root(bad_disk / "store", reporter=TERMINAL)
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
