"""What `regraft predict` and `regraft evaluate` hand on of their arguments."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from regraft.cli import app
from regraft.errors import UsageError
from regraft.inference.bundle import Prediction
from regraft.uncertainty.file import Uncertainty
from regraft.uncertainty.prediction_sets import ClassSets


def fit_few() -> ClassSets:
    return ClassSets(np.linspace(0, 1, 20), np.zeros(20, np.int64), 2)


class Recorder:
    """A model that notes what it is asked, and answers nothing."""

    def __init__(self) -> None:
        self.images: list[str] = []
        self.options: dict[str, Any] = {}
        self.answers: list[Prediction] = []
        self.coverage = 0.0
        self.path = Path("run")
        self.uncertainty: Uncertainty | None = Uncertainty(fit_few())

    def predict(self, images: list[str], *, coverage: float) -> list[Any]:
        self.images, self.coverage = images, coverage
        return self.answers

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


def make_answer(names: str, **changes: Any) -> Prediction:
    values = dict.fromkeys(names, 0.5)
    return Prediction("a.jpg", "multiclass", (names[0],), values, **changes)


@pytest.mark.parametrize("coverage", ["0", "1", "1.5"])
def test_a_coverage_outside_0_to_1_is_a_mistake(model: Recorder, coverage: str) -> None:
    error = call("predict", "run", "a.jpg", "--coverage", coverage).exception
    assert isinstance(error, UsageError)
    assert str(error) == (
        f"coverage: expected a share above 0 and below 1, such as 0.9. Received: {coverage}."
    )


def test_coverage_is_90_percent_unless_asked(model: Recorder) -> None:
    call("predict", "run", "a.jpg")
    assert model.coverage == 0.9
    call("predict", "run", "a.jpg", "--coverage", "0.8")
    assert model.coverage == 0.8


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ("h", ""),
        ("hs", "\tundecided between h and s at 95 %"),
        ("hst", "\tundecided between h, s and t at 95 %"),
        ("hstuvw", "\tundecided between h, s, t, u, v and 1 more at 95 %"),
    ],
)
def test_several_classes_in_a_set_are_named(model: Recorder, members: str, text: str) -> None:
    model.answers = [make_answer(members, set=tuple(members), undecided=len(members) > 1)]
    output = call("predict", "run", "a.jpg", "--coverage", "0.95").stdout
    assert output == f"a.jpg\th\t0.500{text}\n"


def test_numbers_stand_before_their_intervals(model: Recorder) -> None:
    interval = {"size": (10.1, 14.9), "age": (-float("inf"), float("inf"))}
    values = {"size": 12.3, "age": 4.0, "mass": 1.0}
    model.answers = [Prediction("a.jpg", "regression", (), values, interval=interval)]
    assert call("predict", "run", "a.jpg").stdout == (
        "a.jpg\tsize\t12.300 (10.100 to 14.900 at 90 %), "
        "age\t4.000 (too few held-out images for an interval at 90 %), mass\t1.000\n"
    )
    answer = json.loads(call("predict", "run", "a.jpg", "--json").stdout)
    assert answer["interval"] == {"size": [10.1, 14.9], "age": [None, None]}


def test_json_lists_the_set(model: Recorder) -> None:
    model.answers = [make_answer("hs", set=("h", "s"), undecided=True)]
    answer = json.loads(call("predict", "run", "a.jpg", "--json").stdout)
    assert (answer["set"], answer["undecided"], answer["interval"]) == (["h", "s"], True, {})


def test_a_run_without_sets_predicts_and_says_what_it_lacks(model: Recorder) -> None:
    model.answers = [make_answer("h")]
    for model.uncertainty in (None, Uncertainty()):
        asked = call("predict", "run", "a.jpg", "--coverage", "0.8")
        assert asked.stdout == "a.jpg\th\t0.500\n"
        message = "run holds no answers to held-out images, so answers come without sets and intervals."
        assert message in " ".join(asked.stderr.split())
        assert call("predict", "run", "a.jpg").stderr == ""
