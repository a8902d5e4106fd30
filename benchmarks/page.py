"""docs/benchmarks.md, made of what the benchmarks found.

What bounds a row that misses its figure is written by hand, in the docstring of its benchmark, as

    What bounds it:
        the beginning of the row's name: a sentence or two,
            which go on where a line is indented further.
"""

from __future__ import annotations

import ast
import json
import statistics
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rows import Profile, Row, Sheet

__all__ = ["write"]

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
QUIET = 0.1  # processors kept busy by other programs, up to which a machine counts as idle
HEAD = """\
# Benchmarks

Made by `make bench`, on photographs of clothing and on networks of real or random weights; not edited by
hand. "The recipe" is Keras' transfer-learning guide as a newcomer types it, `benchmarks/guide_recipe.py`.

What is compared runs in turn, in one sitting; a ratio is taken round by round. The columns give the median
over the rounds, and from the lowest to the highest. Ratios carry over to another machine better than seconds.
Each row says when it was measured, and of which commit: the last that changed regraft or that benchmark.
"""


def write(files: Sequence[Path]) -> None:
    """Make the page of those results that are there, in this order."""
    results = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    missing = ", ".join(file.stem for file in files if not file.exists())
    told = [*lines(results), *([f"Not measured yet: {missing}."] if missing else [])]
    PAGE.write_text("\n".join(told).rstrip() + "\n", "utf-8")


def lines(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The page, line by line."""
    yield HEAD
    yield from warnings(results)
    places = distinct([{**each["machine"], **each["versions"]} for each in results])
    yield from machines(places)
    yield from table(results, places)
    yield from shortfalls(results)
    yield "## Where the time goes\n"
    for result in results:
        yield from details(result)


def warnings(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What makes figures worth less than they look."""
    loads = [each["load"] for each in results if each["load"]["others"] > QUIET]
    if loads:
        others, before = ([load[fact] for load in loads] for fact in ("others", "before"))
        yield (
            f"**{len(loads)} of {len(results)} benchmarks ran while other programs were at work**, which "
            f"kept {min(others):.1f} to {max(others):.1f} processors busy on average; the load average "
            f"before each was {min(before):.1f} to {max(before):.1f}. Their figures are provisional, ratios "
            "too; they are marked *loaded*.\n"
        )
    if any(each["quick"] for each in results):
        yield (
            "**Rows marked *quick* are from the quick form** (`make bench QUICK=1`: few photographs, one "
            "round; FEW is a folder with every eighth of them), which proves that the benchmark works and "
            "measures little; they are not held against what was asked.\n"
        )


def distinct(places: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Each machine, with its versions, once."""
    return [place for number, place in enumerate(places) if place not in places[:number]]


def machines(places: Sequence[dict[str, str]]) -> Iterator[str]:
    yield "## Machine and versions\n"
    names = list(dict.fromkeys(name for place in places for name in place))
    heads = [f"machine {number}" if len(places) > 1 else "" for number, _ in enumerate(places, 1)]
    yield row_of(["", *heads])
    yield row_of(["---"] * (1 + len(places)))
    for name in names:
        yield row_of([name, *(place.get(name, "") for place in places)])
    yield ""


def table(results: Sequence[dict[str, Any]], places: Sequence[dict[str, str]]) -> Iterator[str]:
    """A line for each row of each benchmark."""
    yield "## What was asked, what was measured\n"
    yield row_of(["what", "asked", "measured", "lowest to highest", "", "compared", "when, which commit"])
    yield row_of(["---"] * 7)
    for result in results:
        number = places.index({**result["machine"], **result["versions"]}) + 1
        when = f"{result['date']}, {result['commit'] or 'no commit'}"
        when += f", machine {number}" if len(places) > 1 else ""
        for row in Sheet.of(result["sheet"]).rows:
            met = "" if result["quick"] else {True: "met", False: "**short**", None: ""}[row.met]
            yield row_of([*cells(row), met, compared(row), f"{when}{marks(result)}"])
    yield ""


def cells(row: Row) -> list[str]:
    """What was measured, against what was asked."""
    median, several = number(row.median, row.unit), spread(row.values, row.unit)
    return [row.name, asked(row), f"**{median}**", several]


def compared(row: Row) -> str:
    """Both sides of a ratio, and what has to be known to read it."""
    sides = []
    for side in row.sides:
        several = f" ({spread(side.values, '')})" if len(side.values) > 1 else ""
        sides.append(f"{side.name} {number(statistics.median(side.values), side.unit)}{several}")
    return "; ".join(text for text in (", ".join(sides), row.remark) if text)


def asked(row: Row) -> str:
    if row.at_least is not None and row.at_least == row.at_most:
        return number(row.at_least, row.unit)
    if row.unit == "yes":
        return "yes"
    if row.at_least is not None:
        return f"at least {number(row.at_least, row.unit)}"
    return "" if row.at_most is None else f"at most {number(row.at_most, row.unit)}"


def number(value: float, unit: str) -> str:
    """With as many digits as say something."""
    if unit == "yes":
        return "yes" if value else "no"
    size = abs(value)
    if value == int(value) or size >= 1000:
        digits = f"{value:,.0f}"
    elif size < 0.01:
        digits = f"{value:.1e}".replace("e-0", "e-").replace(".0e", "e")
    else:
        digits = f"{value:.{2 if size < 10 else 1 if size < 100 else 0}f}"
    return f"{digits} {unit}".rstrip()


def spread(values: Sequence[float], unit: str) -> str:
    """From the lowest to the highest, of more than one."""
    return f"{number(min(values), '')} to {number(max(values), unit)}" if len(values) > 1 else ""


def marks(result: dict[str, Any]) -> str:
    quick = ", *quick*" if result["quick"] else ""
    return quick + (", *loaded*" if result["load"]["others"] > QUIET else "")


def shortfalls(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What bounds each row that misses its figure, in the words of its benchmark."""
    missed = [
        (row, bounds(result["script"]))
        for result in results
        for row in Sheet.of(result["sheet"]).rows
        if row.met is False and not result["quick"]
    ]
    if not missed:
        return
    yield "## Short of what was asked\n"
    for row, sentences in missed:
        said = [text for start, text in sentences.items() if row.name.startswith(start)]
        measured = f"{number(row.median, row.unit)} where {asked(row)} was asked"
        yield f"- {row.name}: {measured}. {' '.join(said) or 'What bounds it is not written down yet.'}"
    yield ""


def bounds(script: str) -> dict[str, str]:
    """The sentences in a benchmark's docstring, by the beginning of the row's name."""
    _, _, section = docstring(script).partition("What bounds it:\n")
    found: dict[str, str] = {}
    for line in textwrap.dedent(section.split("\n\n")[0]).splitlines():
        if line.startswith(" ") and found:
            found[list(found)[-1]] += f" {line.strip()}"
        else:
            start, _, text = line.partition(": ")
            found[start] = text.strip()
    return found


def docstring(script: str) -> str:
    return ast.get_docstring(ast.parse((HERE / script).read_text("utf-8"))) or ""


def details(result: dict[str, Any]) -> Iterator[str]:
    """The command of a benchmark, how long it took, and where the time went."""
    load = result["load"]
    yield f"### {result['benchmark']}\n"
    yield docstring(result["script"]).splitlines()[0] + "\n"
    command = f"python benchmarks/{result['script']} {result['options']}".strip()
    yield (
        f"`{command}` took {result['took'] / 60:.1f} minutes; load average before {load['before']:.1f}, "
        f"other programs kept {load['others']:.1f} processors busy.\n"
    )
    for profile in Sheet.of(result["sheet"]).profiles:
        yield from parts(profile)
    if result["text"]:
        yield f"```text\n{result['text'].strip()}\n```\n"


def parts(profile: Profile) -> Iterator[str]:
    yield row_of([profile.title, profile.unit])
    yield row_of(["---", "---:"])
    for name, value in profile.parts.items():
        yield row_of([name, number(value, "")])
    yield ""


def row_of(cells_: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells_)} |"
