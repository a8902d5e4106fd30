"""What a check found as a self-contained HTML page, in the look and under the rules of the report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from regraft.data.catalog import Refused
from regraft.evaluation.page import environment
from regraft.evaluation.problems import Problem

__all__ = ["Findings", "render_check"]

CASES = 30  # shown of a problem
IMAGES = 6  # shown of a case

WEIGHTS = {"error": "Mend this first", "warning": "Worth a look", "note": "Good to know"}


@dataclass(frozen=True)
class Findings:
    """Everything that `regraft check` says.

    Attributes:
        data, created: what was checked, and when.
        task: as `Catalog.task`.
        outputs: names of the classes, labels or targets.
        counts: part ("all" where nothing is cut) -> images of each class or label; empty for regression.
        used: samples that can be used.
        refused: files that cannot.
        problems: what was found across images.
        notes: what was left out when the data were listed.
        unchecked: why labels were not checked; "" where they were.
    """

    data: str
    created: str
    task: str
    outputs: tuple[str, ...]
    counts: dict[str, list[int]]
    used: int
    refused: tuple[Refused, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    unchecked: str = ""


def render_check(findings: Findings, thumbnail: Callable[[str], bytes]) -> str:
    """The findings as an HTML page, free of lone surrogates.

    Args:
        findings: what to say.
        thumbnail: a file's name, as in `Picture.image`, to a small JPEG's bytes, or b"".

    Example:
        >>> found = Findings("cats & dogs", "2030", "binary", ("cat", "dog"), {"all": [3, 4]}, 7, (), ())
        >>> "cats &amp; dogs" in render_check(found, lambda name: b"")
        True
    """
    refused = defaultdict(list)
    for item in findings.refused:
        refused[item.code].append(item)
    page: str = (
        environment()
        .get_template("check.html.j2")
        .render(
            found=findings,
            report=findings,  # what the macros shared with the report look at
            weights=WEIGHTS,
            cases=CASES,
            images=IMAGES,
            thumbnail=thumbnail,
            refused=sorted(refused.items(), key=lambda group: (-len(group[1]), group[0])),
        )
    )
    return page
