"""Parse the output of the benchmarks that write no file.

A line that does not match gives no row. The page shows the whole output of such a benchmark, so nothing is
lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rows import Profile, Row, Sheet, Side

__all__ = ["parse_finetune", "parse_startup", "parse_taps"]

SPREAD = r"([\d.]+) s\s+\(([\d.]+) to ([\d.]+)\)"
PART = re.compile(r"([^,:]+?) ([\d.]+)(?:, |$)")


def parse_startup(text: str) -> Sheet:
    """Return the seconds of whole processes and of their parts."""
    names = {
        "regraft predict, one image": ("`predict` of one photograph, a cold process", 1.5),
        "regraft train, everything stored": ("`train --unfreeze none`, everything stored", None),
    }
    sheet = Sheet()
    for printed, *seconds, busy in re.findall(
        rf"^(\S.*?)\s+{SPREAD}\s+processor\s+([\d.]+) s", text, re.MULTILINE
    ):
        name, limit = names.get(printed, (f"for comparison: {printed}", None))
        sides = (Side("of processors", "s", (float(busy),)),)
        sheet.rows.append(Row(name, "s", _spread(seconds), at_most=limit, sides=sides))
    if imported := re.search(r"^imports of predict.*$", text, re.MULTILINE):
        is_clean = not re.search(r"\b(keras|tensorflow|jax|torch)\b", imported[0])
        sheet.rows.append(Row("`predict` imports no backend", "yes", (float(is_clean),), at_least=1))
    sheet.profiles += _parse_profiles(text)
    return sheet


def _parse_profiles(text: str) -> Iterator[Profile]:
    if section := re.search(r"^predict, step by step:\n((?:[\d.]+ .+\n?)+)", text, re.MULTILINE):
        parts = dict(line.partition(" ")[::-2] for line in section[1].splitlines())
        yield Profile("`predict`", "s", {name: float(seconds) for name, seconds in parts.items()})
    for title, steps in re.findall(
        r"^(train, stage by stage|imports of \w+)(?:, [^:\n]*)?: (.*)$", text, re.MULTILINE
    ):
        yield Profile(title, "s", {name: float(seconds) for name, seconds in PART.findall(steps)})


def parse_finetune(text: str) -> Sheet:
    """Return the epochs of regraft and of Keras, and the losses if both saw the same images."""
    sheet = Sheet()
    for title, *cells in re.findall(
        rf"^(.+?): regraft {SPREAD}, Keras {SPREAD} an epoch of (\d+) images: ([\d.]+) times faster",
        text,
        re.MULTILINE,
    ):
        stage = title.startswith("stage")
        target = None if "bfloat16" in title else 2.0 if stage else 1.0
        sides = (Side("Keras", "s", _spread(cells[3:6])), Side("regraft", "s", _spread(cells[:3])))
        name = f"an epoch of fine-tuning ({title}) against Keras' own `fit`"
        remark = f"{cells[6]} images"
        sheet.rows.append(Row(name, "times", (float(cells[7]),), at_least=target, sides=sides, remark=remark))
        losses = re.findall(rf"^{re.escape(title)}: before .*?loss ([\d.]+) and ([\d.]+)", text, re.MULTILINE)
        if stage and losses:
            differences = tuple(abs(float(ours) - float(theirs)) for ours, theirs in losses)
            sheet.rows.append(Row(f"loss after it ({title}), apart by", "", differences, at_most=1e-3))
    return sheet


def parse_taps(text: str) -> Sheet:
    """Return the accuracy of each choice of taps over the last layer's, and the cost of extraction."""
    sheet = Sheet()
    for choice, top1, count, gain in re.findall(
        r"^(late|auto)\s+top-1 ([\d.]+) of ([\d,]+) .*\(([+-][\d.]+)\)", text, re.MULTILINE
    ):
        target = 1.0 if choice == "auto" else None
        remark = f"{count} images, held out in five folds: {100 * float(top1):.1f} %"
        name = f"taps: `{choice}` over the last layer only, top-1"
        sheet.rows.append(Row(name, "points", (100 * float(gain),), at_least=target, remark=remark))
    for choice, ms, growth in re.findall(
        r"^(late|auto)\s+([\d.]+) ms of processor time an image \(([+-][\d.]+)%\)", text, re.MULTILINE
    ):
        target = 10.0 if choice == "auto" else None
        name = f"taps: extraction with `{choice}` longer than with the last layer"
        sheet.rows.append(
            Row(name, "%", (float(growth),), at_most=target, remark=f"{ms} ms of processor time an image")
        )
    return sheet


def _spread(cells: list[str]) -> tuple[float, ...]:
    """Return three values with the printed median and range."""
    median, low, high = (float(cell) for cell in cells)
    return low, median, high
