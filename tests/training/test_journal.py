"""The journal of a run: only the same run resumes it, one process at a time, and it is deleted at the end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from conftest import full_disk

import regraft
from regraft.errors import EnvironmentFault, UsageError
from regraft.recipe import Recipe
from regraft.system.console import TERMINAL
from regraft.training import checkpoint
from regraft.training.checkpoint import PhaseCheckpoint, read_checkpoint, write_checkpoint
from regraft.training.journal import RunJournal

STATE = {"done": False, "loss": float("nan"), "seconds": 0.1 + 0.2}


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


def start_and_kill(out: Path, *, resume: bool = False, **facts: object):
    """Start a run as `train` does, with one checkpoint, and leave its folder as a kill does."""
    with RunJournal.open(out, resume=resume, reporter=TERMINAL) as journal:
        journal.begin()
        journal.check_inputs(**facts)
        journal.decide("phase 1: plan", lambda: {"epochs": 3})
        journal.open_checkpoint("head").save(STATE, arrays())


def journal_folder(out: Path) -> Path:
    return out.parent / f".{out.name}.progress"


def test_a_checkpoint_comes_back_bit_by_bit(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "now.npz", STATE, arrays())
    state, read = read_checkpoint(tmp_path / "now.npz")
    assert state["seconds"] == STATE["seconds"]
    assert np.isnan(state["loss"])
    for name, row in arrays().items():
        assert [(value.dtype, value.shape, value.tobytes()) for value in row] == [
            (value.dtype, value.shape, value.tobytes()) for value in read[name]
        ]
    assert read_checkpoint(tmp_path / "other.npz") is None


@pytest.mark.parametrize("size", [0, 100, -1])
def test_a_damaged_checkpoint_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "now.npz"
    write_checkpoint(path, STATE, arrays())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(EnvironmentFault, match="without --resume"):
        read_checkpoint(path)


def test_a_flipped_bit_in_the_numbers_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "now.npz"
    write_checkpoint(path, STATE, arrays())
    content, value = path.read_bytes(), arrays()["now"][0].tobytes()
    offset = content.index(value)
    path.write_bytes(content[:offset] + bytes([content[offset] ^ 1]) + content[offset + 1 :])
    with pytest.raises(EnvironmentFault, match="damaged"):
        read_checkpoint(path)


def test_resume_continues_a_run_that_was_stopped(tmp_path: Path) -> None:
    start_and_kill(tmp_path / "run", seed=0)
    with RunJournal.open(tmp_path / "run", resume=True, reporter=TERMINAL) as journal:
        journal.begin()
        journal.check_inputs(seed=0)
        assert journal.decide("phase 1: plan", dict) == {"epochs": 3}
        assert journal.decide("phase 2: plan", dict) == {}
        phase = journal.open_checkpoint("head")
        assert not phase.is_done
        assert phase.take_previous() is not None
        assert phase.take_previous() is None
        assert journal.open_checkpoint("phase 1").take_previous() is None
        journal.finished = True
    assert not list(tmp_path.iterdir())


def test_without_resume_the_earlier_run_is_discarded_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start_and_kill(tmp_path / "run", seed=0)
    with RunJournal.open(tmp_path / "run", resume=False, reporter=TERMINAL) as journal:
        journal.begin()
        assert "unfinished run" in capsys.readouterr().err
        journal.check_inputs(seed=1)
        assert journal.decide("phase 1: plan", dict) == {}
        assert journal.open_checkpoint("head").take_previous() is None


def test_a_run_killed_before_its_first_checkpoint_is_not_mentioned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journal_folder(tmp_path / "run").mkdir()
    (journal_folder(tmp_path / "run") / "run.json").write_text('{"facts": {"seed": 1}}')
    with RunJournal.open(tmp_path / "run", resume=False, reporter=TERMINAL) as journal:
        journal.begin()
        journal.check_inputs(seed=2)
    assert "--resume" not in capsys.readouterr().err


def test_another_run_is_refused_with_what_differs(tmp_path: Path) -> None:
    facts = {"recipe": {"seed": 0, "phases": [{"epochs": 2}], "head": {"hidden": [8]}}, "samples": "30"}
    start_and_kill(tmp_path / "run", **facts)
    start_and_kill(tmp_path / "run", resume=True, **facts)
    facts["recipe"]["phases"][0]["epochs"] = 3
    with pytest.raises(UsageError, match=r"phases.1.epochs 2. Received .* 3\..*without --resume"):
        start_and_kill(tmp_path / "run", resume=True, **facts)
    assert list(journal_folder(tmp_path / "run").glob("*.npz"))  # it can still be resumed as it was


def test_a_run_that_another_process_makes_is_left_alone(tmp_path: Path) -> None:
    with RunJournal.open(tmp_path / "run", resume=False, reporter=TERMINAL) as first:
        first.begin()
        for resume in (False, True):
            with (
                pytest.raises(EnvironmentFault, match=f"in use by process {os.getpid()}"),
                RunJournal.open(tmp_path / "run", resume=resume, reporter=TERMINAL),
            ):
                pass
        first.open_checkpoint("head").save(STATE, arrays())
    start_and_kill(tmp_path / "run", resume=True)


HOLDER = """
import sys
from pathlib import Path
from regraft.system.console import TERMINAL
from regraft.training.journal import RunJournal
with RunJournal.open(Path(sys.argv[1]), resume=False, reporter=TERMINAL) as journal:
    journal.begin()
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_folder_belongs_to_one_process_until_it_ends_or_is_killed(tmp_path: Path) -> None:
    out = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(out)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        for make in (regraft.train, regraft.search):
            with pytest.raises(EnvironmentFault, match=f"in use by process {holder.pid}") as caught:
                make(tmp_path / "images", Recipe(), out)  # that folder does not exist
            assert caught.value.exit_code == 4
    finally:
        holder.kill()
        holder.communicate()
    assert journal_folder(out).is_dir()  # the dead process's folder has no effect
    start_and_kill(out, seed=1)


def test_nothing_is_left_of_a_run_that_trained_nothing(tmp_path: Path) -> None:
    with RunJournal.open(tmp_path / "run", resume=False, reporter=TERMINAL) as journal:
        journal.begin()
        journal.check_inputs(seed=0)
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_may_replace_what_it_delivered_and_nothing_else(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    with RunJournal.open(out, resume=False, reporter=TERMINAL) as journal:
        journal.begin()
        journal.open_checkpoint("head").save(STATE, arrays())
        out.mkdir()
        (out / "manifest.json").write_text("{}")
        journal.record_delivery(out)
    for content, may in (("{}", True), ("{ }", False)):
        (out / "manifest.json").write_text(content)
        with RunJournal.open(out, resume=True, reporter=TERMINAL) as journal:
            assert journal.can_replace(out) == may
    with RunJournal.open(out, resume=False, reporter=TERMINAL) as journal:
        assert not journal.can_replace(out)


def test_a_full_disk_costs_the_checkpoint_and_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    phase = PhaseCheckpoint(tmp_path / "head.npz", reporter=TERMINAL, clock=lambda: now[0])
    phase.save({"number": 1}, arrays())
    now[0] = 1e6
    assert phase.is_due
    with full_disk():
        for _ in range(3):
            phase.save({"number": 2}, arrays())
    now[0] = 2e6
    assert not phase.is_due
    assert capsys.readouterr().err.count("No space left") == 1
    state, _ = read_checkpoint(tmp_path / "head.npz")
    assert state == {"number": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["head.npz"]


def test_writing_checkpoints_takes_a_twentieth_of_the_time_at_most(tmp_path: Path) -> None:
    now = [0.0]

    class SlowArray:
        """Numbers that take two seconds to arrive, as from a device."""

        dtype = np.dtype(np.float64)

        def __array__(self, *_: object, **__: object) -> np.ndarray:
            now[0] += 2.0
            return np.zeros(3)

    phase = PhaseCheckpoint(tmp_path / "now.npz", clock=lambda: now[0])
    written = []
    for _ in range(200):
        now[0] += 1.0
        if phase.is_due:
            phase.save({}, {"x": [SlowArray()]})
            written.append(now[0])
    assert written[0] == checkpoint.MIN_INTERVAL + 2.0
    assert min(np.diff(written)) >= 2.0 * checkpoint.WRITE_TIMES


def test_decisions_and_checkpoints_are_found_by_name_in_any_order(tmp_path: Path) -> None:
    names = ["head", "phase 1", "phase 1, deeper", "phase 2"]
    with RunJournal.open(tmp_path / "run", resume=False, reporter=TERMINAL) as journal:
        journal.begin()
        for number, name in enumerate(names):
            journal.decide(f"{name}: plan", lambda number=number: {"number": number})
            journal.open_checkpoint(name).save({"number": number}, arrays())
    files = {path.stem for path in journal_folder(tmp_path / "run").glob("*.npz")}
    assert files == {"head", "phase-1", "phase-1-deeper", "phase-2"}
    with RunJournal.open(tmp_path / "run", resume=True, reporter=TERMINAL) as journal:
        for number, name in reversed(list(enumerate(names))):
            assert journal.decide(f"{name}: plan", dict) == {"number": number}
            state, _ = journal.open_checkpoint(name).take_previous()
            assert state == {"number": number}


@pytest.mark.parametrize("state", ["{", "[]", '{"decisions": [{"epochs": 3}]}', '{"facts": 3}'])
def test_a_damaged_journal_is_refused(tmp_path: Path, state: str) -> None:
    start_and_kill(tmp_path / "run")
    (journal_folder(tmp_path / "run") / "run.json").write_text(state)
    with (
        pytest.raises(EnvironmentFault, match=r"damaged.*without --resume"),
        RunJournal.open(tmp_path / "run", resume=True, reporter=TERMINAL),
    ):
        pass
