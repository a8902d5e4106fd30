"""Anything that is not a model is named and refused, never opened and never fetched."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from regraft.cli import app
from regraft.errors import ModelRefused, UsageError
from regraft.inference.bundle import load
from regraft.model_scan.archive import expect_local_path


def torch_file() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
    return buffer.getvalue()


FILES = {
    "model.pkl": (pickle.dumps({}), "a pickle"),
    "model.pt": (torch_file(), "a zip archive"),
    "old.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file"),
    "model.tflite": (b"\x1c\0\0\0TFL3", "a TensorFlow Lite model"),
    "archive.keras": (torch_file(), "a zip archive"),
    "noise.bin": (b"noise of any kind", "something else"),
    "empty.keras": (b"", "something else"),
}
FOLDERS = {
    "saved": ("saved_model.pb", "a SavedModel"),
    "orbax": ("_CHECKPOINT_METADATA", "a checkpoint of Orbax"),
    "preset": ("config.json", "a preset"),
    "tensorflow": ("checkpoint", "a checkpoint of TensorFlow"),
    "anything": ("readme", "not a finished run"),
}
ADDRESSES = ["hf://owner/model", "https://example.org/model.keras", "gs://bucket/run"]


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return each input with the text that its error must contain."""
    monkeypatch.chdir(tmp_path)
    for name, (data, _) in FILES.items():
        Path(name).write_bytes(data)
    for name, (member, _) in FOLDERS.items():
        Path(name).mkdir()
        (Path(name) / member).write_text("{}")
    return {name: expected for name, (_, expected) in [*FILES.items(), *FOLDERS.items()]} | dict.fromkeys(
        ADDRESSES, "never fetched"
    )


@pytest.mark.parametrize("command", ["predict", "evaluate", "inspect"])
def test_it_ends_with_exit_code_5(command: str, inputs: dict[str, str], tmp_path: Path) -> None:
    for name, expected in inputs.items():
        rest = [] if command == "inspect" else [str(tmp_path)]
        done = CliRunner().invoke(app, [command, name, *rest])
        if done.exception is None or isinstance(done.exception, SystemExit):
            assert (command, done.exit_code) == ("inspect", 5)
        else:
            assert isinstance(done.exception, ModelRefused), name
            assert expected in str(done.exception)


def test_a_path_that_is_not_there_is_a_mistake_of_spelling(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="There is nothing at"):
        load(tmp_path / "nowhere")


def test_a_model_without_its_run_folder_is_told_where_that_is(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "model.keras").write_bytes(torch_file())
    with pytest.raises(ModelRefused, match="give the folder it lies in"):
        load(tmp_path / "model.keras")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run")
    with pytest.raises(ModelRefused, match="a pipe"):
        load(tmp_path / "run")


@pytest.mark.parametrize("path", ["C:/runs/one", "run", "./hf:/x", "/hf/model"])
def test_a_path_is_no_address(path: str) -> None:
    expect_local_path(path, "a run")
