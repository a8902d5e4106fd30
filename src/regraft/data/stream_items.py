"""Read the items of a source of images with targets, and split those that are batches into samples.

Sources are recognised by what they can do and not by their type, so that none of their libraries is imported:
`tf.data` (`as_numpy_iterator`), Keras' `PyDataset` (`num_batches`), Hugging Face data sets (rows that are
dictionaries), PyTorch loaders (iterables of pairs) and data sets (pairs by number).

Whether items are samples or batches is a fact of the source and is decided once, before the first is used. An
item that cannot be read, or is no pair of image and target, is refused; the others are read all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, count, islice
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from regraft.data.images.rejections import Rejection
from regraft.errors import DataError, UsageError, describe_os_error, shorten_error, suggest_nearest

__all__ = ["Pair", "iter_items", "split_items", "to_plain"]

MAX_LOOK_AHEAD = 16  # items that are read, at most, to learn whether items are batches

ENOUGH_ROWS = 8  # one-hot rows of three; batches of three labels, 0 or 1, all look so once in 2,500 times

Pair = tuple[Any, Any]  # an image, or why there is none, and its target


def iter_items(source: Any, limit: int | None) -> tuple[Iterator[Any], int | None]:
    """Return an iterator over the rows or batches of a source, and their number, where it is known.

    A row that cannot be read is a `Rejection`.

    Raises:
        UsageError: it is no source of images, or has no end and `limit` is None.
    """
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
    has_numbers = length >= 0 and hasattr(source, "__getitem__")
    if hasattr(source, "__iter__"):
        items = _iter_past_errors(source, length) if has_numbers else iter(source)
        return items, length if length >= 0 else None
    if has_numbers:
        return _read_by_number(source, range(length)), length
    raise UsageError(
        "Expected a tf.data.Dataset, a Keras PyDataset, a Hugging Face data set, a PyTorch loader or data "
        f"set, or another iterable of images with targets. Received: {type(source).__name__}."
    )


def _require_end(has_end: bool, limit: int | None) -> None:
    if not has_end and limit is None:
        raise UsageError("The stream has no end. Say how many images to take from it: limit=10000.")


def _iter_past_errors(source: Any, length: int) -> Iterator[Any]:
    """Yield the rows of a data set; from the first error on, rows are read by number."""
    number = 0
    try:
        for number, item in enumerate(source, 1):  # noqa: B007
            yield item
    except Exception:  # of the user's own code, or of a decoder in it
        yield from _read_by_number(source, range(number, length))


def _read_by_number(source: Any, numbers: Iterable[int]) -> Iterator[Any]:
    for number in numbers:
        try:
            yield source[number]
        except Exception as error:
            yield Rejection("unreadable", shorten_error(error, most=160))


def split_items(
    items: Iterator[Any], source: Any, columns: tuple[str, str]
) -> tuple[Iterator[Pair], Any, int]:
    """Return the samples in items, the first item, and how many samples it holds.

    Args:
        items: what `iter_items` returned for the source.
        source: the source itself, which may say whether its items are batches.
        columns: names of image and target where items are dictionaries.

    Raises:
        DataError: there is no item.
        UsageError: the first item is no pair, or it is unclear whether items are batches.
    """
    first_items: list[Any] = []
    is_batched = _decide_layout(items, source, columns, first_items)
    first = next((item for item in first_items if not isinstance(item, Rejection)), None)
    size = len(list(_split_item(first, columns, is_batched)))
    pairs = (_split_item(item, columns, is_batched) for item in chain(first_items, items))
    return chain.from_iterable(pairs), first, size


def _decide_layout(
    items: Iterator[Any], source: Any, columns: tuple[str, str], first_items: list[Any]
) -> bool:
    """Return whether items are batches; append the items that were read to `first_items`.

    Raises:
        DataError, UsageError: see `split_items`.
    """
    unclear: list[Pair] = []
    for item in islice(items, MAX_LOOK_AHEAD):
        first_items.append(item)
        if isinstance(item, Rejection):
            continue
        try:
            image, target = _read_pair(item, columns)
        except UsageError:
            if all(isinstance(earlier, Rejection) for earlier in first_items[:-1]):
                raise
            continue
        is_batch = _is_batch(image, target)
        if is_batch is not None:
            return is_batch
        unclear.append((image, target))
    if not first_items:
        raise DataError("The stream holds nothing.")
    rows, height, width = max((image.shape for image, _ in unclear), default=(1, 0, 0))
    if rows == 1:
        return True  # an array (1, h, w) with one target is the same image either way
    if (is_batched := _read_declaration(source, columns)) is not None:
        return is_batched
    if len(unclear) >= ENOUGH_ROWS and all(_is_one_hot(target) for _, target in unclear):
        return False
    raise UsageError(
        f"An array of shape ({rows}, {height}, {width}) with {rows} targets may be {rows} grey images, or "
        f"one image whose channels come first. If it is grey images, add an axis for their channel: ({rows}, "
        f"{height}, {width}, 1). If it is one image, put its channels last: ({height}, {width}, {rows})."
    )


def _is_batch(image: Any, target: Any) -> bool | None:
    """Tell whether an item is a batch; None where its shape fits a sample just as well."""
    if isinstance(image, list | tuple):
        return True
    if not isinstance(image, np.ndarray):
        return False
    if image.ndim != 3:
        return image.ndim in (1, 4) or image.dtype == object
    if _count(target) != len(image) or image.shape[2] in (1, 3):
        return False
    return None if len(image) in (1, 3) else True


def _read_declaration(source: Any, columns: tuple[str, str]) -> bool | None:
    """Tell whether a source declares that its items are batches or samples; None if it says nothing."""
    if hasattr(source, "num_batches") or isinstance(getattr(source, "batch_size", None), int):
        return True  # Keras and the loaders of PyTorch
    if hasattr(source, "features") or not hasattr(source, "__iter__"):
        return False  # the data sets of Hugging Face and PyTorch
    try:
        _, target = _read_pair(getattr(source, "element_spec", None), columns)
        return True if next(iter(target.shape)) is None else None
    except Exception:  # it is not of tf.data, or the number of its axes is unknown
        return None


def _is_one_hot(target: Any) -> bool:
    """Tell whether a target is zeros and a single one."""
    return sorted(np.ravel(target).tolist()) == [0] * (np.size(target) - 1) + [1]


def _split_item(item: Any, columns: tuple[str, str], is_batched: bool) -> Iterable[Pair]:
    """Return the samples in an item, or the reason why there are none."""
    if isinstance(item, Rejection):
        return [(item, None)]
    try:
        image, target = _read_pair(item, columns)
    except UsageError as error:
        return [(Rejection("malformed_row", str(error)), None)]
    if not is_batched:
        return [(image, target)]
    counts = _count(image), _count(target)
    if counts[0] is None or counts[0] != counts[1]:
        received = " and ".join("one" if number is None else f"{number}" for number in counts)
        detail = f"expected as many targets as images in a batch, received {received}"
        return [(Rejection("malformed_row", detail), None)]
    return zip(map(_open_image, image), target, strict=True)


def _count(values: Any) -> int | None:
    """Return how many values there are; None for a single one."""
    is_many = isinstance(values, list | tuple) or (isinstance(values, np.ndarray) and values.ndim > 0)
    return len(values) if is_many else None


def _read_pair(item: Any, columns: tuple[str, str]) -> Pair:
    """Return image and target, or many of both, of a row or a batch."""
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
    return _open_image(image), to_plain(target)


def _open_image(value: Any) -> Any:
    """Return an image, or many, as `to_plain` does; a `Rejection` where its file cannot be read."""
    try:
        return to_plain(value)
    except OSError as error:
        return Rejection("unreadable", describe_os_error(error))


def to_plain(value: Any) -> Any:
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
