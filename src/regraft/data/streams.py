"""List the samples of arrays, data sets and loaders of any library, writing each image to a file.

Loaders and subsets hold their data set as `dataset`, concatenations as `datasets`. The names of classes are
in various places:

| library | place |
|---|---|
| Hugging Face | `features[column].names`, or `.feature.names` of a list of labels |
| Keras, `image_dataset_from_directory` | `class_names` |
| Keras, `flow_from_directory` | `class_indices`: name -> number |
| torchvision | `classes`, or `class_to_idx`: name -> number |
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from regraft.data.cells import normalise_cell, read_weight
from regraft.data.image_writer import ImageWriter
from regraft.data.images.rejections import Rejection
from regraft.data.raw_targets import read_raw_targets
from regraft.data.samples import ImageFile, Listing, RejectedFile, Sample, require_majority_usable
from regraft.data.stream_items import Pair, iter_items, split_items, to_plain
from regraft.data.targets import TARGET_NAME
from regraft.errors import DataError, UsageError
from regraft.system.console import Reporter

__all__ = ["Stream", "find_class_names", "list_stream", "open_arrays", "open_source"]


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


class Stream(NamedTuple):
    """A stream of images with raw targets.

    Attributes:
        pairs: image (see `ImageWriter.write`) and target: a value, or several.
        total: the largest possible number of pairs, where it is known.
        names: of the classes, where the source holds them.
        target: the name of the target.
    """

    pairs: Iterator[Pair]
    total: int | None
    names: tuple[str, ...] = ()
    target: str = TARGET_NAME


def open_arrays(images: Any, targets: Any) -> Stream:
    """Open arrays in memory, or lists of images of different sizes.

    Raises:
        UsageError: images and targets differ in length, or are no list or array.
    """
    images, targets = to_plain(images), to_plain(targets)
    for name, values in (("images", images), ("targets", targets)):
        if not hasattr(values, "__len__"):
            raise UsageError(f"Expected an array or a list of {name}. Received: {type(values).__name__}.")
    if len(images) != len(targets):
        raise UsageError(f"Expected as many targets as images. Received: {len(targets)} and {len(images)}.")
    return Stream(zip(images, list(targets), strict=True), len(images))


def open_source(source: Any, columns: tuple[str, str], limit: int | None) -> Stream:
    """Open a data set or loader. Arguments and errors are those of `Catalog.from_stream`."""
    items, item_count = iter_items(source, limit)
    pairs, first, batch_size = split_items(items, source, columns)
    total = min((n for n in (item_count and item_count * batch_size, limit) if n is not None), default=None)
    target = columns[1] if isinstance(first, Mapping) else TARGET_NAME
    return Stream(islice(pairs, limit), total, find_class_names(source, columns[1]), target)


def list_stream(
    stream: Stream,
    writer: ImageWriter,
    *,
    names: Sequence[str] = (),
    task: str = "auto",
    groups: Any = None,
    weights: Any = None,
    reporter: Reporter,
) -> Listing:
    """Write every image and read the targets. Arguments and errors are those of `Catalog.from_arrays`."""
    files: dict[int, ImageFile] = {}
    refused: dict[int, RejectedFile] = {}
    values = []
    with reporter.track("Reading images", stream.total) as advance:
        for number, (image, target) in enumerate(stream.pairs):
            values.append(to_plain(target))
            try:
                files[number] = writer.write(image)
            except Rejection as rejection:
                refused[number] = RejectedFile(f"image {number}", rejection.code, rejection.detail)
            advance(1)
    if not values:
        raise DataError("The stream holds nothing.")
    writer.check_scale()
    group_names, image_weights = _read_groups(groups, len(values)), _read_weights(weights, len(values))
    require_majority_usable(tuple(refused.values()), len(values), "images")
    # An image that is refused has no say in what the task is.
    used = [values[number] for number in files]
    targets = read_raw_targets([used], [stream.target], task=task, names=tuple(names) or stream.names)
    for index, number in enumerate(files):
        if index in targets.refused:
            refused[number] = RejectedFile(f"image {number}", *targets.refused[index])
    all_refused = tuple(refused[number] for number in sorted(refused))
    require_majority_usable(all_refused, len(values), "images")
    samples = tuple(
        Sample(file.path, target, file.digest, group=group_names[number], weight=image_weights[number])
        for (number, file), target in zip(files.items(), targets.values, strict=True)
        if target is not None
    )
    darkness = writer.describe_darkness()
    if darkness:
        reporter.warn(darkness)
    rounded = ("Pixel values were rounded to whole numbers.",) if writer.has_rounded else ()
    notes = (*rounded, *targets.notes, *([darkness] if darkness else []))
    return Listing(writer.root, targets.outputs, samples, all_refused, notes, targets.task, targets.why)


def _read_groups(groups: Any, n: int) -> list[str]:
    if groups is None:
        return [""] * n
    names = [normalise_cell(group) or "" for group in groups]
    if len(names) != n:
        raise UsageError(f"Expected as many groups as images. Received: {len(names)} and {n}.")
    if len(set(names)) < 2:
        raise DataError("All images are in one group: a group stays in one part, so at least two are needed.")
    return names


def _read_weights(weights: Any, n: int) -> list[float]:
    if weights is None:
        return [1.0] * n
    numbers = [read_weight(normalise_cell(weight)) for weight in to_plain(weights)]
    if len(numbers) != n:
        raise UsageError(f"Expected as many weights as images. Received: {len(numbers)} and {n}.")
    for number, weight in enumerate(numbers):
        if isinstance(weight, str):
            raise DataError(
                f"Expected a weight from 0 for each image. The weight of image {number} {weight}."
            )
    return [float(weight) for weight in numbers]
