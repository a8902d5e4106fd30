"""Store what the decoder learns of images: once per image, whichever networks see it later.

These facts have a key of their own, which names no network, view or precision. It lists the notes that exist,
so a new kind of note is looked for in every image.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from regraft.data.catalog import Catalog, RejectedFile
from regraft.data.images.decode import THUMBNAIL, ImageFacts
from regraft.data.images.decoder_name import name_decoder
from regraft.data.images.decoder_pool import DecodingPool
from regraft.data.images.rejections import NOTES, Rejection
from regraft.data.images.sample_range import FULL_DEPTH
from regraft.features.store import Entries, ShardWriter, Store
from regraft.system.console import Reporter

__all__ = ["decode_missing", "facts_key", "facts_to_tensors", "read_facts"]

# The bytes of a row; another layout needs another key. The longest name of a format has 5 letters.
RECORD = np.dtype(
    [
        ("size", "<u4", (2,)),
        ("format", "S8"),
        ("notes", "?", (len(NOTES),)),
        ("thumbnail", "u1", (3 * THUMBNAIL**2,)),
        ("highest", "<u2"),
    ]
)


def facts_key(size: int, depth: int = FULL_DEPTH) -> str:
    """Return the store's key of facts that are learnt by decoding to this side in pixels.

    `depth` is how many bits of 16-bit samples are used.
    """
    return f"facts\n{name_decoder(depth)}\nsize {size}\nnotes {' '.join(NOTES)}"


def facts_to_tensors(facts: Sequence[ImageFacts]) -> dict[str, NDArray[np.uint8]]:
    """Return facts as one tensor called "facts", uint8 (n, bytes of a `RECORD`).

    Example:
        >>> facts_to_tensors([ImageFacts(640, 480, "JPEG", ("uniform",))])["facts"][0, :4].view("<u4")
        array([640], dtype=uint32)
    """
    records = np.zeros(len(facts), RECORD)
    for record, image in zip(records, facts, strict=True):
        record["size"] = image.width, image.height
        record["format"] = image.format.encode("ascii")
        record["notes"] = [note in image.notes for note in NOTES]
        record["thumbnail"] = np.frombuffer(image.thumbnail, np.uint8)
        record["highest"] = image.highest
    return {"facts": records.view(np.uint8).reshape(len(facts), RECORD.itemsize)}


def read_facts(entries: Entries, digests: Sequence[str]) -> list[ImageFacts]:
    """Read the facts of images, in the order of `digests`.

    Args:
        entries: the store's entries under `facts_key`.
        digests: the images.

    Raises:
        KeyError: an image has no sound row.
        EnvironmentFault: the store cannot be read any more.
    """
    if not digests:
        return []
    records = entries.read(digests, "facts").view(RECORD)[:, 0]
    columns = (records[name].tolist() for name in ("size", "format", "notes", "highest"))
    return [
        ImageFacts(
            width, height, kind.decode("ascii"), tuple(compress(NOTES, flags)), thumbnail.tobytes(), highest
        )
        for (width, height), kind, flags, highest, thumbnail in zip(
            *columns, records["thumbnail"], strict=True
        )
    ]


def decode_missing(
    catalog: Catalog, *, store: Store, size: int, reporter: Reporter
) -> tuple[dict[str, ImageFacts], list[RejectedFile]]:
    """Decode every image whose facts are not stored yet.

    Args:
        catalog: the images, all of them where a sample has several.
        store: where facts are looked up and kept.
        size: side in pixels to decode at: that of the network which may see the images later, so that a run
            with it accepts and refuses the same files.

    Returns:
        Facts by digest, and an entry for every file that cannot be used, copies included.

    Raises:
        EnvironmentFault: the store cannot be written, or no decoding process can be started.

    Example:
        catalog = Catalog.from_folder("photos")
        facts, refused = decode_missing(catalog, store=Store(), size=224, reporter=TERMINAL)
    """
    entries = store.entries(facts_key(size, catalog.depth))
    missing = entries.find_missing(catalog.digests)
    rejections: dict[str, Rejection] = {}
    with (
        reporter.track("Decoded", len(missing)) as advance,
        DecodingPool(catalog.make_jobs(missing), size, depth=catalog.depth) as decoding,
        ThreadPoolExecutor(1) as thread,
    ):
        writer = ShardWriter(entries, thread)
        for digest, result in zip(missing, decoding, strict=True):
            if isinstance(result, Rejection):
                rejections[digest] = result
            else:
                writer.add([digest], facts_to_tensors([result.facts]))
            advance(1)
        writer.close()
    usable = [digest for digest in catalog.digests if digest not in rejections]
    facts = dict(zip(usable, read_facts(entries, usable), strict=True))
    return facts, catalog.find_rejected_files(rejections)
