"""Raw values of a target -> the task they are for, its outputs, and one target a sample.

| values | task |
|---|---|
| one text column | multiclass; binary where there are two classes |
| one column, a separator between labels | multilabel; an empty cell has no labels |
| one column of numbers that are not whole | regression |
| one column of whole numbers | classes where few of them differ (see `FEW`), regression otherwise |
| several columns of 0 and 1 (false and true, no and yes) | multilabel; classes where each row has one 1 |
| several columns of numbers | regression |

A value that does not fit the rest (a missing one, a text among numbers) refuses its sample and nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from regraft.data.samples import Target
from regraft.data.table_files import FLAGS, Cell, as_cell, is_flag, is_number
from regraft.errors import DataError, UsageError, nearest
from regraft.tasks import TASKS

__all__ = ["FEW", "TARGET", "Targets", "positive_last", "read_targets", "retarget"]

FEW = 20  # so many different whole numbers may be classes; more only where they count 0, 1, 2, ...
MOST_CLASSES = 1000  # whole numbers that count from 0 are classes up to here
TARGET = "target"  # the column of a source that has no columns
_NO = "0 -1 no false negative neg normal healthy benign absent none ok"
_NEGATIVE = frozenset(_NO.split())


@dataclass
class Targets:
    """What `read_targets` made of raw values.

    Attributes:
        task, outputs: as in `Catalog`.
        values: one target a row; None for a refused one.
        refused: row -> code and detail.
        why: what the task was told from, for a person to read.
    """

    task: str
    outputs: tuple[str, ...]
    values: list[Target | None]
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    why: str = ""


def read_targets(
    rows: Sequence[Sequence[Cell]],
    columns: Sequence[str],
    *,
    task: str = "auto",
    separator: str = "",
    names: Sequence[str] = (),
) -> Targets:
    """Tell the task from the values, or check that they fit the one asked for.

    Args:
        rows: for each sample, one cell of `as_cell` a column.
        columns: their names; those of several columns become the outputs.
        task: "multiclass", "binary", "multilabel" or "regression"; "auto" to infer it.
        separator: what stands between the labels of a cell; "" where a cell is one value.
        names: names[i] is the class that a whole number i stands for, in one column.

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
    if separator:
        _expect(task in ("auto", "multilabel"), task, columns, "a separator means several labels a sample")
        cells = [row[0] for row in rows]
        return _label_lists([_split(cell, separator) for cell in cells], columns[0], names)
    if len(columns) > 1:
        return _several(rows, columns, task)
    return _single([row[0] for row in rows], columns[0], task=task, names=names)


def positive_last(outputs: Sequence[str]) -> tuple[str, ...]:
    """Two class names, sorted, but the one that means "no" first: the other is what a model detects.

    >>> positive_last(["normal", "abnormal"]), positive_last(["hot dog", "not hot dog"])
    (('normal', 'abnormal'), ('not hot dog', 'hot dog'))
    """
    first, second = sorted(outputs)
    says_no = [name.lower() in _NEGATIVE for name in (first, second)]
    negated = second.lower().endswith(first.lower()) and says_no[0] is False
    return (second, first) if says_no == [False, True] or negated else (first, second)


def _single(cells: Sequence[Cell], column: str, *, task: str, names: Sequence[str]) -> Targets:
    counts = Counter(cell for cell in cells if cell is not None)
    if not counts:
        raise DataError(f"{_column(column)} holds no values: every one of {len(cells)} is missing.")
    numbers = {cell: float(cell) for cell in counts if is_number(cell)}
    mostly = 2 * sum(counts[cell] for cell in numbers) > counts.total()
    if task == "regression" or (task == "auto" and not names and mostly and not _few(numbers, counts)):
        example = next((cell for cell in counts if cell not in numbers), "")
        _expect(mostly, task, [column], f"it needs numbers, and most values are texts such as {example!r}")
        return _numbers([[cell] for cell in cells], [column])
    return _classes(cells, column, task=task, names=names)


def _few(numbers: Mapping[str, float], counts: Counter[str]) -> bool:
    """Whole numbers so few that they are classes, or numbered like classes: 0, 1, 2, ..."""
    found = sorted(numbers.values())
    if any(not value.is_integer() for value in found):
        return False
    repeated = counts.total() >= 2 * len(found)
    counted = found == [float(place) for place in range(len(found))] and len(found) <= MOST_CLASSES
    return repeated and (len(found) <= FEW or counted)


def _classes(cells: Sequence[Cell], column: str, *, task: str, names: Sequence[str]) -> Targets:
    found = {cell for cell in cells if cell is not None}
    outputs = tuple(names) or _in_order(found)
    n = len(outputs)
    _expect(task != "binary" or n == 2, task, [column], f"it needs 2 classes, and there are {n}")
    _expect(bool(names) or not _measured(cells), task, [column], "its cells are measurements, not classes")
    task = task if task != "auto" else "binary" if n == 2 else "multiclass"
    if task == "binary" and not names:
        outputs = positive_last(outputs)
    numbers = _numbers_of(outputs, names)
    result = Targets(task, outputs, [])
    result.why = f"{_column(column)} holds {n} {_kind(found, names)}{_said_positive(result)}"
    for number, cell in enumerate(cells):
        label = numbers.get(cell or "")
        if label is None:
            result.refused[number] = _no_label(cell, column, n)
        result.values.append((label,) if task == "multilabel" and label is not None else label)
    return result


def _numbers_of(outputs: Sequence[str], names: Sequence[str]) -> dict[str, int]:
    """The number of each output, by its name; by the number too, where `names` say what numbers stand for."""
    by_number = {str(number): number for number in range(len(names))}
    return by_number | {name: number for number, name in enumerate(outputs)}


def _kind(found: set[str], names: Sequence[str]) -> str:
    return "different whole numbers" if not names and all(is_number(cell) for cell in found) else "classes"


def _no_label(cell: Cell, column: str, n: int) -> tuple[str, str]:
    if cell is None:
        return "missing_label", f"{_column(column)} has no value"
    return (
        "unknown_class",
        f"{_column(column)} holds {cell!r}, and the {n} names given stand for 0 to {n - 1}",
    )


def _said_positive(found: Targets) -> str:
    return f"; the positive class is {found.outputs[1]}" if found.task == "binary" else ""


def _split(cell: Cell, separator: str) -> list[str]:
    labels = (as_cell(label) for label in (cell or "").split(separator))
    return [label for label in labels if label is not None]


def _label_lists(lists: Sequence[Sequence[str]], column: str, names: Sequence[str]) -> Targets:
    outputs = tuple(names) or _in_order({label for labels in lists for label in labels})
    if not outputs:
        raise DataError(f"{_column(column)} holds no label in any row.")
    numbers = _numbers_of(outputs, names)
    result = Targets("multilabel", outputs, [], why=f"{_column(column)} holds {len(outputs)} labels")
    for number, labels in enumerate(lists):
        strange = [label for label in labels if label not in numbers]
        if strange:
            result.refused[number] = _no_label(strange[0], column, len(outputs))
        result.values.append(None if strange else tuple(sorted({numbers[label] for label in labels})))
    return result


def _several(rows: Sequence[Sequence[Cell]], columns: Sequence[str], task: str) -> Targets:
    found = [[cell for cell in cells if cell is not None] for cells in zip(*rows, strict=True)]
    for column, cells in zip(columns, found, strict=True):
        if not cells:
            raise DataError(f"{_column(column)} holds no values: every one of {len(rows)} is missing.")
    if task != "regression" and all(_mostly(cells, is_flag) and not _other_numbers(cells) for cells in found):
        return _flags(rows, columns, task)
    for column, cells in zip(columns, found, strict=True):
        flags_wanted = task not in ("auto", "regression")
        if not _mostly(cells, is_number) or (flags_wanted and _other_numbers(cells)):
            wanted = {"auto": "0 and 1, or numbers,", "regression": "numbers"}.get(task, "0 and 1")
            example = next((cell for cell in cells if not is_flag(cell)), cells[0])
            raise UsageError(
                f"Several target columns{'' if task == 'auto' else f' for {task}'}: expected {wanted} in "
                f"each. Received: {_column(column)} with values such as {example!r}."
            )
    return _numbers(rows, columns)


def _mostly(cells: Sequence[str], fits: Callable[[str], bool]) -> bool:
    return 2 * sum(map(fits, cells)) > len(cells)


def _measured(cells: Sequence[Cell]) -> bool:
    """Numbers, not all of them whole, and hardly one twice."""
    known = [cell for cell in cells if cell is not None]
    whole = all(float(cell).is_integer() for cell in known if is_number(cell))
    return len(known) > FEW and 2 * len(set(known)) > len(known) and _mostly(known, is_number) and not whole


def _other_numbers(cells: Sequence[str]) -> bool:
    """A number beside 0 and 1 shows that these are no flags; a text only spoils its own row."""
    return any(is_number(cell) and not is_flag(cell) for cell in cells)


def _flags(rows: Sequence[Sequence[Cell]], columns: Sequence[str], task: str) -> Targets:
    result = Targets("multilabel", tuple(columns), [], why=f"{len(columns)} columns hold 0 and 1")
    for number, row in enumerate(rows):
        if verdict := _first_fault(row, columns, is_flag, "0 or 1"):
            result.refused[number] = verdict
            result.values.append(None)
        else:
            result.values.append(tuple(at for at, cell in enumerate(row) if FLAGS[str(cell).lower()]))
    return _as_classes(result, task)


def _as_classes(labels: Targets, task: str) -> Targets:
    """Labels as classes, where every sample has exactly one and nobody wants labels."""
    one_each = all(value is None or len(_labels_of(value)) == 1 for value in labels.values)
    if task == "multilabel" or (task == "auto" and not one_each):
        if not any(labels.values):
            raise DataError("No row has a 1 in any target column.")
        return labels
    _expect(one_each, task, labels.outputs, "some rows have no 1 in them, or several")
    n = len(labels.outputs)
    _expect(task != "binary" or n == 2, task, labels.outputs, f"it needs 2 classes, and there are {n}")
    labels.task = "binary" if n == 2 and task != "multiclass" else "multiclass"
    labels.values = [value if value is None else _labels_of(value)[0] for value in labels.values]
    labels.why = f"{labels.why}, exactly one 1 a row: {n} classes{_said_positive(labels)}"
    return labels


def _labels_of(value: Target) -> tuple[int, ...]:
    return tuple(int(label) for label in value) if isinstance(value, tuple) else (value,)


def _numbers(rows: Sequence[Sequence[Cell]], columns: Sequence[str]) -> Targets:
    result = Targets("regression", tuple(columns), [])
    for number, row in enumerate(rows):
        if verdict := _first_fault(row, columns, is_number, "a number"):
            result.refused[number] = verdict
            result.values.append(None)
        else:
            result.values.append(tuple(float(str(cell)) for cell in row))
    distinct = len(set(result.values) - {None})
    result.why = f"{_column(columns[0])} holds {distinct:,} distinct numbers"
    if len(columns) > 1:
        result.why = f"{len(columns)} columns hold numbers"
    return result


def _check_task(task: str) -> None:
    """Raises UsageError where there is no such task."""
    if task != "auto" and task not in TASKS:
        hint = nearest(task, TASKS)
        raise UsageError(f"Expected a task: auto, {', '.join(TASKS)}. Received: {task}.{hint}")


def _first_fault(
    row: Sequence[Cell], columns: Sequence[str], fits: Callable[[str], bool], expected: str
) -> tuple[str, str] | None:
    """Code and detail of the first cell of a row that cannot be used."""
    for column, cell in zip(columns, row, strict=True):
        if cell is None:
            return "missing_label", f"{_column(column)} has no value"
        if not fits(cell):
            return "not_a_number", f"{_column(column)} holds {cell!r} where {expected} is expected"
    return None


def _in_order(found: set[str]) -> tuple[str, ...]:
    """Sorted as numbers where all are numbers, otherwise as texts."""
    numeric = all(is_number(name) for name in found)
    return tuple(sorted(found, key=lambda name: (float(name) if numeric else 0.0, name)))


def _column(name: str) -> str:
    return f"Column {name}" if name != TARGET else "The target"


def _expect(holds: bool, task: str, columns: Sequence[str], why: str) -> None:
    if not holds:
        where = ", ".join(columns[:5]) + ("..." if len(columns) > 5 else "")
        raise UsageError(f"The task cannot be {task} for the target {where}: {why}.")


def retarget(values: Sequence[Target], outputs: Sequence[str], now: str, task: str) -> Targets:
    """Targets of the task `now` as those of another; "auto" makes two classes binary and leaves all else.

    Raises:
        UsageError: they cannot be.
    """
    _check_task(task)
    found = Targets(now, tuple(outputs), list(values))
    if task == "auto":
        task = "binary" if now == "multiclass" and len(outputs) == 2 else now
    if task == now:
        return found
    _expect(
        "regression" not in (now, task) or now in ("multiclass", "binary"),
        task,
        outputs,
        f"its targets are those of {now}",
    )
    classes = [value for value in values if isinstance(value, int)]
    if task == "regression":
        texts = [name for name in outputs if not is_number(name)]
        _expect(
            not texts, task, outputs, f"it needs numbers, and there are classes such as {(*texts, '')[0]!r}"
        )
        return Targets(task, (TARGET,), [(float(outputs[label]),) for label in classes])
    if task == "multilabel":
        return Targets(task, tuple(outputs), [_labels_of(value) for value in values])
    if now == "multilabel":
        return _as_classes(found, task)
    _expect(task != "binary" or len(outputs) == 2, task, outputs, f"it needs 2 classes, not {len(outputs)}")
    found.task = task
    if task == "binary":
        found.outputs = positive_last(outputs)
        new = [found.outputs.index(name) for name in outputs]
        found.values = [new[label] for label in classes]
        found.why = f"2 classes{_said_positive(found)}"
    return found
