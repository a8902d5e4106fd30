"""A reporter that keeps what it is told, for tests that read it."""

from contextlib import contextmanager

from regraft.system.console import SilentReporter


class Recorder(SilentReporter):
    """Keep what is shown.

    Attributes:
        lines, warnings: the messages of each kind, in order.
        progress: title and units done of each bar, in order.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.warnings: list[str] = []
        self.progress: list[list] = []

    def info(self, text):
        self.lines.append(text)

    def warn(self, text):
        self.warnings.append(text)

    @contextmanager
    def track(self, title, total, *, unit="images"):
        bar = [title, 0]
        self.progress.append(bar)

        def advance(done):
            bar[1] += done

        yield advance
