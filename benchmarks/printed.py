"""Rows of the benchmarks that only print: what their lines say.

A line that is not found gives no row; the page shows all that such a benchmark prints, so nothing is lost.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rows import Profile, Row, Sheet, Side

__all__ = ["finetune", "startup", "taps"]

SPREAD = r"([\d.]+) s\s+\(([\d.]+) to ([\d.]+)\)"
PART = re.compile(r"([^,:]+?) ([\d.]+)(?:, |$)")


def startup(text: str) -> Sheet:
    """Seconds of whole processes, and of what they consist."""
    names = {
        "regraft predict, one photograph": ("`predict` of one photograph, a cold process", 1.5),
        "regraft train, everything stored": ("`train --unfreeze none`, everything stored", None),
    }
    found = Sheet()
    for printed, *seconds, busy in re.findall(
        rf"^(\S.*?)\s+{SPREAD}\s+processor\s+([\d.]+) s", text, re.MULTILINE
    ):
        name, most = names.get(printed, (f"for comparison: {printed}", None))
        sides = (Side("of processors", "s", (float(busy),)),)
        found.rows.append(Row(name, "s", _spread(seconds), at_most=most, sides=sides))
    if imported := re.search(r"^imports of predict.*$", text, re.MULTILINE):
        clean = not re.search(r"\b(keras|tensorflow|jax|torch)\b", imported[0])
        found.rows.append(Row("`predict` imports no backend", "yes", (float(clean),), at_least=1))
    found.profiles += _steps(text)
    return found


def _steps(text: str) -> Iterator[Profile]:
    if steps := re.search(r"^predict, step by step:\n((?:[\d.]+ .+\n?)+)", text, re.MULTILINE):
        parts = dict(line.partition(" ")[::-2] for line in steps[1].splitlines())
        yield Profile("`predict`", "s", {name: float(seconds) for name, seconds in parts.items()})
    for title, listed in re.findall(
        r"^(train, stage by stage|imports of \w+)(?:, [^:\n]*)?: (.*)$", text, re.MULTILINE
    ):
        yield Profile(title, "s", {name: float(seconds) for name, seconds in PART.findall(listed)})


def finetune(text: str) -> Sheet:
    """Epochs of ours and of Keras; the loss of both where both saw the same images."""
    found = Sheet()
    for title, *cells in re.findall(
        rf"^(.+?): regraft {SPREAD}, Keras {SPREAD} an epoch of (\d+) images: ([\d.]+) times faster",
        text,
        re.MULTILINE,
    ):
        stage = title.startswith("stage")
        asked = None if "bfloat16" in title else 2.0 if stage else 1.0
        sides = (Side("Keras", "s", _spread(cells[3:6])), Side("regraft", "s", _spread(cells[:3])))
        name = f"an epoch of fine-tuning ({title}) against Keras' own `fit`"
        remark = f"{cells[6]} photographs"
        found.rows.append(Row(name, "times", (float(cells[7]),), at_least=asked, sides=sides, remark=remark))
        losses = re.findall(rf"^{re.escape(title)}: before .*?loss ([\d.]+) and ([\d.]+)", text, re.MULTILINE)
        if stage and losses:
            apart = tuple(abs(float(ours) - float(theirs)) for ours, theirs in losses)
            found.rows.append(Row(f"loss after it ({title}), apart by", "", apart, at_most=1e-3))
    return found


def taps(text: str) -> Sheet:
    """Accuracy of each choice of taps over the last layer's, and what extraction costs."""
    found = Sheet()
    for which, top1, count, gain in re.findall(
        r"^(late|auto)\s+top-1 ([\d.]+) of ([\d,]+) .*\(([+-][\d.]+)\)", text, re.MULTILINE
    ):
        asked = 1.0 if which == "auto" else None
        remark = f"{count} photographs, held out in five folds: {100 * float(top1):.1f} %"
        name = f"taps: `{which}` over the last layer only, top-1"
        found.rows.append(Row(name, "points", (100 * float(gain),), at_least=asked, remark=remark))
    for which, ms, more in re.findall(
        r"^(late|auto)\s+([\d.]+) ms of processor time an image \(([+-][\d.]+)%\)", text, re.MULTILINE
    ):
        asked = 10.0 if which == "auto" else None
        name = f"taps: extraction with `{which}` longer than with the last layer"
        found.rows.append(
            Row(name, "%", (float(more),), at_most=asked, remark=f"{ms} ms of processor time an image")
        )
    return found


def _spread(cells: list[str]) -> tuple[float, ...]:
    """Three values whose median and range are those that were printed."""
    median, low, high = (float(cell) for cell in cells)
    return low, median, high
