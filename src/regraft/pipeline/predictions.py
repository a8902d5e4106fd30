"""The answers of a run to each image of its test and validation part: the file predictions.csv.

    image,digest,part,target,cat,dog
    cat/1.jpg,6a09e667f3bcc908b2fb1366ea957d3e,test,cat,0.93,0.07

After the target comes a column for each class, label or target: its probability, or its value. An answer of
two classes has both probabilities. Images are named as in split.csv; several images of a sample have their
digests in one cell, separated by blanks.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Sample
from regraft.data.cells import escape_formula, unescape_formula
from regraft.errors import ModelRefused, describe_os_error
from regraft.system.console import Reporter
from regraft.tasks import TASKS

__all__ = [
    "PREDICTIONS",
    "SPLIT",
    "AnsweredImages",
    "ImageRow",
    "join_digests",
    "read_predictions",
    "read_split",
    "write_csv",
    "write_predictions",
]

PREDICTIONS, SPLIT = "predictions.csv", "split.csv"
MAX_NUMBERS = 10_000_000  # in the file, about 100 MB; of more it is not written
HEADER = ["image", "digest", "part", "target"]


@dataclass(frozen=True)
class ImageRow:
    """An image of a run: its path in the data, its digests in one text, its part and its target in words."""

    image: str
    digest: str
    part: str
    target: str


@dataclass(frozen=True)
class AnsweredImages:
    """Images with a run's answers, float64 (n, outputs), a column for each class, label or target."""

    rows: list[ImageRow]
    answers: NDArray[np.float64]


def join_digests(sample: Sample) -> str:
    """Return the digests of a sample's images in one text."""
    return " ".join(image.digest for image in sample.images)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a CSV file whose texts no spreadsheet takes for formulas."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [escape_formula(cell) if isinstance(cell, str) else cell for cell in row]
            for row in (header, *rows)
        )


def write_predictions(
    catalog: Catalog,
    answers: Mapping[str, tuple[NDArray[Any], NDArray[Any]]],
    folder: Path,
    reporter: Reporter,
    *,
    most: int = MAX_NUMBERS,
) -> None:
    """Write the answers of the final model to each scored part; see `Outcome.answers`.

    They are not written, and the reporter is told, if they are more than `most` numbers.
    """
    count = sum(len(catalog.part(part)) for part in answers) * len(catalog.outputs)
    if count > most:
        reporter.info(f"{PREDICTIONS} is not written: it would hold {count:,} numbers.")
        return
    task, digits = TASKS[catalog.task], 17 if catalog.task == "regression" else 9
    write_csv(
        folder / PREDICTIONS,
        [*HEADER, *catalog.outputs],
        [
            [sample.path, join_digests(sample), part, catalog.describe_target(sample)]
            + [float(f"{number:.{digits}g}") for number in row]
            for part, (final, _) in answers.items()
            for sample, row in zip(catalog.part(part), task.expand_binary(final).tolist(), strict=True)
        ],
    )


def read_predictions(run: Path, outputs: Sequence[str]) -> AnsweredImages | None:
    """Read the answers in a run folder; None for a run without them, as earlier versions wrote it.

    Raises:
        ModelRefused: the file is damaged.
    """
    path = run / PREDICTIONS
    if not path.exists():
        return None
    header, rows = _read_csv(path)
    if header != [*HEADER, *map(escape_formula, outputs)]:
        raise ModelRefused(
            f"{path} is damaged: its columns are not those of a model of {len(outputs)} outputs."
        )
    try:
        answers = np.array([[float(cell) for cell in row[len(HEADER) :]] for row in rows], np.float64)
    except ValueError as error:
        raise ModelRefused(f"{path} is damaged: {error}.") from error
    if not math.isfinite(float(answers.sum())):
        raise ModelRefused(f"{path} is damaged: it holds numbers that are not finite.")
    names = ([unescape_formula(cell) for cell in row[: len(HEADER)]] for row in rows)
    return AnsweredImages([ImageRow(*cells) for cells in names], answers.reshape(len(rows), len(outputs)))


def read_split(run: Path) -> list[ImageRow]:
    """Read every image of a run with its part.

    Raises:
        ModelRefused: the run has no such file, or it is damaged.
    """
    header, rows = _read_csv(run / SPLIT)
    if header != ["image", "target", "part", "digest"]:
        raise ModelRefused(f"{run / SPLIT} is damaged: it has other columns than regraft writes.")
    names = ([unescape_formula(cell) for cell in row] for row in rows)
    return [ImageRow(image, digest, part, target) for image, target, part, digest in names]


def _read_csv(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file, strict=True)
    except OSError as error:
        raise ModelRefused(
            f"{path.parent} is damaged: no {path.name} ({describe_os_error(error)})."
        ) from error
    except (ValueError, csv.Error) as error:  # no header, or no text
        raise ModelRefused(f"{path} is damaged: it is not the table that regraft wrote.") from error
    if any(len(row) != len(header) for row in rows):
        raise ModelRefused(f"{path} is damaged: its rows have other lengths than its header.")
    return header, rows
