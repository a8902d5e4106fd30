"""What shells and programs meet: exit codes in the help, completion, and JSON while a run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import write_photos
from typer.testing import CliRunner

from regraft.cli import app
from regraft.errors import (
    DataError,
    EnvironmentFault,
    ModelRefused,
    RegraftError,
    UsageError,
)


def test_the_help_lists_every_exit_code() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    for kind in (RegraftError, UsageError, DataError, EnvironmentFault, ModelRefused):
        assert f"{kind.exit_code}  " in text
    for code in ("130  Ctrl-C", "143  SIGTERM"):
        assert code in text
    assert max(map(len, text.splitlines())) <= 80


def complete(**variables: str) -> str:
    """Run the program as a shell does that asks for completions."""
    code = "import sys; sys.argv = ['regraft']; from regraft.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=False, env={**os.environ, **variables},
    ).stdout  # fmt: skip


@pytest.mark.slow
def test_shells_complete_commands_and_options() -> None:
    for words, expected in (("regraft tr", "train"), ("regraft train --unfr", "--unfreeze")):
        position = str(len(words.split()) - 1)
        asked = {"_REGRAFT_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": position}
        assert complete(**asked).split() == [expected]
    for shell in ("bash", "zsh", "fish"):
        assert f"complete_{shell}" in complete(_REGRAFT_COMPLETE=f"source_{shell}")


@pytest.mark.slow
def test_a_program_follows_a_run(network_file: Path, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", each=6)
    arguments = ["train", photos, "-o", tmp_path / "run", "--backbone", network_file, "--unfreeze", "none"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    events = [json.loads(line) for line in result.stdout.splitlines()]
    ended = [event["name"] for event in events if event["event"] == "stage" and event["state"] == "done"]
    assert ended == ["list", "load", "features", "head", "fine-tune", "refit", "evaluate"]
    started = [event["name"] for event in events if event.get("state") == "started"]
    assert started == ended
    assert events[-1]["event"] == "done"
    assert Path(events[-1]["report"]).is_file()
    assert events[-1]["metrics"] == json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert "message" in {event["event"] for event in events}
    quiet = [*map(str, arguments), "--quiet", "--overwrite"]
    result = CliRunner().invoke(app, quiet, catch_exceptions=False)
    assert "top1" in result.stdout
    assert "Head solved" not in result.output


def test_json_and_quiet_contradict_each_other(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(tmp_path), "--json", "--quiet"])
    assert isinstance(result.exception, UsageError)
