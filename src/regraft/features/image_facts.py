"""What the decoder learnt of images, as rows of the store: once an image, whatever sees it later.

They lie under a key of their own, which names no network, view or precision. Which notes there are is part of
it: a note that is new is looked for in every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, Refused
from regraft.data.images.decode import THUMBNAIL, Facts
from regraft.data.images.decoder_name import DECODER
from regraft.data.images.decoder_pool import DecodeAhead
from regraft.data.images.rejections import NOTES, Refusal
from regraft.features.store import Entries, Store, Writer
from regraft.system.console import Reporter

__all__ = ["as_tensors", "facts_key", "look_at", "read_facts"]

# The bytes of a row: another layout is another `store.FORM`. The longest name of a format has five letters.
RECORD = np.dtype(
    [
        ("size", "<u4", (2,)),
        ("format", "S8"),
        ("notes", "?", (len(NOTES),)),
        ("thumbnail", "u1", (3 * THUMBNAIL**2,)),
    ]
)


def facts_key(size: int) -> str:
    """The key of what is learnt by decoding to this side in pixels."""
    return f"facts\n{DECODER}\nsize {size}\nnotes {' '.join(NOTES)}"


def as_tensors(facts: Sequence[Facts]) -> dict[str, NDArray[np.uint8]]:
    """Facts as a tensor, a `RECORD` an image: "facts", (n, bytes of a record).

    Example:
        >>> as_tensors([Facts(640, 480, "JPEG", ("uniform",))])["facts"][0, :4].view("<u4")
        array([640], dtype=uint32)
    """
    records = np.zeros(len(facts), RECORD)
    for record, each in zip(records, facts, strict=True):
        record["size"] = each.width, each.height
        record["format"] = each.format.encode("ascii")
        record["notes"] = [note in each.notes for note in NOTES]
        record["thumbnail"] = np.frombuffer(each.thumbnail, np.uint8)
    return {"facts": records.view(np.uint8).reshape(len(facts), RECORD.itemsize)}


def read_facts(entries: Entries, digests: Sequence[str]) -> list[Facts]:
    """The facts of images, in the order given.

    Args:
        entries: those of `facts_key`.
        digests: of the images.

    Raises:
        KeyError: one of them has no sound row.
        EnvironmentFault: the store cannot be read any more.
    """
    if not digests:
        return []
    records = entries.read(digests, "facts").view(RECORD)[:, 0]
    sizes, formats, notes = (records[name].tolist() for name in ("size", "format", "notes"))
    return [
        Facts(width, height, kind.decode("ascii"), tuple(compress(NOTES, made)), small.tobytes())
        for (width, height), kind, made, small in zip(
            sizes, formats, notes, records["thumbnail"], strict=True
        )
    ]


def look_at(
    catalog: Catalog, *, store: Store, size: int, reporter: Reporter
) -> tuple[dict[str, Facts], list[Refused]]:
    """Decode every image that was not looked at before.

    Args:
        catalog: the images; of a sample of several, all.
        store: where facts are looked up and kept.
        size: side in pixels to decode at: that of the network which may see the images later, so that the
            verdicts are those of its run.

    Returns:
        Facts by digest, and an entry for every file that cannot be used, copies included.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.

    Example:
        catalog = Catalog.from_folder("photos")
        facts, refused = look_at(catalog, store=Store(), size=224, reporter=TERMINAL)
    """
    contents = catalog.contents
    entries = store.entries(facts_key(size))
    missing = entries.missing(contents)
    refusals: dict[str, Refusal] = {}
    with (
        reporter.track("Decoded", len(missing)) as advance,
        DecodeAhead(catalog.jobs(missing), size) as decoding,
        ThreadPoolExecutor(1) as thread,
    ):
        writer = Writer(entries, thread)
        for digest, result in zip(missing, decoding, strict=True):
            if isinstance(result, Refusal):
                refusals[digest] = result
            else:
                writer.add([digest], as_tensors([result.facts]))
            advance(1)
        writer.close()
    known = [digest for digest in contents if digest not in refusals]
    return dict(zip(known, read_facts(entries, known), strict=True)), catalog.refused_for(refusals)
