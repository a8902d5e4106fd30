"""What a person sees while work goes on: lines and progress bars, on standard error.

Results go to standard output and are the command line's business, tables of them excepted.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "SILENT",
    "TERMINAL",
    "Reporter",
    "SilentReporter",
    "amount",
    "duration",
    "escape_controls",
    "print_table",
    "printable",
]

PLAIN_EVERY = 10.0  # seconds between two lines of progress where there is no terminal

Advance = Callable[[int], None]


class Reporter:
    """Show messages and progress bars on standard error.

    Whatever computes is given a reporter and calls it; nothing else prints there.
    """

    def info(self, text: str) -> None:
        """Show a message."""
        self._show(text)

    def warn(self, text: str) -> None:
        """Show a message that the user should act on."""
        self._show(text, style="yellow")

    def error(self, text: str) -> None:
        """Show what ended the program."""
        self._show(text, style="red")

    def _show(self, text: str, *, style: str = "") -> None:
        _print(text, style=style)

    def track(
        self, title: str, total: int | None, *, unit: str = "images"
    ) -> AbstractContextManager[Advance]:
        """Show a progress bar with rate and time left; yield the function that moves it on by so many units.

        Args:
            title: what is going on.
            total: how many units there are; None where nobody knows.
            unit: their name, in the plural.
        """
        return (_bar if _console().is_terminal else _lines)(title, total, unit)


class SilentReporter(Reporter):
    """Show nothing: for work that is one of hundreds, as in a cross-validation."""

    def _show(self, text: str, *, style: str = "") -> None:
        pass

    def track(
        self, title: str, total: int | None, *, unit: str = "images"
    ) -> AbstractContextManager[Advance]:
        """Return a context whose progress nobody sees."""
        return nullcontext(lambda done: None)


TERMINAL, SILENT = Reporter(), SilentReporter()


@cache
def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


def _print(text: str, *, style: str = "") -> None:
    """Show `text` as it is: markup or control codes in a file's name are not obeyed."""
    _console().print(escape_controls(text, keep="\n"), style=style or None, markup=False)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output: names in the first column, numbers in the others.

    Where nobody watches, no cell is cut off or wrapped.
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


def printable(text: str) -> str:
    """Return a text as one printable line in the encoding of standard output."""
    encoding = sys.stdout.encoding or "utf-8"
    return escape_controls(text).encode(encoding, "backslashreplace").decode(encoding)


def escape_controls(text: str, *, keep: str = "") -> str:
    r"""Return a text with what cannot be printed as escape sequences, but for the characters to keep.

    >>> escape_controls("a\tb\n", keep="\n")
    'a\\tb\n'
    """
    return "".join(
        char if char.isprintable() or char in keep else char.encode("unicode_escape").decode()
        for char in text
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(7.31), duration(95), duration(5400)
    ('7.3 s', '1 min 35 s', '1 h 30 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def amount(size: float) -> str:
    """Bytes as a person says them.

    >>> amount(37_632), amount(4.21e7), amount(1.2e10)
    ('38 KB', '42 MB', '12 GB')
    """
    unit = next((unit for unit in ("GB", "MB", "KB") if size >= 0.9995 * _BYTES[unit]), "bytes")
    return f"{size / _BYTES[unit]:.{2 if size < 9.995 * _BYTES[unit] and unit == 'GB' else 0}f} {unit}"


_BYTES = {"bytes": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9}


@contextmanager
def _bar(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    start = time.monotonic()
    with Progress(*columns, console=_console()) as progress:
        task = progress.add_task(title, total=total, rate="")

        def advance(n: int) -> None:
            done = progress.tasks[task].completed + n
            rate = done / max(time.monotonic() - start, 1e-6)
            progress.update(task, advance=n, rate=f"{rate:.0f} {unit}/s")

        yield advance


@contextmanager
def _lines(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    done = 0

    def advance(n: int) -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= PLAIN_EVERY and (total is None or done < total):
            last = now
            rate = max(done, 1) / (now - start)
            known = "" if total is None else f" of {total}"
            left = "" if total is None else f", {duration((total - done) / rate)} left"
            _print(f"{title}: {done}{known} {unit}, {rate:.0f}/s{left}")

    yield advance
    seconds = time.monotonic() - start
    _print(f"{title}: {done} {unit} in {duration(seconds)} ({done / max(seconds, 1e-6):.0f}/s)")
