"""Find the class names that a data set or loader holds, through the layers that libraries wrap around it.

| library | where |
|---|---|
| Hugging Face | `features[column].names`, or `.feature.names` of a list of labels |
| Keras, `image_dataset_from_directory` | `class_names` |
| Keras, `flow_from_directory` | `class_indices`: name -> number |
| torchvision | `classes`, or `class_to_idx`: name -> number |

Loaders and subsets hold their data set as `dataset`, concatenations as `datasets`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["find_class_names"]

MAX_LAYERS = 16  # around a data set


def find_class_names(source: Any, column: str) -> tuple[str, ...]:
    """Return the names of the classes 0, 1, 2, ... of a source; none where it does not tell them.

    Args:
        source: a data set or loader.
        column: the target's name where rows are dictionaries.

    Example:
        >>> from types import SimpleNamespace
        >>> subset = SimpleNamespace(dataset=SimpleNamespace(class_to_idx={"dog": 1, "cat": 0}))
        >>> find_class_names(SimpleNamespace(dataset=subset), "label")
        ('cat', 'dog')
    """
    for _ in range(MAX_LAYERS):
        for candidate in _list_candidates(source, column):
            if names := _read_names(candidate):
                return names
        members = getattr(source, "datasets", None)
        if isinstance(members, list | tuple) and members:
            names_of_members = {find_class_names(member, column) for member in members}
            return names_of_members.pop() if len(names_of_members) == 1 else ()
        source = getattr(source, "dataset", None)
        if source is None:
            break
    return ()


def _list_candidates(source: Any, column: str) -> Iterator[Any]:
    features = getattr(source, "features", None)
    feature = features.get(column) if isinstance(features, Mapping) else None
    yield getattr(feature, "names", None)
    yield getattr(getattr(feature, "feature", None), "names", None)
    for name in ("class_names", "classes", "class_indices", "class_to_idx"):
        yield getattr(source, name, None)


def _read_names(candidate: Any) -> tuple[str, ...]:
    """Return the names in a list, or in a mapping from names to numbers; none for anything else."""
    if isinstance(candidate, Mapping):
        numbers = list(candidate.values())
        if not all(isinstance(number, int | np.integer) for number in numbers):
            return ()
        if sorted(numbers) != list(range(len(numbers))):
            return ()
        candidate = sorted(candidate, key=candidate.__getitem__)
    if isinstance(candidate, np.ndarray):
        candidate = candidate.tolist()
    if isinstance(candidate, list | tuple) and all(isinstance(name, str) for name in candidate):
        return tuple(candidate)
    return ()
