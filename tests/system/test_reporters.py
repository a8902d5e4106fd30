"""What programs read: JSON lines of stages and progress; quiet runs; colours that the user turned off."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from regraft.pipeline.context import Context
from regraft.system import console, reporters
from regraft.system.console import TERMINAL
from regraft.system.reporters import JsonReporter, QuietReporter


def test_stages_messages_and_progress_are_one_object_a_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    now = iter([0.0, 0.0, 0.5, 1.5, 1.5])
    monkeypatch.setattr(reporters.time, "monotonic", lambda: next(now, 2.0))
    context = Context.open(tmp_path / "store", reporter=JsonReporter())
    with context.time_stage("list"):
        context.reporter.info("two\nlines \udcff")
        context.reporter.warn("careful")
    with context.reporter.track("Listing", 7, unit="files") as advance:
        for units in (1, 2, 4):
            advance(units)
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert [event["event"] for event in events[:4]] == ["stage", "message", "warning", "stage"]
    assert events[0] == {"event": "stage", "name": "list", "state": "started"}
    assert (events[3]["state"], set(events[3])) == ("done", {"event", "name", "state", "seconds"})
    progress = [event["done"] for event in events[4:]]
    assert (progress[0], progress[-1]) == (0, 7)
    assert progress == sorted(progress)
    assert {(event["total"], event["unit"]) for event in events[4:]} == {(7, "files")}


def test_a_quiet_run_shows_warnings_alone(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = QuietReporter()
    reporter.info("chat")
    with reporter.track("Working", 3) as advance:
        advance(3)
    reporter.warn("careful")
    assert capsys.readouterr() == ("", "careful\n")


@pytest.fixture
def coloured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Standard error as a terminal with colours."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console._get_console.cache_clear()
    yield
    console._get_console.cache_clear()


def test_no_color_is_respected(
    coloured: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    TERMINAL.warn("careful")
    assert "\x1b[33m" in capsys.readouterr().err
    monkeypatch.setenv("NO_COLOR", "1")
    console._get_console.cache_clear()
    TERMINAL.warn("careful")
    TERMINAL.error("over")
    assert capsys.readouterr().err == "careful\nover\n"
