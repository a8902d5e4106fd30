"""Infer the task from the cells of a target, and make its outputs and one target for each sample.

| values | task |
|---|---|
| one text column | multiclass; binary where there are two classes |
| lists of labels, or a separator between them | multilabel; an empty one has no labels |
| lists of as many numbers each | as several columns |
| one column of numbers that are not whole | regression |
| one column of whole numbers | classes where few of them differ (see `FEW`), regression otherwise |
| several columns of 0 and 1 (false and true, no and yes) | multilabel; classes where each row has one 1 |
| several columns of numbers | regression |

A value that does not fit the rest (a missing one, a text among numbers) costs only its own sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from regraft.data.cells import FLAGS, Cell, do_most_fit, is_flag, is_number
from regraft.data.samples import Target
from regraft.errors import DataError, UsageError, suggest_nearest
from regraft.tasks import TASKS

__all__ = [
    "FEW",
    "TARGET_NAME",
    "Targets",
    "convert_targets",
    "name_column",
    "put_positive_last",
    "read_label_lists",
    "read_targets",
]

FEW = 20  # up to as many different whole numbers may be classes; more only where they count 0, 1, 2, ...
MOST_CLASSES = 1000  # up to as many whole numbers that count from 0 are classes
TARGET_NAME = "target"  # of the column of a source that has no columns
_NEGATIVE_NAMES = "0 -1 no false negative neg normal healthy benign absent none ok"
_NEGATIVE = frozenset(_NEGATIVE_NAMES.split())


@dataclass
class Targets:
    """The targets made of raw values.

    Attributes:
        task, outputs: as in `Catalog`.
        values: one target for each row; None for a refused one.
        refused: code and detail of refused rows, by the number of the row.
        why: the reason for this task, for the reader.
        notes: sentences for the report.
    """

    task: str
    outputs: tuple[str, ...]
    values: list[Target | None]
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    why: str = ""
    notes: tuple[str, ...] = ()


def read_targets(
    rows: Sequence[Sequence[Cell]],
    columns: Sequence[str],
    *,
    task: str = "auto",
    names: Sequence[str] = (),
) -> Targets:
    """Infer the task from the values, or check that they fit the task asked for.

    Args:
        rows: for each sample, a cell of each column, as `data.raw_targets` makes it.
        columns: names of the columns; those of several columns become the outputs.
        task: "multiclass", "binary", "multilabel" or "regression"; "auto" to infer it.
        names: names[i] is the class that the whole number i stands for, in a single column.

    Raises:
        UsageError: the values cannot be targets of the task asked for.
        DataError: there are no values.

    Example:
        >>> read_targets([("cat",), ("dog",), ("ape",), (None,)], ["animal"]).values
        [1, 2, 0, None]
        >>> read_targets([("0.5",), ("1",)], ["scale"]).task
        'regression'
    """
    _check_task(task)
    if len(columns) > 1:
        return _read_columns(rows, columns, task)
    return _read_column([row[0] for row in rows], columns[0], task=task, names=names)


def read_label_lists(
    lists: Sequence[Sequence[str]], column: str, *, task: str = "auto", names: Sequence[str] = ()
) -> Targets:
    """Make multilabel targets of the labels of each sample; the other arguments are those of `read_targets`.

    Raises:
        UsageError: the task is none of several labels.
        DataError: there are no labels.

    Example:
        >>> read_label_lists([["cat", "indoors"], [], ["cat"]], "tags").values
        [(0, 1), (), (0,)]
    """
    _check_task(task)
    reason = "lists and separators mean several labels a sample"
    _require(task in ("auto", "multilabel"), task, [column], reason)
    outputs = tuple(names) or _sort_outputs({label for labels in lists for label in labels})
    if not outputs:
        raise DataError(f"{name_column(column)} holds no label in any row.")
    numbers = _number_outputs(outputs, names)
    targets = Targets("multilabel", outputs, [], why=f"{name_column(column)} holds {len(outputs)} labels")
    for row, labels in enumerate(lists):
        unknown = [label for label in labels if label not in numbers]
        if unknown:
            targets.refused[row] = _refuse_label(unknown[0], column, len(outputs))
        targets.values.append(None if unknown else tuple(sorted({numbers[label] for label in labels})))
    return targets


def put_positive_last(outputs: Sequence[str]) -> tuple[str, ...]:
    """Return two class names with the one that means "no" first, else sorted: a model detects the second.

    >>> put_positive_last(["normal", "abnormal"]), put_positive_last(["hot dog", "not hot dog"])
    (('normal', 'abnormal'), ('not hot dog', 'hot dog'))
    """
    first, second = sorted(outputs)
    are_negative = [name.lower() in _NEGATIVE for name in (first, second)]
    is_negation = second.lower().endswith(first.lower()) and not are_negative[0]
    return (second, first) if are_negative == [False, True] or is_negation else (first, second)


def _read_column(cells: Sequence[Cell], column: str, *, task: str, names: Sequence[str]) -> Targets:
    counts = Counter(cell for cell in cells if cell is not None)
    if not counts:
        raise DataError(f"{name_column(column)} holds no values: every one of {len(cells)} is missing.")
    numbers = {cell: float(cell) for cell in counts if is_number(cell)}
    are_mostly_numbers = 2 * sum(counts[cell] for cell in numbers) > counts.total()
    may_be_classes = names or not are_mostly_numbers or _are_class_numbers(numbers, counts)
    if task == "regression" or (task == "auto" and not may_be_classes):
        example = next((cell for cell in counts if cell not in numbers), "")
        reason = f"it needs numbers, and most values are texts such as {example!r}"
        _require(are_mostly_numbers, task, [column], reason)
        return _make_regression([[cell] for cell in cells], [column])
    return _make_classes(cells, column, task=task, names=names)


def _are_class_numbers(numbers: Mapping[str, float], counts: Counter[str]) -> bool:
    """Tell whether numbers may be classes: whole, repeated, and either few or counting 0, 1, 2, ..."""
    values = sorted(numbers.values())
    if any(not value.is_integer() for value in values):
        return False
    are_repeated = counts.total() >= 2 * len(values)
    count_from_0 = values == list(map(float, range(len(values)))) and len(values) <= MOST_CLASSES
    return are_repeated and (len(values) <= FEW or count_from_0)


def _make_classes(cells: Sequence[Cell], column: str, *, task: str, names: Sequence[str]) -> Targets:
    distinct = {cell for cell in cells if cell is not None}
    outputs = tuple(names) or _sort_outputs(distinct)
    n = len(outputs)
    _require(task != "binary" or n == 2, task, [column], f"it needs 2 classes, and there are {n}")
    are_classes = bool(names) or not _are_measurements(cells)
    _require(are_classes, task, [column], "its cells are measurements, not classes")
    task = task if task != "auto" else "binary" if n == 2 else "multiclass"
    if task == "binary" and not names:
        outputs = put_positive_last(outputs)
    numbers = _number_outputs(outputs, names)
    are_numbers = not names and all(is_number(cell) for cell in distinct)
    targets = Targets(task, outputs, [])
    kind = "different whole numbers" if are_numbers else "classes"
    targets.why = f"{name_column(column)} holds {n} {kind}{_name_positive(targets)}"
    for row, cell in enumerate(cells):
        label = numbers.get(cell or "")
        if label is None:
            targets.refused[row] = _refuse_label(cell, column, n)
        targets.values.append((label,) if task == "multilabel" and label is not None else label)
    return targets


def _number_outputs(outputs: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """Return the number of each output by its name, and by its number in `names`."""
    by_number = {str(number): number for number in range(len(names))}
    return by_number | {name: number for number, name in enumerate(outputs)}


def _refuse_label(cell: Cell, column: str, n: int) -> tuple[str, str]:
    if cell is None:
        return "missing_label", f"{name_column(column)} has no value"
    detail = f"{name_column(column)} holds {cell!r}, and the {n} names given stand for 0 to {n - 1}"
    return "unknown_class", detail


def _name_positive(targets: Targets) -> str:
    return f"; the positive class is {targets.outputs[1]}" if targets.task == "binary" else ""


def _read_columns(rows: Sequence[Sequence[Cell]], columns: Sequence[str], task: str) -> Targets:
    cells_by_column = [[cell for cell in cells if cell is not None] for cells in zip(*rows, strict=True)]
    for column, cells in zip(columns, cells_by_column, strict=True):
        if not cells:
            raise DataError(f"{name_column(column)} holds no values: every one of {len(rows)} is missing.")
    are_flags = all(
        do_most_fit(cells, is_flag) and not _has_other_numbers(cells) for cells in cells_by_column
    )
    if task != "regression" and are_flags:
        return _make_labels(rows, columns, task)
    for column, cells in zip(columns, cells_by_column, strict=True):
        needs_flags = task not in ("auto", "regression")
        if not do_most_fit(cells, is_number) or (needs_flags and _has_other_numbers(cells)):
            expected = {"auto": "0 and 1, or numbers,", "regression": "numbers"}.get(task, "0 and 1")
            example = next((cell for cell in cells if not is_flag(cell)), cells[0])
            raise UsageError(
                f"Several target columns{'' if task == 'auto' else f' for {task}'}: expected {expected} in "
                f"each. Received: {name_column(column)} with values such as {example!r}."
            )
    return _make_regression(rows, columns)


def _are_measurements(cells: Sequence[Cell]) -> bool:
    """Tell whether cells are numbers, some of them with decimals, and few of them repeated."""
    present = [cell for cell in cells if cell is not None]
    if len(present) <= FEW or 2 * len(set(present)) <= len(present) or not do_most_fit(present, is_number):
        return False
    return not all(float(cell).is_integer() for cell in present if is_number(cell))


def _has_other_numbers(cells: Sequence[str]) -> bool:
    """Tell whether there are numbers beside 0 and 1, so that the cells are no flags; texts do not matter."""
    return any(is_number(cell) and not is_flag(cell) for cell in cells)


def _make_labels(rows: Sequence[Sequence[Cell]], columns: Sequence[str], task: str) -> Targets:
    targets = Targets("multilabel", tuple(columns), [], why=f"{len(columns)} columns hold 0 and 1")
    for number, row in enumerate(rows):
        if fault := _find_fault(row, columns, is_flag, "0 or 1"):
            targets.refused[number] = fault
            targets.values.append(None)
        else:
            flags = [FLAGS[str(cell).lower()] for cell in row]
            targets.values.append(tuple(label for label, flag in enumerate(flags) if flag))
    return _convert_labels(targets, task)


def _convert_labels(targets: Targets, task: str) -> Targets:
    """Convert labels to classes where every sample has exactly one, unless the task is multilabel."""
    have_one = all(value is None or len(_to_labels(value)) == 1 for value in targets.values)
    if task == "multilabel" or (task == "auto" and not have_one):
        if not any(targets.values):
            raise DataError("No row has a 1 in any target column.")
        return targets
    _require(have_one, task, targets.outputs, "some rows have no 1 in them, or several")
    n = len(targets.outputs)
    _require(task != "binary" or n == 2, task, targets.outputs, f"it needs 2 classes, and there are {n}")
    targets.task = "binary" if n == 2 and task != "multiclass" else "multiclass"
    targets.values = [value if value is None else _to_labels(value)[0] for value in targets.values]
    targets.why = f"{targets.why}, exactly one 1 a row: {n} classes{_name_positive(targets)}"
    return targets


def _to_labels(value: Target) -> tuple[int, ...]:
    return tuple(int(label) for label in value) if isinstance(value, tuple) else (value,)


def _make_regression(rows: Sequence[Sequence[Cell]], columns: Sequence[str]) -> Targets:
    targets = Targets("regression", tuple(columns), [])
    for number, row in enumerate(rows):
        if fault := _find_fault(row, columns, is_number, "a number"):
            targets.refused[number] = fault
            targets.values.append(None)
        else:
            targets.values.append(tuple(float(str(cell)) for cell in row))
    if len(columns) > 1:
        targets.why = f"{len(columns)} columns hold numbers"
    else:
        distinct = len(set(targets.values) - {None})
        targets.why = f"{name_column(columns[0])} holds {distinct:,} distinct numbers"
    return targets


def _check_task(task: str) -> None:
    """Raise a UsageError where there is no such task."""
    if task != "auto" and task not in TASKS:
        hint = suggest_nearest(task, TASKS)
        raise UsageError(f"Expected a task: auto, {', '.join(TASKS)}. Received: {task}.{hint}")


def _find_fault(
    row: Sequence[Cell], columns: Sequence[str], fits: Callable[[str], bool], expected: str
) -> tuple[str, str] | None:
    """Return code and detail of the first cell of a row that cannot be used."""
    for column, cell in zip(columns, row, strict=True):
        if cell is None:
            return "missing_label", f"{name_column(column)} has no value"
        if not fits(cell):
            return "not_a_number", f"{name_column(column)} holds {cell!r} where {expected} is expected"
    return None


def _sort_outputs(names: set[str]) -> tuple[str, ...]:
    """Sort names as numbers where all are numbers, otherwise as text."""
    are_numbers = all(is_number(name) for name in names)
    return tuple(sorted(names, key=lambda name: (float(name) if are_numbers else 0.0, name)))


def name_column(name: str) -> str:
    """Return the name of a column, or of a target without one, as a sentence begins with it."""
    return f"Column {name}" if name != TARGET_NAME else "The target"


def _require(condition: bool, task: str, columns: Sequence[str], reason: str) -> None:
    """Raise a UsageError with the reason why the task is impossible, unless a condition holds."""
    if not condition:
        first = ", ".join(columns[:5]) + ("..." if len(columns) > 5 else "")
        raise UsageError(f"The task cannot be {task} for the target {first}: {reason}.")


def convert_targets(values: Sequence[Target], outputs: Sequence[str], now: str, task: str) -> Targets:
    """Convert targets of the task `now` to another; "auto" only makes two classes binary.

    Raises:
        UsageError: the targets cannot be converted.
    """
    _check_task(task)
    targets = Targets(now, tuple(outputs), list(values))
    if task == "auto":
        task = "binary" if now == "multiclass" and len(outputs) == 2 else now
    if task == now:
        return targets
    is_possible = "regression" not in (now, task) or now in ("multiclass", "binary")
    _require(is_possible, task, outputs, f"its targets are those of {now}")
    classes = [value for value in values if isinstance(value, int)]
    if task == "regression":
        texts = [name for name in outputs if not is_number(name)]
        example = next(iter(texts), "")
        _require(not texts, task, outputs, f"it needs numbers, and there are classes such as {example!r}")
        return Targets(task, (TARGET_NAME,), [(float(outputs[label]),) for label in classes])
    if task == "multilabel":
        return Targets(task, tuple(outputs), [_to_labels(value) for value in values])
    if now == "multilabel":
        return _convert_labels(targets, task)
    _require(task != "binary" or len(outputs) == 2, task, outputs, f"it needs 2 classes, not {len(outputs)}")
    targets.task = task
    if task == "binary":
        targets.outputs = put_positive_last(outputs)
        new_labels = [targets.outputs.index(name) for name in outputs]
        targets.values = [new_labels[label] for label in classes]
        targets.why = f"2 classes{_name_positive(targets)}"
    return targets
