"""The targets of labelled images, numbered like the outputs of a trained model."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import TABLE_SUFFIXES, Catalog
from regraft.errors import DataError, UsageError
from regraft.recipe import Recipe, TaskChoice

__all__ = ["number_targets", "open_labelled"]

MOST_NAMES = 10  # that a message lists

Names = str | Sequence[str]


def open_labelled(
    data: Catalog | str | os.PathLike[str], manifest: Mapping[str, Any], columns: tuple[Names, Names, str]
) -> Catalog:
    """List samples with targets of the task of a run.

    Args:
        data: a folder, a table or a catalog.
        manifest: that of the run.
        columns: those of images and of targets, and the separator; empty ones are the run's, for a table.

    Raises:
        UsageError: see `Catalog.open`; or samples have another number of images than the run's.
    """
    image, target = (_to_names(names) for names in columns[:2])
    separator = columns[2]
    if not isinstance(data, Catalog) and _is_table(Path(data)):
        own = manifest["columns"]
        image, target = image or tuple(own["image"]), target or tuple(own["target"])
        separator = separator or (own["separator"] if len(target) == 1 else "")
        if not image or not target:
            raise UsageError(
                f"{data} is a table, and the model was trained without one: name its column of images with "
                "--image and that of targets with --target."
            )
    # A part of the data may hold one class, so the model's task decides only whether there are classes.
    task = "multiclass" if manifest["task"] == "binary" else manifest["task"]
    recipe = Recipe(image=image, target=target, separator=separator, task=cast("TaskChoice", task))
    catalog = Catalog.open(data, recipe)
    missing = [name for name in manifest["outputs"] if name not in catalog.outputs]
    if task == "multilabel" and len(target) > 1 and missing:
        raise UsageError(f"--target: expected a column of each label. Missing: {_list_names(missing)}.")
    counts = {len(sample.images) for sample in catalog.samples} - {manifest["photos"]}
    if counts:
        raise UsageError(
            f"Expected {manifest['photos']} images per sample, a column of a table for each (--image A,B). "
            f"Received: {counts.pop()}."
            if manifest["photos"] > 1
            else f"Expected one image per sample. Received: {counts.pop()}. Name one column with --image."
        )
    return catalog


def number_targets(catalog: Catalog, outputs: Sequence[str]) -> NDArray[Any]:
    """Return the targets of a catalog, numbered like the outputs of a model.

    Raises:
        DataError: an image has a class or label that the model does not know, or a target is missing.
    """
    targets = catalog.targets(catalog.samples)
    if catalog.task == "regression":
        return targets[:, _order_targets(catalog.outputs, outputs)]
    used = np.flatnonzero(targets.any(0)) if targets.ndim > 1 else np.unique(targets)
    names = [catalog.outputs[number] for number in used.tolist()]
    _require_known(catalog, names, outputs)
    numbers = [outputs.index(name) if name in outputs else 0 for name in catalog.outputs]
    if targets.ndim == 1:
        return np.asarray(np.array(numbers)[targets])
    renumbered = np.zeros((len(targets), len(outputs)), np.float32)
    renumbered[:, np.array(numbers)[used]] = targets[:, used]
    return renumbered


def _require_known(catalog: Catalog, names: Sequence[str], outputs: Sequence[str]) -> None:
    unknown = [name for name in names if name not in outputs]
    if not unknown:
        return
    kind = "labels" if catalog.task == "multilabel" else "classes"
    if len(unknown) < len(names):
        received = f"Received also: {_list_names(unknown)}. Take out their images, or train a model on them."
    else:
        received = (
            f"Received none of them, but {_list_names(unknown)}. Give the folder whose subfolders are these "
            f"{kind}, or name the table's column with --target."
        )
    raise DataError(f"Expected {kind} that the model knows: {_list_names(outputs)}. {received}")


def _order_targets(names: Sequence[str], outputs: Sequence[str]) -> list[int]:
    """Return the column of each output. A single number is the model's, whatever it is called."""
    if len(names) == len(outputs) == 1:
        return [0]
    missing = [name for name in outputs if name not in names]
    if missing:
        raise DataError(
            f"Expected a column of each target of the model: {_list_names(outputs)}. "
            f"Missing: {_list_names(missing)}. Received: {_list_names(names)}."
        )
    return [names.index(name) for name in outputs]


def _list_names(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def _to_names(names: Names) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) and names else tuple(names)


def _is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLE_SUFFIXES and not path.is_dir()
