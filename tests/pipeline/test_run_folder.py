"""The run folder: always complete, either old or new, and without weights that are not finite."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from regraft.errors import EnvironmentFault, ModelRefused, wrap_os_errors
from regraft.inference.model_files import _expect_finite
from regraft.metrics.intervals import Interval
from regraft.models.freeze import TrainableCount
from regraft.pipeline.outputs import claim_folder
from regraft.recipe import Phase
from regraft.training.loop import EpochRecord, PhaseResult
from regraft.training.outcome import Decision


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_model_with_a_weight_that_is_not_finite_is_not_written(value: float) -> None:
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(3, name="last"), keras.layers.Dropout(0.5)]
    )
    _expect_finite(model)
    kernel, bias = model.get_layer("last").get_weights()
    bias[1] = value
    model.get_layer("last").set_weights([kernel, bias])
    with pytest.raises(ModelRefused, match="last/bias holds numbers that are not finite"):
        _expect_finite(model)


def test_a_loss_that_is_not_finite_is_reported_with_a_rate_to_try() -> None:
    history = [
        EpochRecord(n, float("nan"), loss, 0.5, 0.01, 1.0) for n, loss in enumerate((0.7, float("nan")))
    ]
    fitted = PhaseResult(
        Phase("all", learning_rate=0.01), TrainableCount(1, 1), history=history, stopped="diverged"
    )
    reason = Decision.from_phases((fitted,), "top-1").reason
    assert "the loss became NaN or infinite in epoch 1" in reason
    assert "--learning-rate 0.001" in reason


def test_a_phase_that_improved_says_by_how_much_and_how_surely() -> None:
    history = [
        EpochRecord(n, 0.5, loss, score, 0.01, 1.0)
        for n, (loss, score) in enumerate(((0.7, 0.8), (0.5, 0.865)))
    ]
    fitted = PhaseResult(
        Phase("all"), TrainableCount(1, 1), history=history, best=1, gain=Interval(0.065, 0.03, 0.101)
    )
    reason = Decision.from_phases((fitted,), "top-1").reason
    assert (
        "a top-1 of 0.865 against 0.800, better by 6.5 points (95 % 3.0 to 10.1), after epoch 1 of 1."
        in reason
    )
    fitted.gain = Interval(0.0, -0.02, 0.02)
    assert "against 0.800, no better (95 % -2.0 to 2.0), after" in (
        Decision.from_phases((fitted,), "top-1").reason
    )


def test_leftovers_of_killed_runs_are_removed_and_folders_in_use_stay(tmp_path: Path) -> None:
    (tmp_path / ".run.writing-dead").mkdir()
    (tmp_path / ".run.writing-dead" / "model.keras").write_bytes(b"half")
    (tmp_path / ".other.writing-dead").mkdir()
    with claim_folder(tmp_path / "run", overwrite=False) as one:
        with claim_folder(tmp_path / "run", overwrite=False) as other:
            (other / "manifest.json").write_text("{}")
            assert one.is_dir()
        (one / "manifest.json").write_text("{}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".other.writing-dead", "run"]


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(EnvironmentFault, match="Nothing can be written to"),
        claim_folder(tmp_path / "file" / "run", overwrite=False),
    ):
        raise AssertionError("work began")


def test_a_fault_with_a_reason_is_passed_on_unchanged() -> None:
    with (
        pytest.raises(EnvironmentFault, match=r"^the disk: No space left on device\.$"),
        wrap_os_errors("the disk"),
    ):
        raise OSError(28, "No space left on device")
    with pytest.raises(EnvironmentFault, match=r"^no network$"), wrap_os_errors("the disk"):
        raise EnvironmentFault("no network")
