"""The command `regraft cache`."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

import regraft.cli.options as opt
from regraft.errors import UsageError
from regraft.system.console import format_bytes, make_printable

if TYPE_CHECKING:
    from regraft.features.store_usage import StoredEntry

__all__ = ["cache"]


def cache(
    *,
    clear: Annotated[bool, typer.Option("--clear", help="Delete entries, all or see --older-than.")] = False,
    older_than: Annotated[
        float | None,
        typer.Option(
            "--older-than",
            metavar="DAYS",
            help="Days since the last use of what --clear deletes. [default: 0]",
        ),
    ] = None,
    as_json: opt.JsonFlag = False,
    store: opt.StoreOption = None,
) -> None:
    """Show what the store of computed features holds and how large it is, or clear it."""
    from regraft.features.store_usage import clear_entries, list_entries
    from regraft.system.cache_dir import get_default_root

    root = (store or get_default_root()).absolute()
    if older_than is not None and not clear:
        raise UsageError("--older-than: expected it together with --clear. Received it alone.")
    if older_than is not None and not older_than >= 0:
        raise UsageError(f"--older-than: expected days, 0 or more. Received: {older_than:g}.")
    if store is not None and not root.is_dir():
        raise UsageError(f"--store: expected the folder of a store. There is none at {root}.")
    deleted: list[StoredEntry] = []
    if clear:
        deleted, entries = clear_entries(root, older_than=older_than or 0.0)
    else:
        entries = list_entries(root)
    if as_json:
        print(json.dumps({"store": str(root), "entries": _to_json(entries), "deleted": _to_json(deleted)}))
        return
    if clear:
        print(f"Freed {format_bytes(_add_sizes(deleted))}: {_count(deleted)} deleted.")
    print(f"{make_printable(str(root))}: {format_bytes(_add_sizes(entries))} in {_count(entries)}.")
    _print_kinds(entries)


def _print_kinds(entries: list[StoredEntry]) -> None:
    """Print a line for each kind of entry, and each entry that has a description."""
    for kind in dict.fromkeys(entry.kind for entry in entries):
        of_kind = [entry for entry in entries if entry.kind == kind]
        print(f"  {kind:<24} {format_bytes(_add_sizes(of_kind)):>9}  {_count(of_kind)}")
        for entry in of_kind:
            if entry.description:
                day = datetime.date.fromtimestamp(entry.last_used)
                print(f"    {format_bytes(entry.size):>9}  used {day}  {make_printable(entry.description)}")


def _count(entries: list[StoredEntry]) -> str:
    return f"{len(entries):,} {'entry' if len(entries) == 1 else 'entries'}"


def _add_sizes(entries: list[StoredEntry]) -> int:
    return sum(entry.size for entry in entries)


def _to_json(entries: list[StoredEntry]) -> list[dict[str, Any]]:
    return [
        {
            "kind": entry.kind,
            "path": str(entry.path),
            "bytes": entry.size,
            "days_since_use": round(entry.days, 3),
            "key": entry.description,
        }
        for entry in entries
    ]
