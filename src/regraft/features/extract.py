"""catalog + network + engine + store -> `Features`: every image through the frozen part, once.

Images are decoded by child processes while the network runs over those that are ready. What the store
already has is not computed again, and not decoded either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray

from regraft.console import track
from regraft.data.catalog import Catalog, Refused, Sample
from regraft.data.decode import DECODER, Facts, Refusal
from regraft.data.workers import DecodeAhead, Job
from regraft.features.engine import BATCH, Engine, engine_name, fingerprint, make_engine
from regraft.features.store import Entries, Store

__all__ = ["Features", "extract_features", "feature_key", "jobs_for", "pixel_key"]

SHARD = 256  # images stored at a time


class Features:
    """The tensors of a catalog's images, read from the store.

    Attributes:
        computed, reused: how many distinct images were computed now, and found.
        refused: files that turned out not to be usable, one entry a file.
    """

    def __init__(self, entries: Entries, *, computed: int, reused: int, refused: Sequence[Refused]) -> None:
        self._entries = entries
        self.computed = computed
        self.reused = reused
        self.refused = tuple(refused)

    def matrix(self, samples: Sequence[Sample], name: str) -> NDArray[Any]:
        """One named tensor: array of shape (len(samples), ...), in the order of `samples`."""
        return self._entries.read([sample.digest for sample in samples], name)

    def facts(self, sample: Sample) -> Facts:
        """What the decoder learnt of an image."""
        return self._entries.facts(sample.digest)


class _Image(NamedTuple):
    digest: str
    pixels: NDArray[np.uint8]
    facts: Facts


@dataclass(frozen=True)
class _Need:
    """What is not in the store yet: tensors of the network, pixels to keep."""

    features: frozenset[str]
    pixels: frozenset[str]


def pixel_key(size: int) -> str:
    """The store's key of decoded pixels."""
    return f"pixels\n{DECODER}\nsize {size}"


def feature_key(name: str, size: int) -> str:
    """The store's key of what the network with this fingerprint makes of an image (view 0: as it is)."""
    return f"prefix {name}\n{DECODER}\nsize {size}\nengine {engine_name()}\nview 0"


def jobs_for(catalog: Catalog, digests: Sequence[str]) -> list[Job]:
    """The files to decode for some contents, one for each."""
    where = {sample.digest: catalog.root / sample.path for sample in catalog.samples}
    return [Job(where[digest], digest) for digest in digests]


def extract_features(
    network: keras.Model,
    catalog: Catalog,
    *,
    store: Store,
    keep_pixels: bool = False,
    ahead: DecodeAhead | None = None,
) -> Features:
    """Run a frozen network over the images the store does not have yet.

    Args:
        network: float RGB pixels (b, size, size, 3) in 0..255 -> dictionary of named tensors.
        catalog: the images.
        store: where results are looked up and kept.
        keep_pixels: also keep decoded pixels, for phases that train on them.
        ahead: decoding that was begun earlier; used if it covers what is needed.

    Raises:
        EnvironmentFault: the store cannot be written.
    """
    size = network.inputs[0].shape[1]
    name = fingerprint(network)
    entries = store.entries(feature_key(name, size))
    kept = store.entries(pixel_key(size))
    contents = list(dict.fromkeys(sample.digest for sample in catalog.samples))
    missing = entries.missing(contents)
    need = _Need(frozenset(missing), frozenset(kept.missing(contents) if keep_pixels else ()))
    stored = [digest for digest in missing if digest not in kept.missing(missing)]
    todo = [digest for digest in contents if digest in need.features | need.pixels and digest not in stored]
    refusals: dict[str, Refusal] = {}
    if stored or todo:
        engine = make_engine(network, store.folder("engines", name)) if missing else None
        with _decoding(catalog, todo, size, ahead) as decoding, track("Frozen features", len(todo) + len(stored)) as bar:
            images = _images(stored, kept, decoding, refusals)
            while chunk := list(islice(images, SHARD)):
                _compute(chunk, need, engine, entries, kept)
                bar(len(chunk))
            bar(len(refusals))
    refused = [Refused(s.path, refusals[s.digest].code, refusals[s.digest].detail) for s in catalog.samples if s.digest in refusals]
    computed = len([digest for digest in missing if digest not in refusals])
    return Features(entries, computed=computed, reused=len(contents) - len(missing), refused=refused)


def _decoding(catalog: Catalog, todo: list[str], size: int, ahead: DecodeAhead | None) -> DecodeAhead:
    if ahead is not None:
        if ahead.size == size and [job.digest for job in ahead.jobs] == todo:
            return ahead
        ahead.close()
    return DecodeAhead(jobs_for(catalog, todo), size)


def _images(
    stored: list[str], kept: Entries, decoding: DecodeAhead, refusals: dict[str, Refusal]
) -> Iterator[_Image]:
    for digest in stored:
        yield _Image(digest, kept.read([digest], "pixels")[0], kept.facts(digest))
    for job, result in zip(decoding.jobs, decoding, strict=True):
        if isinstance(result, Refusal):
            refusals[job.digest] = result
        else:
            yield _Image(job.digest, result.pixels, result.facts)


def _compute(chunk: list[_Image], need: _Need, engine: Engine | None, entries: Entries, kept: Entries) -> None:
    facts = {image.digest: image.facts for image in chunk}
    fresh = [image for image in chunk if image.digest in need.pixels]
    if fresh:
        pixels = np.stack([image.pixels for image in fresh])
        kept.put([image.digest for image in fresh], {"pixels": pixels}, facts)
    fresh = [image for image in chunk if image.digest in need.features]
    if fresh and engine is not None:
        batches = (
            np.stack([image.pixels for image in fresh[at : at + BATCH]]) for at in range(0, len(fresh), BATCH)
        )
        outputs = list(engine.run(batches))
        tensors = {name: np.concatenate([output[name] for output in outputs]) for name in outputs[0]}
        entries.put([image.digest for image in fresh], tensors, facts)
