"""Targets of one task -> the same targets as those of another."""

from __future__ import annotations

from collections.abc import Sequence

from regraft.data.cells import is_number
from regraft.data.sample import Target
from regraft.data.targets import (
    TARGET,
    Targets,
    as_classes,
    check_task,
    expect,
    labels_of,
    positive_last,
    said_positive,
)

__all__ = ["retargeted"]

CLASSES = ("multiclass", "binary")


def retargeted(values: Sequence[Target], outputs: Sequence[str], now: str, task: str) -> Targets:
    """Targets of the task `now` as those of another; "auto" makes two classes binary and leaves all else.

    Raises:
        UsageError: they cannot be.
    """
    check_task(task)
    found = Targets(now, tuple(outputs), list(values))
    if task == "auto":
        task = "binary" if now == "multiclass" and len(outputs) == 2 else now
    if task == now:
        return found
    expect(
        "regression" not in (now, task) or now in CLASSES, task, outputs, f"its targets are those of {now}"
    )
    if task == "regression":
        texts = [name for name in outputs if not is_number(name)]
        expect(
            not texts, task, outputs, f"it needs numbers, and there are classes such as {(*texts, '')[0]!r}"
        )
        numbers: list[Target | None] = [(float(outputs[value]),) for value in _classes_of(values)]
        return Targets(task, (TARGET,), numbers)
    if task == "multilabel":
        return Targets(task, tuple(outputs), [labels_of(value) for value in values])
    if now == "multilabel":
        return as_classes(found, task)
    expect(task != "binary" or len(outputs) == 2, task, outputs, f"it needs 2 classes, not {len(outputs)}")
    found.task = task
    if task == "binary":
        found.outputs = positive_last(outputs)
        new = [found.outputs.index(name) for name in outputs]
        found.values = [new[value] for value in _classes_of(values)]
        found.why = f"2 classes{said_positive(found)}"
    return found


def _classes_of(values: Sequence[Target]) -> list[int]:
    return [value for value in values if isinstance(value, int)]
