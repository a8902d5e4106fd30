"""List the samples of arrays, data sets and loaders of any library, writing each image to a file.

Sources are recognised by what they can do and not by their type, so that none of their libraries is imported:
`tf.data` (`as_numpy_iterator`), Keras' `PyDataset` (`num_batches`), Hugging Face data sets (rows that are
dictionaries), PyTorch loaders (iterables of pairs) and data sets (pairs by number). Batches are split into
their samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from regraft.data.cells import normalise_cell
from regraft.data.image_writer import ImageWriter
from regraft.data.images.rejections import Rejection
from regraft.data.raw_targets import read_raw_targets
from regraft.data.samples import ImageFile, Listing, RejectedFile, Sample, require_majority_usable
from regraft.data.targets import TARGET_NAME
from regraft.errors import DataError, UsageError, suggest_nearest
from regraft.system.console import Reporter

__all__ = ["Stream", "list_stream", "open_arrays", "open_source"]


class Stream(NamedTuple):
    """A stream of images with raw targets.

    Attributes:
        pairs: image (see `ImageWriter.write`) and target: a value, or several.
        total: the largest possible number of pairs, where it is known.
        names: of the classes, where the source holds them.
        target: the name of the target.
    """

    pairs: Iterator[tuple[Any, Any]]
    total: int | None
    names: tuple[str, ...] = ()
    target: str = TARGET_NAME


def open_arrays(images: Any, targets: Any) -> Stream:
    """Open arrays in memory, or lists of images of different sizes.

    Raises:
        UsageError: images and targets differ in length, or are no list or array.
    """
    images, targets = _to_plain(images), _to_plain(targets)
    for name, values in (("images", images), ("targets", targets)):
        if not hasattr(values, "__len__"):
            raise UsageError(f"Expected an array or a list of {name}. Received: {type(values).__name__}.")
    if len(images) != len(targets):
        raise UsageError(f"Expected as many targets as images. Received: {len(targets)} and {len(images)}.")
    return Stream(zip(images, list(targets), strict=True), len(images))


def open_source(source: Any, columns: tuple[str, str], limit: int | None) -> Stream:
    """Open a data set or loader. Arguments and errors are those of `Catalog.from_stream`."""
    items, item_count = _iter_items(source, limit)
    first = next(items, None)
    if first is None:
        raise DataError("The stream holds nothing.")
    batch_size = len(list(_to_pairs(first, columns)))
    total = min((n for n in (item_count and item_count * batch_size, limit) if n is not None), default=None)
    pairs = chain.from_iterable(_to_pairs(item, columns) for item in chain([first], items))
    target = columns[1] if isinstance(first, Mapping) else TARGET_NAME
    return Stream(islice(pairs, limit), total, _find_class_names(source, columns[1]), target)


def list_stream(
    stream: Stream,
    writer: ImageWriter,
    *,
    names: Sequence[str] = (),
    task: str = "auto",
    groups: Any = None,
    reporter: Reporter,
) -> Listing:
    """Write every image and read the targets. Arguments and errors are those of `Catalog.from_arrays`."""
    files: dict[int, ImageFile] = {}
    refused: dict[int, RejectedFile] = {}
    values = []
    with reporter.track("Reading images", stream.total) as advance:
        for number, (image, target) in enumerate(stream.pairs):
            values.append(_to_plain(target))
            try:
                files[number] = writer.write(image)
            except Rejection as rejection:
                refused[number] = RejectedFile(f"image {number}", rejection.code, rejection.detail)
            advance(1)
    if not values:
        raise DataError("The stream holds nothing.")
    writer.check_scale()
    group_names = _read_groups(groups, len(values))
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
        Sample(file.path, target, file.digest, group=group_names[number])
        for (number, file), target in zip(files.items(), targets.values, strict=True)
        if target is not None
    )
    rounded = ("Pixel values were rounded to whole numbers.",) if writer.has_rounded else ()
    notes = (*rounded, *targets.notes)
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


def _iter_items(source: Any, limit: int | None) -> tuple[Iterator[Any], int | None]:
    """Return an iterator over the rows or batches of a source, and their number, where it is known."""
    if hasattr(source, "as_numpy_iterator"):
        batches = int(source.cardinality())
        _require_end(batches != -1, limit)
        return source.as_numpy_iterator(), batches if batches >= 0 else None
    if hasattr(source, "num_batches"):
        batches = source.num_batches
        _require_end(batches is not None, limit)
        numbers = count() if batches is None else range(batches)
        return (source[number] for number in numbers), batches
    length = length_hint(source, -1)  # not `len`: a PyTorch loader may have one and raise TypeError
    if hasattr(source, "__iter__"):
        return iter(source), length if length >= 0 else None
    if length >= 0 and hasattr(source, "__getitem__"):
        return (source[number] for number in range(length)), length
    raise UsageError(
        "Expected a tf.data.Dataset, a Keras PyDataset, a Hugging Face data set, a PyTorch loader or data "
        f"set, or another iterable of images with targets. Received: {type(source).__name__}."
    )


def _require_end(has_end: bool, limit: int | None) -> None:
    if not has_end and limit is None:
        raise UsageError("The stream has no end. Say how many images to take from it: limit=10000.")


def _find_class_names(source: Any, column: str) -> tuple[str, ...]:
    """Return the class names of a source where Hugging Face, Keras and torchvision store them."""
    features = getattr(source, "features", None)
    feature = features.get(column) if isinstance(features, Mapping) else None
    data_set = getattr(source, "dataset", source)
    names = (
        getattr(feature, "names", None)
        or getattr(getattr(feature, "feature", None), "names", None)
        or getattr(source, "class_names", None)
        or getattr(data_set, "classes", None)
    )
    if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return ()


def _to_pairs(item: Any, columns: tuple[str, str]) -> Iterable[tuple[Any, Any]]:
    """Return the pairs of image and target in a row or a batch."""
    if isinstance(item, Mapping):
        missing = [column for column in columns if column not in item]
        if missing:
            hint = suggest_nearest(missing[0], map(str, item))
            raise UsageError(
                f"The stream has no column {missing[0]}. It has: {', '.join(map(str, item))}.{hint} "
                "Name image and target: columns=(IMAGE, TARGET)."
            )
        image, target = (item[column] for column in columns)
    elif isinstance(item, list | tuple) and len(item) == 2:
        image, target = item
    else:
        received = f"{len(item)} things" if isinstance(item, list | tuple) else type(item).__name__
        raise UsageError(
            f"Expected pairs (image, target) or dictionaries in the stream. Received: {received}."
        )
    image, target = _to_plain(image), _to_plain(target)
    if not _is_batch(image, target):
        return [(image, target)]
    return ((_to_plain(one_image), value) for one_image, value in zip(image, target, strict=True))


def _is_batch(image: Any, target: Any) -> bool:
    if isinstance(image, list):
        return True
    if not isinstance(image, np.ndarray):
        return False
    if image.ndim != 3:
        return image.ndim == 4 or image.dtype == object
    has_channels = image.shape[2] in (1, 3) or image.shape[0] in (1, 3)
    return not has_channels and np.ndim(target) > 0 and len(target) == len(image)


def _to_plain(value: Any) -> Any:
    """Convert tensors of any library to arrays and undecoded files to bytes; leave other values alone."""
    if isinstance(value, bytes | str | list | Image.Image | np.ndarray):
        return value
    if isinstance(value, Mapping) and set(value) >= {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "numpy"):
        return value.numpy()
    return np.asarray(value) if hasattr(value, "__array__") else value
