"""Texts that name several networks of one run: `a,b`, and what is stated once or for each of them."""

from __future__ import annotations

from pathlib import Path

from regraft.errors import UsageError

__all__ = ["AUTO", "join_items", "split_for_each", "split_networks"]

AUTO = "auto"  # as a backbone: the networks that `recommend` ranks first


def split_networks(backbone: str) -> tuple[str, ...]:
    """Return the networks that a backbone's text names: one, or several with commas between.

    A text that is a path on this disk names one network, even if it has a comma.

    Raises:
        UsageError: there is nothing on one side of a comma, or auto is one of several.

    Example:
        >>> split_networks("mobilenet_v2, own.keras")
        ('mobilenet_v2', 'own.keras')
    """
    names = _split(backbone)
    if len(names) == 1:
        return (backbone,)
    if "" in names:
        raise UsageError(f"backbone: expected a network on each side of a comma. Received: {backbone}.")
    if AUTO in names:
        raise UsageError(f"backbone: expected auto alone, or networks by name. Received: {backbone}.")
    return names


def split_for_each(text: str, count: int, setting: str) -> tuple[str, ...]:
    """Return a setting of each of `count` networks, from one item for all or one for each.

    Args:
        text: items with commas between; a path on this disk is one item.
        count: number of networks.
        setting: its name, for the message.

    Raises:
        UsageError: there is another number of items.

    Example:
        >>> split_for_each("imagenet", 2, "weights"), split_for_each("a.h5,imagenet", 2, "weights")
        (('imagenet', 'imagenet'), ('a.h5', 'imagenet'))
    """
    items = _split(text)
    if len(items) not in (1, count):
        raise UsageError(
            f"{setting}: expected one, or one for each of {count} networks, with commas between. "
            f"Received: {len(items)}, {text}."
        )
    return items * count if len(items) == 1 else items


def join_items(items: tuple[str, ...] | list[str]) -> str:
    """Return the text that `split_for_each` takes apart: one item if all are alike.

    >>> join_items(["imagenet", "imagenet"]), join_items(["a.h5", "imagenet"])
    ('imagenet', 'a.h5,imagenet')
    """
    return items[0] if len(set(items)) == 1 else ",".join(items)


def _split(text: str) -> tuple[str, ...]:
    if "," not in text or Path(text).exists():
        return (text,)
    return tuple(item.strip() for item in text.split(","))
