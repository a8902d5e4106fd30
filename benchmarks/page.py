"""Write docs/benchmarks.md from the results of the benchmarks.

The reason why a row misses its target is written by hand, in the docstring of its benchmark, as

    What bounds it:
        the beginning of the row's name: a sentence or two,
            which continue on lines that are indented further.
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
QUIET = 0.1  # processors that other programs may keep busy on an idle machine
HEAD = """\
# Benchmarks

Written by `make bench`, from images of clothing and networks with real or random weights; do not edit it by
hand. "The recipe" is Keras' transfer-learning guide as a newcomer would write it,
`benchmarks/guide_recipe.py`.

Both sides of a comparison run in turn, in one sitting, and each round gives a ratio. The columns give the
median over the rounds and their range. Ratios carry over to another machine better than seconds. Each row
says when it was measured, and at which commit: the last one that changed regraft or the benchmark.
"""


def write(files: Sequence[Path]) -> None:
    """Write the page of the results that exist, in this order."""
    results = [json.loads(file.read_text("utf-8")) for file in files if file.exists()]
    missing = ", ".join(file.stem for file in files if not file.exists())
    text = [*iter_lines(results), *([f"Not measured yet: {missing}."] if missing else [])]
    PAGE.write_text("\n".join(text).rstrip() + "\n", "utf-8")


def iter_lines(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the lines of the page."""
    yield HEAD
    yield from iter_warnings(results)
    machines = drop_repeats([{**result["machine"], **result["versions"]} for result in results])
    yield from iter_machines(machines)
    yield from iter_table(results, machines)
    yield from iter_shortfalls(results)
    yield "## Where the time goes\n"
    for result in results:
        yield from iter_details(result)


def iter_warnings(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Warn of conditions under which figures mean less."""
    loads = [result["load"] for result in results if result["load"]["others"] > QUIET]
    if loads:
        others, before = ([load[fact] for load in loads] for fact in ("others", "before"))
        yield (
            f"**{len(loads)} of {len(results)} benchmarks ran while other programs were at work**, which "
            f"kept {min(others):.1f} to {max(others):.1f} processors busy on average; the load average "
            f"before each was {min(before):.1f} to {max(before):.1f}. Their figures are provisional, ratios "
            "too; they are marked *loaded*.\n"
        )
    if any(result["quick"] for result in results):
        yield (
            "**Rows marked *quick* are from the quick form** (`make bench QUICK=1`: few images, one round; "
            "FEW is a folder with every eighth of them), which shows that a benchmark works but measures "
            "little; they are not compared with the targets.\n"
        )


def drop_repeats(machines: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return each machine, with its versions, once."""
    return [machine for number, machine in enumerate(machines) if machine not in machines[:number]]


def iter_machines(machines: Sequence[dict[str, str]]) -> Iterator[str]:
    yield "## Machine and versions\n"
    names = list(dict.fromkeys(name for machine in machines for name in machine))
    heads = [f"machine {number}" if len(machines) > 1 else "" for number, _ in enumerate(machines, 1)]
    yield format_cells(["", *heads])
    yield format_cells(["---"] * (1 + len(machines)))
    for name in names:
        yield format_cells([name, *(machine.get(name, "") for machine in machines)])
    yield ""


def iter_table(results: Sequence[dict[str, Any]], machines: Sequence[dict[str, str]]) -> Iterator[str]:
    """Yield a line for each row of each benchmark."""
    yield "## Targets and measurements\n"
    yield format_cells(
        ["what", "target", "measured", "lowest to highest", "", "compared", "when, which commit"]
    )
    yield format_cells(["---"] * 7)
    for result in results:
        number = machines.index({**result["machine"], **result["versions"]}) + 1
        when = f"{result['date']}, {result['commit'] or 'no commit'}"
        when += f", machine {number}" if len(machines) > 1 else ""
        for row in Sheet.from_json(result["sheet"]).rows:
            met = "" if result["quick"] else {True: "met", False: "**short**", None: ""}[row.met]
            yield format_cells(
                [*format_figures(row), met, format_sides(row), f"{when}{format_marks(result)}"]
            )
    yield ""


def format_figures(row: Row) -> list[str]:
    """Return a row's name, target, median and range."""
    median, spread = format_number(row.median, row.unit), format_range(row.values, row.unit)
    return [row.name, format_target(row), f"**{median}**", spread]


def format_sides(row: Row) -> str:
    """Return both sides of a ratio, and the remark."""
    sides = []
    for side in row.sides:
        spread = f" ({format_range(side.values, '')})" if len(side.values) > 1 else ""
        sides.append(f"{side.name} {format_number(statistics.median(side.values), side.unit)}{spread}")
    return "; ".join(text for text in (", ".join(sides), row.remark) if text)


def format_target(row: Row) -> str:
    if row.at_least is not None and row.at_least == row.at_most:
        return format_number(row.at_least, row.unit)
    if row.unit == "yes":
        return "yes"
    if row.at_least is not None:
        return f"at least {format_number(row.at_least, row.unit)}"
    return "" if row.at_most is None else f"at most {format_number(row.at_most, row.unit)}"


def format_number(value: float, unit: str) -> str:
    """Return a number with its significant digits and its unit."""
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


def format_range(values: Sequence[float], unit: str) -> str:
    """Return the lowest and the highest of several values."""
    return (
        f"{format_number(min(values), '')} to {format_number(max(values), unit)}" if len(values) > 1 else ""
    )


def format_marks(result: dict[str, Any]) -> str:
    quick = ", *quick*" if result["quick"] else ""
    return quick + (", *loaded*" if result["load"]["others"] > QUIET else "")


def iter_shortfalls(results: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield why each row misses its target, in the words of its benchmark."""
    missed = [
        (row, read_bounds(HERE / result["script"]))
        for result in results
        for row in Sheet.from_json(result["sheet"]).rows
        if row.met is False and not result["quick"]
    ]
    if not missed:
        return
    yield "## Missed targets\n"
    for row, sentences in missed:
        reasons = [text for start, text in sentences.items() if row.name.startswith(start)]
        measured = f"{format_number(row.median, row.unit)}, target {format_target(row)}"
        yield f"- {row.name}: {measured}. {' '.join(reasons) or 'The reason is not written down yet.'}"
    yield ""


def read_bounds(script: Path) -> dict[str, str]:
    """Return the reasons in a benchmark's docstring, by the beginning of the row's name."""
    _, _, section = read_docstring(script).partition("What bounds it:\n")
    reasons: dict[str, str] = {}
    for line in textwrap.dedent(section.split("\n\n")[0]).splitlines():
        if line.startswith(" ") and reasons:
            reasons[list(reasons)[-1]] += f" {line.strip()}"
        else:
            start, _, text = line.partition(": ")
            reasons[start] = text.strip()
    return reasons


def read_docstring(script: Path) -> str:
    return ast.get_docstring(ast.parse(script.read_text("utf-8"))) or ""


def iter_details(result: dict[str, Any]) -> Iterator[str]:
    """Yield the command of a benchmark, how long it took, and where the time went."""
    load = result["load"]
    yield f"### {result['benchmark']}\n"
    yield read_docstring(HERE / result["script"]).splitlines()[0] + "\n"
    command = f"python benchmarks/{result['script']} {result['options']}".strip()
    yield (
        f"`{command}` took {result['took'] / 60:.1f} minutes; load average before {load['before']:.1f}, "
        f"other programs kept {load['others']:.1f} processors busy.\n"
    )
    for profile in Sheet.from_json(result["sheet"]).profiles:
        yield from iter_parts(profile)
    if result["text"]:
        yield f"```text\n{result['text'].strip()}\n```\n"


def iter_parts(profile: Profile) -> Iterator[str]:
    yield format_cells([profile.title, profile.unit])
    yield format_cells(["---", "---:"])
    for name, value in profile.parts.items():
        yield format_cells([name, format_number(value, "")])
    yield ""


def format_cells(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
