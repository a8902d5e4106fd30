"""The progress of a run: resumed only by the same run, by one process at a time, and gone when it is done."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import regraft
from regraft.errors import EnvironmentFault, UsageError
from regraft.recipe import Recipe
from regraft.system.console import TERMINAL
from regraft.training import journal as checkpoint
from regraft.training import journal as progress
from regraft.training.journal import Progress, read_checkpoint, write_checkpoint

SAID = {"done": False, "loss": float("nan"), "seconds": 0.1 + 0.2}


def arrays() -> dict[str, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return {
        "now": [
            rng.normal(size=(3, 2)).astype(np.float32),
            np.array(7, np.int64),
            np.zeros((0, 4), np.float16),
        ],
        "best": [rng.normal(size=5).astype(ml_dtypes.bfloat16), np.array(0.5, ml_dtypes.bfloat16)],
        "none": [],
    }


def begun(out: Path, *, resume: bool = False, **facts: object):
    """A run as `train` begins it, with one checkpoint, that is then killed: the folder stays."""
    with Progress.of(out, resume=resume, reporter=TERMINAL) as found:
        found.begin()
        found.expect(**facts)
        found.decide("phase 1: plan", lambda: {"epochs": 3})
        found.bookmark("head").keep(SAID, arrays())


def folder_of(out: Path) -> Path:
    return out.parent / f".{out.name}.progress"


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "now.npz", SAID, arrays())
    said, found = read_checkpoint(tmp_path / "now.npz")
    assert said["seconds"] == SAID["seconds"]
    assert np.isnan(said["loss"])
    for name, row in arrays().items():
        assert [(value.dtype, value.shape, value.tobytes()) for value in row] == [
            (value.dtype, value.shape, value.tobytes()) for value in found[name]
        ]
    assert read_checkpoint(tmp_path / "other.npz") is None


@pytest.mark.parametrize("keep", [0, 100, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "now.npz"
    write_checkpoint(path, SAID, arrays())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(EnvironmentFault, match="without --resume"):
        read_checkpoint(path)


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "now.npz"
    write_checkpoint(path, SAID, arrays())
    whole, value = path.read_bytes(), arrays()["now"][0].tobytes()
    at = whole.index(value)
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(EnvironmentFault, match="damaged"):
        read_checkpoint(path)


def test_a_run_that_was_stopped_is_found_by_resume(tmp_path: Path) -> None:
    begun(tmp_path / "run", seed=0)
    with Progress.of(tmp_path / "run", resume=True, reporter=TERMINAL) as found:
        found.begin()
        found.expect(seed=0)
        assert found.decide("phase 1: plan", dict) == {"epochs": 3}
        assert found.decide("phase 2: plan", dict) == {}
        mark = found.bookmark("head")
        assert not mark.done
        assert mark.take() is not None
        assert mark.take() is None
        assert found.bookmark("phase 1").take() is None
        found.finished = True
    assert not list(tmp_path.iterdir())


def test_without_resume_it_begins_anew_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun(tmp_path / "run", seed=0)
    with Progress.of(tmp_path / "run", resume=False, reporter=TERMINAL) as found:
        found.begin()
        assert "unfinished run" in capsys.readouterr().err
        found.expect(seed=1)
        assert found.decide("phase 1: plan", dict) == {}
        assert found.bookmark("head").take() is None


def test_a_run_killed_before_its_first_checkpoint_is_nothing_to_go_on_with(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_of(tmp_path / "run").mkdir()
    (folder_of(tmp_path / "run") / "run.json").write_text('{"facts": {"seed": 1}}')
    with Progress.of(tmp_path / "run", resume=False, reporter=TERMINAL) as found:
        found.begin()
        found.expect(seed=2)
    assert "--resume" not in capsys.readouterr().err


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    facts = {"recipe": {"seed": 0, "phases": [{"epochs": 2}], "head": {"hidden": [8]}}, "samples": "30"}
    begun(tmp_path / "run", **facts)
    begun(tmp_path / "run", resume=True, **facts)
    facts["recipe"]["phases"][0]["epochs"] = 3
    with pytest.raises(UsageError, match=r"phases.1.epochs 2. Received .* 3\..*without --resume"):
        begun(tmp_path / "run", resume=True, **facts)
    assert list(folder_of(tmp_path / "run").glob("*.npz"))  # it can still be resumed as it was


def test_a_run_that_another_process_makes_is_left_alone(tmp_path: Path) -> None:
    with Progress.of(tmp_path / "run", resume=False, reporter=TERMINAL) as first:
        first.begin()
        for resume in (False, True):
            with (
                pytest.raises(EnvironmentFault, match=f"in use by process {os.getpid()}"),
                Progress.of(tmp_path / "run", resume=resume, reporter=TERMINAL),
            ):
                pass
        first.bookmark("head").keep(SAID, arrays())
    begun(tmp_path / "run", resume=True)


HOLDER = """
import sys
from pathlib import Path
from regraft.system.console import TERMINAL
from regraft.training.journal import Progress
with Progress.of(Path(sys.argv[1]), resume=False, reporter=TERMINAL) as progress:
    progress.begin()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_place_belongs_to_one_process_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for make in (regraft.train, regraft.search):
            with pytest.raises(EnvironmentFault, match=f"in use by process {holder.pid}") as caught:
                make(tmp_path / "photos", Recipe(), out)  # there are none: nothing is looked at before
            assert caught.value.exit_code == 4
    finally:
        holder.kill()
        holder.communicate()
    assert folder_of(out).is_dir()  # what it left says nothing any more
    begun(out, seed=1)


def test_nothing_is_left_of_a_run_that_trained_nothing(tmp_path: Path) -> None:
    with Progress.of(tmp_path / "run", resume=False, reporter=TERMINAL) as found:
        found.begin()
        found.expect(seed=0)
    assert not list(tmp_path.iterdir())


def test_what_a_stopped_run_delivered_may_be_replaced_when_it_goes_on_and_nothing_else(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with Progress.of(out, resume=False, reporter=TERMINAL) as found:
        found.begin()
        found.bookmark("head").keep(SAID, arrays())
        out.mkdir()
        (out / "manifest.json").write_text("{}")
        found.deliver(out)
    for content, may in (("{}", True), ("{ }", False)):
        (out / "manifest.json").write_text(content)
        with Progress.of(out, resume=True, reporter=TERMINAL) as found:
            assert found.may_replace(out) == may
    with Progress.of(out, resume=False, reporter=TERMINAL) as found:
        assert not found.may_replace(out)


def test_a_full_disk_costs_the_checkpoint_and_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(progress, "EVERY", 0)
    with Progress.of(tmp_path / "run", resume=False, reporter=TERMINAL) as found:
        found.begin()
        mark = found.bookmark("head")
        mark.keep({"number": 1}, arrays())
        monkeypatch.setattr(checkpoint.os, "fsync", full)
        for _ in range(3):
            mark.keep({"number": 2}, arrays())
        assert not mark.due
    assert capsys.readouterr().err.count("No space left") == 1
    said, _ = read_checkpoint(folder_of(tmp_path / "run") / "head.npz")
    assert said == {"number": 1}
    assert not list(folder_of(tmp_path / "run").glob(".writing-*"))


def test_checkpoints_are_written_as_often_as_they_are_worth(tmp_path: Path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def slow(*_: object) -> None:
        now[0] += 2.0

    monkeypatch.setattr(progress, "write_checkpoint", slow)
    mark = progress.Bookmark(tmp_path / "now.npz")
    written = []
    for _ in range(200):
        now[0] += 1.0
        if mark.due:
            mark.keep({}, {})
            written.append(now[0])
    assert written[0] == progress.EVERY + 2.0
    assert min(np.diff(written)) >= 2.0 * progress.WORTH


def test_decisions_and_checkpoints_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    names = ["head", "phase 1", "phase 1, deeper", "phase 2"]
    with Progress.of(tmp_path / "run", resume=False, reporter=TERMINAL) as found:
        found.begin()
        for number, name in enumerate(names):
            found.decide(f"{name}: plan", lambda number=number: {"number": number})
            found.bookmark(name).keep({"number": number}, arrays())
    files = {path.stem for path in folder_of(tmp_path / "run").glob("*.npz")}
    assert files == {"head", "phase-1", "phase-1-deeper", "phase-2"}
    with Progress.of(tmp_path / "run", resume=True, reporter=TERMINAL) as found:
        for number, name in reversed(list(enumerate(names))):
            assert found.decide(f"{name}: plan", dict) == {"number": number}
            said, _ = found.bookmark(name).take()
            assert said == {"number": number}


@pytest.mark.parametrize("state", ["{", "[]", '{"decisions": [{"epochs": 3}]}', '{"facts": 3}'])
def test_a_damaged_state_is_said(tmp_path: Path, state: str) -> None:
    begun(tmp_path / "run")
    (folder_of(tmp_path / "run") / "run.json").write_text(state)
    with (
        pytest.raises(EnvironmentFault, match=r"damaged.*without --resume"),
        Progress.of(tmp_path / "run", resume=True, reporter=TERMINAL),
    ):
        pass
