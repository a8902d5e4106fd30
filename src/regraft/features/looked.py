"""catalog + store -> what the decoder learns of every image, where no network is to see it.

A network that saw them has left it in the store, and one that sees them later finds it there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from regraft.console import Reporter
from regraft.data.catalog import Catalog, Refused
from regraft.data.decode import Facts
from regraft.data.refusal import Refusal
from regraft.data.workers import DecodeAhead, jobs_for
from regraft.features.facts import as_tensors, facts_key, read_facts
from regraft.features.store import Store
from regraft.features.writer import Writer

__all__ = ["look_at"]


def look_at(
    catalog: Catalog, *, store: Store, size: int, reporter: Reporter
) -> tuple[dict[str, Facts], list[Refused]]:
    """Decode every image that was not looked at before.

    Args:
        catalog: the images; of a sample of several, all.
        store: where facts are looked up and kept.
        size: side in pixels to decode at: that of the network which may see the images later, so that the
            verdicts are those of its run.
        reporter: shows how far it is.

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
        DecodeAhead(jobs_for(catalog, missing), size) as decoding,
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
