"""How values become text on a page: escaping, characters nobody sees, number formats."""

from __future__ import annotations

import base64
import functools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from regraft.console import duration
from regraft.data.catalog import Refused
from regraft.evaluation.classification import ClassRow
from regraft.evaluation.explain import most_confused
from regraft.evaluation.multilabel import LabelRow
from regraft.evaluation.scores import three_digits

if TYPE_CHECKING:
    import jinja2

__all__ = ["render_page"]

# Controls but tab and newline, marks and overrides of direction, surrogates, non-characters.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]"
)


def render_page(template: str, refused: Iterable[Refused], /, **values: Any) -> str:
    """Return a template as an HTML page, free of lone surrogates; it is given `refused` grouped by reason."""
    reasons = defaultdict(list)
    for item in refused:
        reasons[item.code].append(item)
    groups = sorted(reasons.items(), key=lambda group: (-len(group[1]), group[0]))
    page: str = _environment().get_template(template).render(refused=groups, **values)
    return page


@functools.cache
def _environment() -> jinja2.Environment:
    """Where the report's templates are found, escaped and given their formats."""
    import jinja2  # 40 ms that only a report should cost

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("regraft.evaluation", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {
        "percent": _percent,
        "number": three_digits,
        "duration": duration,
        "base64": lambda content: base64.b64encode(content).decode("ascii"),
        "confusions": most_confused,
        "weakest_first": _weakest_first,
    }
    return made


def _visible(value: object) -> object:
    """What a template expression prints: steering characters as escapes, markup as it is."""
    if not isinstance(value, str) or hasattr(value, "__html__"):
        return value
    return UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", value)


def _percent(share: float) -> str:
    # What is not quite everything must not be rounded to everything.
    return f"{100 * (min(share, 0.999) if share < 1 else share):.1f}"


def _weakest_first(rows: Sequence[ClassRow | LabelRow], measure: str = "f1") -> list[tuple[int, Any]]:
    """Places and rows by a measure, the lowest first, undefined ones last."""
    ranked = ((at, row, getattr(row, measure)) for at, row in enumerate(rows))
    ordered = sorted(ranked, key=lambda item: (item[2] is None, item[2] or 0.0, item[0]))
    return [(at, row) for at, row, _ in ordered]
