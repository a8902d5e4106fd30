"""The results of a benchmark as values, and what all benchmarks share: options, data and weights.

A benchmark prints its results, and writes them with --json FILE. `bench.py` runs all benchmarks and `page.py`
makes docs/benchmarks.md from their files.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = [
    "IMAGES", "MOBILENET", "SHARED", "Profile", "Row", "Sheet", "Side", "add_json", "are_present",
    "compute_ratios", "make_parser",
]  # fmt: skip

SHARED = Path(__file__).resolve().parents[2] / "shared"
IMAGES = SHARED / "images" / "clothing"
MOBILENET = SHARED / "weights" / "mobilenet_v2_imagenet_224_notop.weights.h5"


@dataclass(frozen=True)
class Side:
    """One of the things that are compared, with a value for each round."""

    name: str
    unit: str
    values: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """One line of the page: a value for each round, and the target for their median.

    Attributes:
        unit: "times", "%", "points", "yes" (1 or 0), or any other unit, printed as it is.
        at_least, at_most: the target, if there is one.
        remark: what a reader needs to know: that a figure is extrapolated, the number of images.
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
        """Whether the median meets its target; None if there is none."""
        if self.at_least is None and self.at_most is None:
            return None
        is_enough = self.at_least is None or self.median >= self.at_least
        return is_enough and (self.at_most is None or self.median <= self.at_most)


@dataclass(frozen=True)
class Profile:
    """Where the time goes: the parts of something, in one unit."""

    title: str
    unit: str
    parts: dict[str, float]


@dataclass
class Sheet:
    """All results of one benchmark."""

    rows: list[Row] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)

    def add(self, other: Sheet) -> None:
        """Append the results of another."""
        self.rows += other.rows
        self.profiles += other.profiles

    def write(self, path: Path | None) -> None:
        """Write the results as JSON, if a file is given."""
        if path:
            path.write_text(json.dumps(asdict(self), indent=1) + "\n", "utf-8")

    @classmethod
    def from_json(cls, content: dict) -> Sheet:
        """Return the sheet that `write` has written."""
        rows = []
        for row in content["rows"]:
            sides = tuple(Side(side["name"], side["unit"], tuple(side["values"])) for side in row["sides"])
            rows.append(Row(**{**row, "values": tuple(row["values"]), "sides": sides}))
        return cls(rows, [Profile(**profile) for profile in content["profiles"]])


def compute_ratios(slow: Sequence[float], fast: Sequence[float]) -> tuple[float, ...]:
    """Return how many times faster one side is in each round: both were measured one after the other."""
    return tuple(one / other for one, other in zip(slow, fast, strict=True))


def make_parser(doc: str) -> argparse.ArgumentParser:
    """Return a parser with the option that every benchmark has, and the module's docstring as its help."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=doc, formatter_class=formatter)
    add_json(parser)
    return parser


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option that every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="file for rows and profiles")


def are_present(*paths: Path | str) -> bool:
    """Return whether all files exist ("random" stands for weights that need none), and print which do not."""
    missing = [str(path) for path in paths if str(path) != "random" and not Path(path).exists()]
    if missing:
        print(f"skipped: {', '.join(missing)} not found")
    return not missing
