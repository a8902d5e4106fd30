"""The store is measured and cleared: by age, never what is in use, never what regraft did not compute."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from regraft.cli import app
from regraft.errors import EnvironmentFault
from regraft.features.store import Store, pixel_key
from regraft.features.store_usage import clear_entries, list_entries

DIGESTS = [f"{number:032x}" for number in range(3)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store with two keys, one hint, and things that are not computed."""
    store = Store(tmp_path / "store")
    for size in (8, 16):
        pixels = np.zeros((3, size, size, 3), np.uint8)
        store.entries(pixel_key(size)).put(DIGESTS, {"pixels": pixels})
    store.remember("question", "answer")
    for name in ("savedmodels/a", "features-4", "photos/0123456789abcdef"):
        (store.root / name).mkdir(parents=True, exist_ok=True)
        (store.root / name / "mine.txt").write_text("mine")
    return store.root


def make_old(root: Path, days: float) -> None:
    for path in [*root.rglob("*")]:
        os.utime(path, (time.time() - days * 86_400,) * 2)


def regraft(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    return (
        getattr(result.exception, "exit_code", result.exit_code),
        f"{result.output}{result.exception or ''}",
    )


def test_entries_are_listed_with_their_sizes(root: Path) -> None:
    entries = list_entries(root)
    assert [entry.kind for entry in entries].count("features and pixels") == 2
    assert len(entries) == 3
    files = [
        path for entry in entries for path in (entry.path.rglob("*") if entry.path.is_dir() else [entry.path])
    ]
    assert sum(entry.size for entry in entries) == sum(path.stat().st_size for path in files)
    code, out = regraft("cache", "--store", root)
    assert code == 0
    assert "in 3 entries" in out
    assert "pixels, size 16" in out
    listed = json.loads(regraft("cache", "--store", root, "--json")[1])
    assert {entry["key"] for entry in listed["entries"]} >= {"pixels, size 8", "pixels, size 16"}


def test_clearing_by_age_deletes_what_was_not_used_and_says_what_it_frees(root: Path) -> None:
    make_old(root, days=40)
    Store(root).entries(pixel_key(8))  # used now
    code, out = regraft("cache", "--store", root, "--clear", "--older-than", "30")
    assert code == 0
    assert out.startswith("Freed ")
    assert "2 entries deleted" in out
    assert [entry.description for entry in list_entries(root)] == ["pixels, size 8"]
    assert Store(root).entries(pixel_key(8)).find_missing(DIGESTS) == []
    assert Store(root).entries(pixel_key(16)).find_missing(DIGESTS) == DIGESTS


def test_what_regraft_did_not_compute_stays(root: Path) -> None:
    clear_entries(root)
    assert list_entries(root) == []
    assert len(list(root.rglob("mine.txt"))) == 3


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_store_in_use_is_not_cleared(root: Path) -> None:
    code = f"""
import sys
from regraft.features.store import Store
store = Store.open({str(root)!r})
print("open", flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(EnvironmentFault, match="in use by a running process"):
            clear_entries(root)
        assert len(list_entries(root)) == 3
        process.communicate("")
    assert len(clear_entries(root)[0]) == 3


def test_a_store_is_free_once_nobody_holds_it(root: Path) -> None:
    store = Store.open(root)
    with pytest.raises(EnvironmentFault, match="in use"):
        clear_entries(root)
    del store
    clear_entries(root)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--older-than", "3"], "together with --clear"),
        (["--clear", "--older-than", "-1"], "0 or more"),
        (["--clear", "--older-than", "nan"], "0 or more"),
        (["--store", "nowhere"], "expected the folder of a store"),
    ],
)
def test_wrong_options_are_one_message(arguments: list[str], message: str) -> None:
    code, out = regraft("cache", *arguments)
    assert code == 2
    assert message in out
