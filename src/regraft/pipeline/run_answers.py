"""Open the answers of a run to the images of a part: those it wrote down, or its model answers again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from regraft.data.images.decode import has_digest
from regraft.data.samples import RejectedFile
from regraft.data.sources import is_in_memory
from regraft.data.table_files import is_table
from regraft.errors import ModelRefused, UsageError
from regraft.inference.bundle import Bundle
from regraft.pipeline.predictions import PREDICTIONS, AnsweredImages, ImageRow, read_predictions, read_split
from regraft.recipe import Recipe

__all__ = ["RunAnswers", "find_image_root", "list_parts", "open_run_answers"]


@dataclass(frozen=True)
class RunAnswers:
    """The answers of a run to the images of a part.

    Attributes:
        name: the run folder, as it was given.
        task: see `regraft.tasks`.
        outputs: names of classes, labels or targets, in the order of the answers' columns.
        rows: the images, n of them.
        targets: as in `Catalog.targets`.
        answers: (n, units), as in `regraft.tasks`.
        thresholds: of each label, (labels,); None for other tasks.
        elsewhere: digests of the images in any other part of the run.
        root: the folder that image names are relative to, if it is still there.
        depth: how many bits of 16-bit samples are used.
    """

    name: str
    task: str
    outputs: tuple[str, ...]
    rows: list[ImageRow]
    targets: NDArray[Any]
    answers: NDArray[np.float64]
    thresholds: NDArray[np.float64] | None
    elsewhere: frozenset[str]
    root: Path | None
    depth: int


def list_parts(run: Path) -> set[str]:
    """Return the parts that have images in a run.

    Raises:
        ModelRefused: the run is damaged.
    """
    return {row.part for row in read_split(run)}


def open_run_answers(name: str | os.PathLike[str], bundle: Bundle, part: str) -> RunAnswers:
    """Return the answers of a run to the images of a part, "test" or "validation".

    A run of an earlier version wrote none down: its model answers again if the images are where they were.

    Raises:
        ModelRefused: the run is damaged.
        UsageError: the run has no answers, and its images are not there any more or have changed.
    """
    split, root = read_split(bundle.path), find_image_root(bundle.path)
    answered = read_predictions(bundle.path, bundle.outputs)
    if answered is None:
        answered = _answer_again(bundle, [row for row in split if row.part == part], root)
    numbers = [number for number, row in enumerate(answered.rows) if row.part == part]
    rows, table = [answered.rows[number] for number in numbers], answered.answers[numbers]
    is_label = bundle.task == "multilabel"
    limits = [bundle.thresholds.get(output, 0.5) for output in bundle.outputs]
    return RunAnswers(
        os.fspath(name),
        bundle.task,
        tuple(bundle.outputs),
        rows,
        _parse_targets(bundle, rows),
        table[:, 1:] if bundle.task == "binary" else table,
        np.array(limits) if is_label else None,
        frozenset(content for row in split if row.part != part for content in row.digest.split()),
        root,
        bundle.depth,
    )


def find_image_root(run: Path) -> Path | None:
    """Return the folder that the images of a run are in, by its recipe; None if it is not known any more."""
    try:
        recipe = Recipe.from_toml(run / "recipe.toml")
    except UsageError:  # written by another version, or gone: nothing but the images needs it
        return None
    if not recipe.data or is_in_memory(recipe.data):
        return None
    data = Path(recipe.data)
    root = Path(recipe.root) if recipe.root else data.parent if is_table(data) else data
    return root if root.is_dir() else None


def _answer_again(bundle: Bundle, rows: list[ImageRow], root: Path | None) -> AnsweredImages:
    """Let the model answer images that lie where they lay in training, with the same content."""
    cure = (
        f"{bundle.path} has no {PREDICTIONS}: an earlier version wrote it, or its answers were too many. "
        f"Make the run again: regraft train --recipe {bundle.path / 'recipe.toml'} -o NEW"
    )
    if root is None or bundle.images_per_sample > 1:
        raise UsageError(f"{cure}, with the images where the recipe says.")
    paths = [root / row.image for row in rows]
    changed = [row.image for row, path in zip(rows, paths, strict=True) if not has_digest(path, row.digest)]
    if changed:
        raise UsageError(f"{cure}. Its images have changed or gone, such as {changed[0]} in {root}.")
    answers = []
    for row, prediction in zip(rows, bundle.predict(paths) if paths else (), strict=True):
        if isinstance(prediction, RejectedFile):
            raise UsageError(f"{cure}. The image {row.image} is refused now: {prediction.code}.")
        answers.append([prediction.values[output] for output in bundle.outputs])
    return AnsweredImages(rows, np.array(answers, np.float64).reshape(len(rows), len(bundle.outputs)))


def _parse_targets(bundle: Bundle, rows: Sequence[ImageRow]) -> NDArray[Any]:
    """Return targets written in words as an array; see `Catalog.describe_target`."""
    numbers = {name: number for number, name in enumerate(bundle.outputs)}
    try:
        if bundle.task == "regression":
            values = [[float(word) for word in row.target.split(", ")] for row in rows]
            return np.array(values, np.float64).reshape(len(rows), len(numbers))
        if bundle.task == "multilabel":
            targets = np.zeros((len(rows), len(numbers)), np.float32)
            for flags, row in zip(targets, rows, strict=True):
                flags[[numbers[label] for label in row.target.split(", ") if row.target]] = 1
            return targets
        return np.array([numbers[row.target] for row in rows], np.int64)
    except (KeyError, ValueError) as error:
        hint = " Labels with a comma cannot be told apart." if any("," in name for name in numbers) else ""
        raise ModelRefused(
            f"{bundle.path} is damaged: expected targets among its {len(numbers)} outputs. "
            f"Received: {error}.{hint}"
        ) from error
