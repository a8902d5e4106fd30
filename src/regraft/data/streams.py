"""Arrays, data sets and loaders of any library -> samples: each picture is spooled once, none is kept.

Sources are known by what they can do, not by their type, so none of their libraries is imported: `tf.data`
(`as_numpy_iterator`), Keras' `PyDataset` (`num_batches`), Hugging Face data sets (rows that are
dictionaries), PyTorch loaders (iterables of pairs) and data sets (pairs by number). Batches are taken
apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, count, islice
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from regraft.data.image_writer import Spool
from regraft.data.images.rejections import Refusal
from regraft.data.samples import Listing, Photo, Refused, Sample, expect_most
from regraft.data.table_files import as_cell
from regraft.data.targets import TARGET, Targets, read_targets
from regraft.errors import DataError, UsageError, nearest
from regraft.system.console import Reporter

__all__ = ["Stream", "list_stream", "open_arrays", "open_source"]

UNIT_SEPARATOR = "\x1f"  # stands between labels that come as a list


class Stream(NamedTuple):
    """Pictures with raw targets, one at a time.

    Attributes:
        pairs: picture (see `Spool.put`) and target: a value, or several.
        total: how many there are at most, where that is known.
        names: of the classes, where the source says them.
        target: what the target is called.
    """

    pairs: Iterator[tuple[Any, Any]]
    total: int | None
    names: tuple[str, ...] = ()
    target: str = TARGET


def open_arrays(images: Any, targets: Any) -> Stream:
    """Arrays in memory, or lists of pictures of different sizes.

    Raises:
        UsageError: they differ in length, or are no list of pictures.
    """
    images, targets = _plain(images), _plain(targets)
    for what, values in (("images", images), ("targets", targets)):
        if not hasattr(values, "__len__"):
            raise UsageError(f"Expected an array or a list of {what}. Received: {type(values).__name__}.")
    if len(images) != len(targets):
        raise UsageError(f"Expected as many targets as images. Received: {len(targets)} and {len(images)}.")
    return Stream(zip(images, list(targets), strict=True), len(images))


def open_source(source: Any, columns: tuple[str, str], limit: int | None) -> Stream:
    """A data set or loader. Arguments and errors are those of `Catalog.from_stream`."""
    items, known = _items(source, limit)
    first = next(items, None)
    if first is None:
        raise DataError("The stream holds nothing.")
    each = len(list(_pairs(first, columns)))
    total = min((n for n in (known and known * each, limit) if n is not None), default=None)
    pairs = chain.from_iterable(_pairs(item, columns) for item in chain([first], items))
    target = columns[1] if isinstance(first, Mapping) else TARGET
    return Stream(islice(pairs, limit), total, _names(source, columns[1]), target)


def list_stream(
    stream: Stream,
    spool: Spool,
    *,
    names: Sequence[str] = (),
    task: str = "auto",
    groups: Any = None,
    reporter: Reporter,
) -> Listing:
    """Spool every picture and read the targets. Arguments and errors are those of `Catalog.from_arrays`."""
    kept: dict[int, Photo] = {}
    refused: dict[int, Refused] = {}
    raw = []
    with reporter.track("Reading images", stream.total) as advance:
        for number, (picture, target) in enumerate(stream.pairs):
            raw.append(_cells(target))
            try:
                kept[number] = spool.put(picture)
            except Refusal as verdict:
                refused[number] = Refused(f"image {number}", verdict.code, verdict.detail)
            advance(1)
    if not raw:
        raise DataError("The stream holds nothing.")
    spool.check()
    group = _groups(groups, len(raw))
    targets = _targets(raw, stream, names, task)
    refused |= {n: Refused(f"image {n}", *verdict) for n, verdict in targets.refused.items() if n in kept}
    in_order = tuple(refused[number] for number in sorted(refused))
    expect_most(in_order, len(raw), "images")
    samples = tuple(
        Sample(photo.path, target, photo.digest, group=group[number])
        for number, photo in kept.items()
        if (target := targets.values[number]) is not None
    )
    notes = ("Pixel values were rounded to whole numbers.",) if spool.rounded else ()
    return Listing(spool.root, targets.outputs, samples, in_order, notes, targets.task, targets.why)


def _targets(raw: list[tuple[str | None, ...]], stream: Stream, names: Sequence[str], task: str) -> Targets:
    names = tuple(names) or stream.names
    widths = {len(cells) for cells in raw}
    if widths == {1}:
        return read_targets(raw, [stream.target], task=task, names=names)
    width = max(widths)
    if len(widths) > 1 or (stream.names and width != len(names)):  # lists of labels
        rows = [(UNIT_SEPARATOR.join(cell for cell in cells if cell),) for cells in raw]
        return read_targets(rows, [stream.target], task=task, separator=UNIT_SEPARATOR, names=names)
    if names and len(names) != width:
        raise UsageError(f"Expected {width} names, one for each target. Received: {len(names)}.")
    return read_targets(raw, names or [str(place) for place in range(width)], task=task)


def _groups(groups: Any, n: int) -> list[str]:
    if groups is None:
        return [""] * n
    found = [as_cell(group) or "" for group in groups]
    if len(found) != n:
        raise UsageError(f"Expected as many groups as images. Received: {len(found)} and {n}.")
    if len(set(found)) < 2:
        raise DataError("All images are in one group: groups are kept whole, so at least two are needed.")
    return found


def _items(source: Any, limit: int | None) -> tuple[Iterator[Any], int | None]:
    """What a source gives one by one (rows or batches), and how many times, where it says so."""
    if hasattr(source, "as_numpy_iterator"):
        batches = int(source.cardinality())
        _expect_end(batches != -1, limit)
        return source.as_numpy_iterator(), batches if batches >= 0 else None
    if hasattr(source, "num_batches"):
        batches = source.num_batches
        _expect_end(batches is not None, limit)
        numbers = count() if batches is None else range(batches)
        return (source[number] for number in numbers), batches
    length = length_hint(source, -1)  # not `len`: a PyTorch loader may have one and raise TypeError
    known = length if length >= 0 else None
    if hasattr(source, "__iter__"):
        return iter(source), known
    if known is not None and hasattr(source, "__getitem__"):
        return (source[number] for number in range(known)), known
    raise UsageError(
        "Expected a tf.data.Dataset, a Keras PyDataset, a Hugging Face data set, a PyTorch loader or data "
        f"set, or another iterable of images with targets. Received: {type(source).__name__}."
    )


def _expect_end(has_one: bool, limit: int | None) -> None:
    if not has_one and limit is None:
        raise UsageError("The stream has no end. Say how many images to take of it: limit=10000.")


def _names(source: Any, column: str) -> tuple[str, ...]:
    """The class names of a source, as Hugging Face, Keras and torchvision keep them."""
    features = getattr(source, "features", None)
    feature = features.get(column) if isinstance(features, Mapping) else None
    below = getattr(source, "dataset", source)
    found = (
        getattr(feature, "names", None)
        or getattr(getattr(feature, "feature", None), "names", None)
        or getattr(source, "class_names", None)
        or getattr(below, "classes", None)
    )
    if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found):
        return tuple(found)
    return ()


def _pairs(item: Any, columns: tuple[str, str]) -> Iterable[tuple[Any, Any]]:
    """The pictures and targets in a row or a batch."""
    if isinstance(item, Mapping):
        missing = [column for column in columns if column not in item]
        if missing:
            raise UsageError(
                f"The stream has no column {missing[0]}. It has: {', '.join(map(str, item))}."
                f"{nearest(missing[0], map(str, item))} Name image and target: columns=(IMAGE, TARGET)."
            )
        picture, target = (item[column] for column in columns)
    elif isinstance(item, list | tuple) and len(item) == 2:
        picture, target = item
    else:
        what = f"{len(item)} things" if isinstance(item, list | tuple) else type(item).__name__
        raise UsageError(f"Expected pairs (image, target) or dictionaries from the stream. Received: {what}.")
    picture, target = _plain(picture), _plain(target)
    if not _is_batch(picture, target):
        return [(picture, target)]
    return ((_plain(each), value) for each, value in zip(picture, target, strict=True))


def _is_batch(picture: Any, target: Any) -> bool:
    if isinstance(picture, list):
        return True
    if not isinstance(picture, np.ndarray):
        return False
    if picture.ndim != 3:
        return picture.ndim == 4 or picture.dtype == object
    is_picture = picture.shape[2] in (1, 3) or picture.shape[0] in (1, 3)
    return not is_picture and np.ndim(target) > 0 and len(target) == len(picture)


def _plain(value: Any) -> Any:
    """Tensors of any library as arrays; undecoded files as their bytes; other things as they are."""
    if isinstance(value, bytes | str | list | Image.Image | np.ndarray):
        return value
    if isinstance(value, Mapping) and set(value) >= {"bytes", "path"}:
        return value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes()
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "numpy"):
        return value.numpy()
    return np.asarray(value) if hasattr(value, "__array__") else value


def _cells(target: Any) -> tuple[str | None, ...]:
    target = _plain(target)
    if isinstance(target, str | bytes) or np.ndim(target) == 0:
        return (as_cell(target),)
    return tuple(as_cell(value) for value in np.ravel(target))
