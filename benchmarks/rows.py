"""What a benchmark found, as values: rows for the table, and where the time goes.

A benchmark prints for whoever looks on, and writes the same with --json FILE; `bench.py` runs them all and
`page.py` makes docs/benchmarks.md of what they wrote.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["Profile", "Row", "Sheet", "Side", "add_json", "ratios"]


@dataclass(frozen=True)
class Side:
    """One of the things compared: a value a round."""

    name: str
    unit: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One line of the page: a value a round, and what was asked of their median.

    Attributes:
        unit: "times", "%", "points", "yes" (1 or 0), or any unit that is printed as it is.
        remark: what a reader has to know to read the number: extrapolated, imitated, of how many images.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    at_least: float | None = None
    at_most: float | None = None
    sides: tuple[Side, ...] = ()
    remark: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median is what was asked; None where nothing was."""
        if self.at_least is None and self.at_most is None:
            return None
        enough = self.at_least is None or self.median >= self.at_least
        return enough and (self.at_most is None or self.median <= self.at_most)


@dataclass(frozen=True)
class Profile:
    """Where the time of something goes: its parts in one unit."""

    title: str
    unit: str
    parts: dict[str, float]


@dataclass
class Sheet:
    """All that one benchmark found."""

    rows: list[Row] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)

    def add(self, other: Sheet) -> None:
        """What another found, behind it."""
        self.rows += other.rows
        self.profiles += other.profiles

    def write(self, path: Path | None) -> None:
        """As JSON, where a file was asked for."""
        if path:
            path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def of(cls, read: dict) -> Sheet:
        """What `write` wrote, read as JSON."""
        rows = [
            Row(
                **{
                    **row,
                    "values": tuple(row["values"]),
                    "sides": tuple(_side(side) for side in row["sides"]),
                }
            )
            for row in read["rows"]
        ]
        return cls(rows, [Profile(**profile) for profile in read["profiles"]])


def _side(read: dict) -> Side:
    return Side(read["name"], read["unit"], tuple(read["values"]))


def ratios(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, ...]:
    """How many times faster, round by round: both sides of each were measured one after the other."""
    return tuple(one / other for one, other in zip(slow, fast, strict=True))


def add_json(parser: argparse.ArgumentParser) -> None:
    """The option that every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write rows and profiles there as well")
