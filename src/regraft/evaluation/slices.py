"""Slices: the images of a part by folder, size, brightness or a column of the table, and where a model fails.

A good score of all images may hide a hospital, a camera or dark images on which the model is much worse.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.cells import is_number
from regraft.data.images.decode import ImageFacts
from regraft.evaluation.scores import MEASURES, format_three_digits
from regraft.evaluation.shortcuts import strip_known_folders
from regraft.metrics.groups import GroupRow, score_groups
from regraft.metrics.multilabel import compute_label_losses
from regraft.tasks import TASKS

__all__ = ["SLICE_MEASURES", "describe_worse_slices", "format_chance", "make_slices", "score_slices"]

SLICE_MEASURES = {"multiclass": "top1", "binary": "top1", "multilabel": "log_loss", "regression": "mae"}
MAX_VALUES = 30  # of a column, the most frequent; the more are tested, the worse one must be to be sure
QUARTERS = 4
MIN_NUMBERS = 9  # distinct numbers of a column that is divided into quarters; fewer count as values
LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue, ITU-R BT.601


def score_slices(
    catalog: Catalog,
    part: str,
    answers: NDArray[Any],
    *,
    facts: Sequence[ImageFacts],
    columns: Sequence[str] = (),
    seed: int = 0,
) -> tuple[GroupRow, ...]:
    """Score the slices of a part, those that are worse than the rest first.

    Args:
        catalog: split into parts.
        part: "test" or "validation".
        answers: to the samples of the part, (n, units), as in `regraft.tasks`.
        facts: what the decoder learnt of these samples.
        columns: names of `Sample.cells`.
        seed: see `score_groups`.

    Example:
        >>> from pathlib import Path
        >>> samples = tuple(
        ...     Sample(f"{n}.png", n % 2, f"{n:032x}", "test", cells=("AB"[n < 20],)) for n in range(60)
        ... )
        >>> answers = np.array([[(n % 2) ^ (n < 20)] for n in range(60)])  # wrong where n < 20
        >>> catalog = Catalog(Path(), ("no", "yes"), samples, task="binary")
        >>> facts = [ImageFacts(64, 64, "PNG")] * 60
        >>> rows = score_slices(catalog, "test", answers, facts=facts, columns=["camera"])
        >>> [(row.column, row.value, row.score.value, row.worse) for row in rows]
        [('camera', 'B', 0.0, True), ('camera', 'A', 1.0, False)]
    """
    samples, measure = catalog.part(part), SLICE_MEASURES[catalog.task]
    quality = _rate_answers(catalog.task, catalog.targets(samples), np.asarray(answers, np.float64))
    slices = make_slices(catalog, samples, facts, columns)
    return tuple(score_groups(quality, slices, is_error=measure != "top1", seed=seed))


def make_slices(
    catalog: Catalog, samples: Sequence[Sample], facts: Sequence[ImageFacts], columns: Sequence[str] = ()
) -> dict[str, list[str]]:
    """Return for each way to divide samples the slice of each of them, "" for none.

    Ways are folder, image size (the longer side in pixels), brightness (0 to 255), and the columns. Numbers
    are divided into quarters. The other arguments are as for `score_slices`.
    """
    sizes = [float(max(fact.width, fact.height)) for fact in facts]
    thumbnails = np.array([np.frombuffer(fact.thumbnail, np.uint8) for fact in facts], np.float64)
    brightness = (thumbnails.reshape(len(facts), -1, 3) @ LUMA).mean(axis=1).round()
    folders = [strip_known_folders(sample.path, catalog.describe_target(sample)) for sample in samples]
    return {
        **{name: _divide([sample.cells[k] for sample in samples]) for k, name in enumerate(columns)},
        "folder": _drop_rare(folders),
        "image size": _divide_numbers(sizes, " px"),
        "brightness": _divide_numbers(brightness.tolist()),
    }


def describe_worse_slices(rows: Sequence[GroupRow], *, task: str, part: str) -> list[str]:
    """Return a sentence for each slice that is worse than the rest.

    >>> from regraft.metrics.intervals import Interval
    >>> row = GroupRow("camera", "B", 48, Interval(0.5208, 0.38, 0.65), 0.87, 0.0004, True)
    >>> describe_worse_slices([row], task="binary", part="test")
    ['Worse on the 48 test images whose camera is B: a top-1 accuracy of 52.1 % against 87.0 % on the others
    (p < 0.001, corrected for the number of slices).']
    """
    name = SLICE_MEASURES[task]
    label, is_share = MEASURES[name].label, MEASURES[name].is_share
    label = label[0].lower() + label[1:]

    def write(value: float) -> str:
        return f"{100 * value:.1f} %" if is_share else format_three_digits(value)

    return [
        f"Worse on the {row.n:,} {part} images whose {row.column} is {row.value}: a {label} of "
        f"{write(row.score.value)} against {write(row.rest)} on the others "
        f"({format_chance(row.p_value)}, corrected for the number of slices)."
        for row in rows
        if row.worse
    ]


def format_chance(p_value: float) -> str:
    """Format a p-value with its relation.

    >>> format_chance(0.0314), format_chance(2e-8)
    ('p = 0.031', 'p < 0.001')
    """
    return f"p = {p_value:.2g}" if p_value >= 0.001 else "p < 0.001"


def _rate_answers(task: str, targets: NDArray[Any], answers: NDArray[np.float64]) -> NDArray[Any]:
    """Return whether each answer is right, (n,); log loss for labels, mean absolute error for numbers."""
    if task == "multilabel":
        return np.asarray(compute_label_losses(targets.astype(bool), answers))
    if task == "regression":
        return np.asarray(abs(answers - targets).mean(axis=1))
    return np.asarray(TASKS[task].expand_binary(answers).argmax(axis=1) == targets)


def _divide(cells: Sequence[str]) -> list[str]:
    """Return the slice of each cell: its quarter in a column of many numbers, otherwise its value."""
    values = {cell for cell in cells if cell}
    if len(values) < MIN_NUMBERS or not all(map(is_number, values)):
        return _drop_rare(cells)
    return _divide_numbers([float(cell) if cell else np.nan for cell in cells])


def _divide_numbers(values: Sequence[float], unit: str = "") -> list[str]:
    """Return the quarter of each number as a text, "" for NaN, or for all if they hardly differ."""
    numbers = np.asarray(values, np.float64)
    ordered = np.sort(numbers[np.isfinite(numbers)])
    edges = np.unique([ordered[len(ordered) * k // QUARTERS] for k in range(1, QUARTERS) if len(ordered)])
    edges = edges[edges > ordered[:1]] if len(edges) else edges  # nothing lies under the lowest number
    if not len(edges):
        return [""] * len(numbers)
    texts = [f"{edge:.10g}" for edge in edges]
    between = [f"{low} to under {high}{unit}" for low, high in itertools.pairwise(texts)]
    names = [f"under {texts[0]}{unit}", *between, f"{texts[-1]}{unit} or more"]
    places = np.searchsorted(edges, numbers, side="right")
    return [names[n] if np.isfinite(x) else "" for n, x in zip(places.tolist(), numbers, strict=True)]


def _drop_rare(cells: Sequence[str]) -> list[str]:
    """Return the cells without those of values that are not among the most frequent."""
    frequent = {value for value, _ in Counter(filter(None, cells)).most_common(MAX_VALUES)}
    return [cell if cell in frequent else "" for cell in cells]
