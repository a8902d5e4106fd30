"""Messages and progress on standard error, where nothing in a file's name has an effect."""

import pytest

from regraft.system import console
from regraft.system.console import SILENT, TERMINAL, format_duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves by hand."""
    now = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])

    def move(seconds):
        now[0] += seconds

    return move


@pytest.fixture
def terminal(monkeypatch):
    """Standard error as a terminal of a hundred columns, as on a build server."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")


def test_messages_go_to_standard_error(capsys):
    TERMINAL.info("hello")
    assert capsys.readouterr() == ("", "hello\n")


def test_a_long_line_is_not_broken(capsys):
    TERMINAL.info("x y " * 100)
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[red]a[/red] [/]", "[red]a[/red] [/]"),
        (":cat: photos", ":cat: photos"),
        ("a\x1b[2Jb\x07", "a\\x1b[2Jb\\x07"),
        ("a\tb\rc", "a\\tb\\rc"),
        ("\udcff.jpg", "\\udcff.jpg"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("größe 猫", "größe 猫"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_names_are_printed_literally(capsys, text, shown):
    TERMINAL.error(text)
    assert capsys.readouterr().err == shown + "\n"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0 s"),
        (7.31, "7.3 s"),
        (59.97, "1 min"),
        (95, "1 min 35 s"),
        (120, "2 min"),
        (3599.9, "1 h 0 min"),
        (5400, "1 h 30 min"),
    ],
)
def test_durations_are_in_words(seconds, words):
    assert format_duration(seconds) == words


def test_without_a_terminal_progress_is_a_line_now_and_then_and_one_at_the_end(capsys, clock):
    with TERMINAL.track("Reading", 100) as advance:
        for _ in range(100):
            clock(0.5)
            advance(1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Reading: 20 of 100 images, 2/s, 40.0 s left"
    assert lines[-1] == "Reading: 100 images in 50.0 s (2/s)"
    assert len(lines) == 5


def test_progress_that_stands_still_is_no_error(capsys, clock):
    with TERMINAL.track("Reading", 100) as advance:
        clock(20)
        advance(0)
    assert "Reading: 0 of 100" in capsys.readouterr().err


def test_a_failure_within_is_not_reported_as_done(capsys):
    with pytest.raises(OSError, match="gone"), TERMINAL.track("Reading", 100):
        raise OSError("gone")
    assert capsys.readouterr().err == ""


def test_on_a_terminal_progress_is_a_bar_with_a_rate(terminal, clock, capsys):
    with TERMINAL.track("Reading", 20, unit="files") as advance:
        advance(5)
        clock(2)
        advance(10)
        clock(1)
        advance(5)
    shown = capsys.readouterr().err
    assert "Reading" in shown
    assert "20/20" in shown
    assert "5 files/s" in shown


def test_a_bar_shows_no_rate_before_it_means_something(terminal, clock, capsys):
    """The first image may come after a minute, when the network is compiled; the next ones come at once."""
    with TERMINAL.track("Reading", 1372) as advance:
        clock(60)
        advance(1)
        advance(50)
    shown = capsys.readouterr().err
    assert "/s" not in shown
    assert "left" not in shown


def test_lines_show_no_rate_before_it_means_something(clock, capsys):
    with TERMINAL.track("Reading", 1372) as advance:
        clock(60)
        advance(1)
        clock(10)
        advance(99)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "Reading: 1 of 1372 images"
    assert second == "Reading: 100 of 1372 images, 10/s, 2 min 8 s left"
    assert last.startswith("Reading: 100 images in 1 min 10 s")


def test_slow_work_has_a_rate_too(capsys, clock):
    with TERMINAL.track("Reading", 100) as advance:
        for _ in range(4):
            clock(20)
            advance(1)
    assert "4 of 100 images, 0.05/s, 32 min left" in capsys.readouterr().err


def test_a_silent_reporter_shows_nothing(capsys):
    SILENT.info("hidden")
    SILENT.warn("hidden")
    SILENT.error("hidden")
    with SILENT.track("Hidden", 1) as advance:
        advance(1)
    TERMINAL.info("shown")
    assert capsys.readouterr().err == "shown\n"
