"""Messages and progress bars on standard error, and text made safe to print.

Results go to standard output: the command line prints them, with `print_table` for tables.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "SILENT",
    "TERMINAL",
    "Advance",
    "Reporter",
    "SilentReporter",
    "escape_controls",
    "format_bytes",
    "format_duration",
    "format_names",
    "make_printable",
    "print_table",
]

MAX_NAMES = 12  # in a sentence
LINE_INTERVAL = 10.0  # seconds between two lines of progress without a terminal
RATE_SECONDS = 1.0  # after the first units, from which a rate means something
RATE_UNITS = 3  # that many more units have to be done by then
_BYTES = {"GB": 1e9, "MB": 1e6, "KB": 1e3}

Advance = Callable[[int], None]


class Reporter:
    """Show messages and progress bars on standard error.

    Functions that compute receive a reporter; nothing else prints there.
    """

    def info(self, text: str) -> None:
        """Show a message."""
        self._show(text)

    def warn(self, text: str) -> None:
        """Show a message that the user should act on."""
        self._show(text, style="yellow")

    def error(self, text: str) -> None:
        """Show the error that ended the program."""
        self._show(text, style="red")

    def start_stage(self, name: str) -> None:
        """Take note that a stage of a run begins; a terminal shows its messages instead."""

    def end_stage(self, name: str, seconds: float) -> None:
        """Take note that a stage of a run has ended."""

    def _show(self, text: str, *, style: str = "") -> None:
        _print(text, style=style)

    def track(
        self, title: str, total: int | None, *, unit: str = "images"
    ) -> AbstractContextManager[Advance]:
        """Show a progress bar with rate and time left; yield a function that advances it by n units.

        Args:
            title: the work in progress.
            total: number of units; None if unknown.
            unit: name of the units, in the plural.
        """
        return (_show_bar if _get_console().is_terminal else _print_lines)(title, total, unit)


class SilentReporter(Reporter):
    """Show nothing, for work that is repeated hundreds of times, as in cross-validation."""

    def _show(self, text: str, *, style: str = "") -> None:
        pass

    def track(
        self, title: str, total: int | None, *, unit: str = "images"
    ) -> AbstractContextManager[Advance]:
        """Return a context that shows no progress."""
        return nullcontext(lambda done: None)


TERMINAL, SILENT = Reporter(), SilentReporter()


@cache
def _get_console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _print(text: str, *, style: str = "") -> None:
    """Print `text` literally: markup and control codes in file names have no effect."""
    _get_console().print(escape_controls(text, keep="\n"), style=style or None, markup=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output: names in the first column, numbers in the others.

    Without a terminal no cell is cut off or wrapped.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for number, name in enumerate(header):
        table.add_column(Text(name), justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(escape_controls(cell)) for cell in row))
    console = Console(highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = 10_000
    console.print(table)


def make_printable(text: str) -> str:
    """Return a text as one printable line in the encoding of standard output."""
    encoding = sys.stdout.encoding or "utf-8"
    return escape_controls(text).encode(encoding, "backslashreplace").decode(encoding)


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return a text whose unprintable characters, except those to keep, are escape sequences.

    >>> escape_controls("a\tb\n", keep="\n")
    'a\\tb\n'
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def format_duration(seconds: float) -> str:
    """Return seconds in words.

    >>> format_duration(7.31), format_duration(95), format_duration(5400)
    ('7.3 s', '1 min 35 s', '1 h 30 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def format_bytes(size: float) -> str:
    """Return bytes in words.

    >>> format_bytes(37_632), format_bytes(4.21e7), format_bytes(1.2e10)
    ('38 KB', '42 MB', '12 GB')
    """
    unit, scale = next((item for item in _BYTES.items() if size >= 0.9995 * item[1]), ("bytes", 1))
    digits = 2 if unit == "GB" and size < 9.995 * scale else 0
    return f"{size / scale:.{digits}f} {unit}"


def format_names(names: Iterable[str], *, most: int = MAX_NAMES) -> str:
    """Return names separated by commas; if there are more than `most`, the first ones and how many follow.

    >>> format_names(["cat", "dog"]), format_names("abcd", most=2)
    ('cat, dog', 'a, b and 2 more')
    """
    listed = list(names)
    others = f" and {len(listed) - most:,} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + others


class _Pace:
    """The rate of some work, counted from its first units: what comes before them is preparation.

    Attributes:
        done: how many units are done.
    """

    def __init__(self) -> None:
        self.done = 0
        self._first: tuple[float, int] | None = None

    def advance(self, units: int) -> None:
        """Count units that are done."""
        self.done += units
        if self._first is None and self.done:
            self._first = time.monotonic(), self.done

    @property
    def rate(self) -> float | None:
        """Units a second; None as long as that would be a guess."""
        if self._first is None:
            return None
        start, units = self._first
        seconds, more = time.monotonic() - start, self.done - units
        return more / seconds if seconds >= RATE_SECONDS and more >= RATE_UNITS else None

    def estimate_left(self, total: int | None) -> str:
        """Return the time left in words; "" where it is not known."""
        rate = self.rate
        return "" if total is None or rate is None else f"{format_duration((total - self.done) / rate)} left"


def _format_rate(rate: float) -> str:
    return f"{rate:.0f}" if rate >= 9.5 else f"{rate:.1g}"


@contextmanager
def _show_bar(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[left]}"),
    )
    pace = _Pace()
    with Progress(*columns, console=_get_console()) as progress:
        task = progress.add_task(title, total=total, rate="", left="")

        def advance(n: int) -> None:
            pace.advance(n)
            rate = "" if pace.rate is None else f"{_format_rate(pace.rate)} {unit}/s"
            progress.update(task, advance=n, rate=rate, left=pace.estimate_left(total))

        yield advance


@contextmanager
def _print_lines(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    pace = _Pace()

    def advance(n: int) -> None:
        nonlocal last
        pace.advance(n)
        now = time.monotonic()
        if now - last >= LINE_INTERVAL and (total is None or pace.done < total):
            last = now
            amount = f"{pace.done} {unit}" if total is None else f"{pace.done} of {total} {unit}"
            rate = "" if pace.rate is None else f"{_format_rate(pace.rate)}/s"
            _print(f"{title}: {', '.join(filter(None, (amount, rate, pace.estimate_left(total))))}")

    yield advance
    seconds = time.monotonic() - start
    rate = _format_rate(pace.done / max(seconds, 1e-6))
    _print(f"{title}: {pace.done} {unit} in {format_duration(seconds)} ({rate}/s)")
