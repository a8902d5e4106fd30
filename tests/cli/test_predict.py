"""What `regraft predict` and `regraft evaluate` hand on of their arguments."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from regraft.cli import app
from regraft.errors import UsageError


class Recorder:
    """A model that notes what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.options: dict[str, Any] = {}

    def predict(self, images: list[str], *, coverage: float) -> list[Any]:
        self.images = images
        return []

    def evaluate(self, data: Path, **options: Any) -> list[Any]:
        self.options = options
        return []


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr("regraft.inference.bundle.load", lambda run, **options: recorder)
    return recorder


def call(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


@pytest.mark.parametrize(
    ("stdin", "paths"),
    [
        (b"a.jpg\nb c.jpg\n", ["a.jpg", "b c.jpg"]),
        (b"a.jpg\r\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"\n\na.jpg\n\n", ["a.jpg"]),
        (b"two\nlines.jpg\0b.jpg\0", ["two\nlines.jpg", "b.jpg"]),  # find -print0
        ("grün.jpg\n".encode() + b"\xff.jpg\n", ["grün.jpg", os.fsdecode(b"\xff.jpg")]),
    ],
)
def test_paths_are_read_from_standard_input(model: Recorder, stdin: bytes, paths: list[str]) -> None:
    assert call("predict", "run", "-", stdin=stdin).exit_code == 0
    assert model.images == paths


def test_paths_from_standard_input_stand_among_others(model: Recorder) -> None:
    call("predict", "run", "first.jpg", "-", "./-", stdin=b"second.jpg\n")
    assert model.images == ["first.jpg", "second.jpg", "./-"]  # the last is a file of that name


def test_standard_input_without_a_path_is_a_mistake(model: Recorder) -> None:
    error = call("predict", "run", "-", stdin=b"\n").exception
    assert isinstance(error, UsageError)
    assert "one a line. Received none." in str(error)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {}),
        (
            ["--image", "file", "--target", "label"],
            {"image": ("file",), "target": ("label",)},
        ),
        (["--target", "a,b", "--separator", "|"], {"target": ("a", "b"), "separator": "|"}),
        (["--root", "/data"], {"root": "/data"}),
    ],
)
def test_evaluate_names_the_columns_of_a_table(
    model: Recorder, options: list[str], expected: dict[str, Any]
) -> None:
    assert call("evaluate", "run", "table.csv", *options).exit_code == 0
    assert model.options == {"image": (), "target": (), "separator": "", "root": None, **expected}
